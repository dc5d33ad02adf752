"""The resource pass: latency and memory around real prompts. The clock and the memory probe are arguments."""

import ctypes
import gc
import os
import platform
import subprocess
import time
from pathlib import Path

import psutil


def time_texts(prepare, produce, requests, new_tokens, warmup_tokens, clock=time.perf_counter, synchronize=lambda: None):
    """Time texts one at a time, in the order given, after one of `warmup_tokens` tokens that is not timed.

    prepare(request) gives the inputs, outside the clock; produce(inputs, n) generates exactly n tokens and returns token ids
    of shape (1, prompt + n). Each request is generated twice: one token, which gives ttft_s (prefill and the first token),
    and all of them, which gives latency_s. No clock is read between tokens, since waiting for each would slow them.
    Returns raw readings [{prompt_id, emotion, sample, repetition, ttft_s, latency_s, new_tokens, token_ids}], seconds.
    """
    produce(prepare(requests[0]), warmup_tokens)
    readings = []
    for request in requests:
        inputs = prepare(request)
        gc.collect()
        gc.disable()
        try:
            synchronize()
            start = clock()
            produce(inputs, 1)
            synchronize()
            between = clock()
            output = produce(inputs, new_tokens)
            synchronize()
            end = clock()
        finally:
            gc.enable()
        kept = {key: request[key] for key in ("prompt_id", "emotion", "sample", "repetition")}
        token_ids = output[0, -new_tokens:].tolist()
        times = {"ttft_s": between - start, "latency_s": end - between}
        readings.append({**kept, **times, "new_tokens": len(token_ids), "token_ids": token_ids})
    return readings


class RssProbe:
    """Reads the peak of this process's resident memory above a base, on Linux; elsewhere its readings are None (unknown).

    Make it after all imports and before the model is loaded: the base is what is resident then.
    """

    kind = "rss"
    _status, _reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def __init__(self):
        self.base_bytes = psutil.Process().memory_info().rss

    def start(self):
        """Begin a phase: give freed memory back to the system, and set the kernel's peak to what is resident now."""
        gc.collect()
        try:
            # What loading freed would otherwise stay with the allocator and count as resident.
            ctypes.CDLL(None).malloc_trim(0)
        except (AttributeError, OSError, TypeError):
            pass  # not the GNU C library
        try:
            self._reset.write_text("5")
        except OSError:
            self._status = Path("/nonexistent")  # a peak that cannot be reset is no reading of a phase

    def read(self):
        """Give {peak_bytes} since `start`, above the base."""
        try:
            lines = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
        except OSError:
            return {"peak_bytes": None}
        return {"peak_bytes": int(lines["VmHWM"].split()[0]) * 1024 - self.base_bytes}


class CudaProbe:
    """Reads the CUDA allocator's peaks, and the device's own view of memory in use (all processes)."""

    kind = "vram_allocated"

    def __init__(self):
        import torch

        self.cuda = torch.cuda
        self.base_bytes = self.cuda.memory_allocated()

    def start(self):
        """Begin a phase: return cached blocks and reset the peaks."""
        gc.collect()
        self.cuda.synchronize()
        self.cuda.empty_cache()
        self.cuda.reset_peak_memory_stats()

    def read(self):
        """Give {peak_bytes, reserved_peak_bytes, device_used_bytes} since `start`."""
        self.cuda.synchronize()
        free, total = self.cuda.mem_get_info()
        return {
            "peak_bytes": self.cuda.max_memory_allocated(),
            "reserved_peak_bytes": self.cuda.max_memory_reserved(),
            "device_used_bytes": total - free,
        }


def instruments(device):
    """Give (memory probe, synchronize) for a torch device."""
    if device == "cpu":
        return RssProbe(), lambda: None
    import torch

    return CudaProbe(), torch.cuda.synchronize


def hardware(device):
    """Describe the device in words and numbers; what cannot be read is None."""
    import torch

    cpu = device == "cpu"
    return {
        "device": device,
        "device_name": _processor() if cpu else torch.cuda.get_device_name(),
        "cuda": None if cpu else torch.version.cuda,
        "driver": None if cpu else _driver(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total if cpu else torch.cuda.get_device_properties(0).total_memory,
    }


def _driver():
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def over_batches(readings):
    """Sum up the readings of a pass by batch, {quality_s, *_bytes}: its seconds, and the highest of each reading of memory.

    What is unknown for one batch is unknown for the pass.
    """
    names = [name for name in readings[0] if name.endswith("peak_bytes") or name == "device_used_bytes"]
    highest = {}
    for name in names:
        values = [reading[name] for reading in readings]
        highest[name] = None if None in values else max(values)
    return sum(reading["quality_s"] for reading in readings), highest


def since_start():
    """Give the seconds since this process began: at the start of a notebook's work, what its imports took."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the system's start; proc(5)
    except OSError:  # not Linux
        return time.time() - psutil.Process().create_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")  # no clock that somebody sets
