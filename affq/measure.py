"""The resource pass: latency and memory around real prompts. The clock and the memory probe are arguments."""

import ctypes
import gc
import os
import platform
import subprocess
import threading
import time
from pathlib import Path

import psutil

SAMPLE_S = 0.02  # between two readings of the memory of several GPUs


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
    """Reads the CUDA allocator's peaks, and the devices' own view of memory in use (all processes).

    cuda: torch.cuda. With several devices the peak is that of their sum in time, since their own peaks need not coincide; it is
    sampled every SAMPLE_S, so that a shorter peak can be missed.
    """

    kind = "vram_allocated"

    def __init__(self, cuda):
        self.cuda, self.devices = cuda, range(cuda.device_count())
        self.base_bytes = self._sum_bytes()
        self._sampling = None

    def start(self):
        """Begin a phase: return cached blocks and reset the peaks."""
        gc.collect()
        self.synchronize()
        self.cuda.empty_cache()
        for device in self.devices:
            self.cuda.reset_peak_memory_stats(device)
        if len(self.devices) > 1:
            self._sampling = _Highest(self._sum_bytes)

    def read(self):
        """Give {peak_bytes, reserved_peak_bytes, device_used_bytes} since `start`; of several devices cuda<n>_peak_bytes too.

        Reserved memory only grows within a phase: the sum of its peaks is the peak of its sum.
        """
        self.synchronize()
        peaks = {f"cuda{device}_peak_bytes": self.cuda.max_memory_allocated(device) for device in self.devices}
        used = [total - free for free, total in map(self.cuda.mem_get_info, self.devices)]
        return {
            "peak_bytes": self._sampling.end() if self._sampling else sum(peaks.values()),
            "reserved_peak_bytes": sum(map(self.cuda.max_memory_reserved, self.devices)),
            "device_used_bytes": sum(used),
            **(peaks if len(peaks) > 1 else {}),
        }

    def synchronize(self):
        """Wait until every device has done what it was asked for."""
        for device in self.devices:
            self.cuda.synchronize(device)

    def _sum_bytes(self):
        return sum(map(self.cuda.memory_allocated, self.devices))


class _Highest:
    """Samples a reading in a thread of its own, every SAMPLE_S from its making to `end`, which gives the highest."""

    def __init__(self, read):
        self._read, self._ended = read, threading.Event()
        self._value = read()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self):
        while not self._ended.wait(SAMPLE_S):
            self._value = max(self._value, self._read())

    def end(self):
        self._ended.set()
        self._thread.join()
        self._value = max(self._value, self._read())
        return self._value


def instruments(device):
    """Give (memory probe, synchronize) for a torch device."""
    if device == "cpu":
        return RssProbe(), lambda: None
    import torch

    probe = CudaProbe(torch.cuda)
    return probe, probe.synchronize


def hardware(device):
    """Describe the device in words and numbers; what cannot be read is None."""
    import torch

    cpu = device == "cpu"
    return {
        "device": device,
        "device_name": _processor() if cpu else torch.cuda.get_device_name(),
        "devices": None if cpu else torch.cuda.device_count(),
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
