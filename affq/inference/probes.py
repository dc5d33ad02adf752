"""Read memory, phase by phase, and describe the hardware. What cannot be read is "unknown", never zero."""

import ctypes
import gc
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import psutil

SAMPLE_S = 0.02  # between two readings of the memory of several GPUs
UNKNOWN = "unknown"

Readings = dict[str, int | str]  # bytes by name, or UNKNOWN
Clock = Callable[[], float]  # gives seconds, when the device has done what it was asked for


class Probe(Protocol):
    """Reads a device's memory, in bytes, phase by phase.

    kind: what its peaks are peaks of. base: what was in use when it was made.
    """

    kind: str
    base: Readings

    def start(self) -> None:
        """Begin a phase."""

    def read(self) -> Readings:
        """Return {peak_bytes, held_bytes, …} of the phase that began with `start`: held is what stays after it."""

    def free_bytes(self) -> int:
        """Return the memory that may still be taken."""


class RssProbe:
    """Reads a process's resident memory above a base: its peak in a phase, on Linux, and what is held after it.

    Make it after all imports and before the model is loaded: the base is what is resident then. pid: of another process than this
    one, whose freed memory it gives back by itself.
    """

    kind = "rss"

    def __init__(self, pid: int | None = None) -> None:
        self._process, self._own = psutil.Process(pid), pid is None
        self._status, self._reset = (Path(f"/proc/{self._process.pid}/{file}") for file in ("status", "clear_refs"))
        self._base_bytes = self._process.memory_info().rss
        self.base: Readings = {"base_bytes": self._base_bytes}

    def free_bytes(self) -> int:
        """Return the memory that this process may still take."""
        return free_bytes()

    def start(self) -> None:
        """Begin a phase: give freed memory back to the system, and set the kernel's peak to what is resident now."""
        self._trim()
        try:
            self._reset.write_text("5")
        except OSError:
            self._status = Path("/nonexistent")  # a peak that cannot be reset is no reading of a phase

    def read(self) -> Readings:
        """Return {peak_bytes, held_bytes} above the base: the peak since `start`, and what stays once freed memory is gone."""
        try:
            lines = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
            peak_bytes: int | str = int(lines["VmHWM"].split()[0]) * 1024 - self._base_bytes
        except OSError:
            peak_bytes = UNKNOWN
        self._trim()
        return {"peak_bytes": peak_bytes, "held_bytes": self._process.memory_info().rss - self._base_bytes}

    def _trim(self) -> None:
        if not self._own:
            return
        gc.collect()
        try:
            # What was freed would otherwise stay with the allocator and count as resident.
            ctypes.CDLL(None).malloc_trim(0)
        except (AttributeError, OSError, TypeError):
            pass  # not the GNU C library


class CudaProbe:
    """Reads the CUDA allocator's peaks, and the devices' own view of memory in use (all processes), before and after a phase.

    cuda: torch.cuda. With several devices the peak is that of their sum in time, since their own peaks need not coincide; it is
    sampled every SAMPLE_S, so that a shorter peak can be missed.
    """

    kind = "vram_allocated"

    def __init__(self, cuda: ModuleType) -> None:
        self.cuda, self.devices = cuda, range(cuda.device_count())
        self.base: Readings = {"base_bytes": self._sum(cuda.memory_allocated), "base_device_used_bytes": self._used_bytes()}
        self._sampling: _Highest | None = None
        self._before: Readings = {}

    def start(self) -> None:
        """Begin a phase: return cached blocks, reset the peaks, and read what is in use before it."""
        self._empty()
        for device in self.devices:
            self.cuda.reset_peak_memory_stats(device)
        self._before = {
            "before_bytes": self._sum(self.cuda.memory_allocated),
            "reserved_before_bytes": self._sum(self.cuda.memory_reserved),
            "device_used_before_bytes": self._used_bytes(),
        }
        if len(self.devices) > 1:
            self._sampling = _Highest(lambda: self._sum(self.cuda.memory_allocated))

    def read(self) -> Readings:
        """Return allocated, reserved and the devices' own view since `start`: before, peak and after, in bytes.

        {peak_bytes, held_bytes (allocated after), before_bytes, reserved_before_bytes, reserved_peak_bytes,
        device_used_before_bytes, device_used_bytes (after, cached blocks included)}; of several devices cuda<n>_peak_bytes too.
        Reserved memory only grows within a phase: the sum of its peaks is the peak of its sum.
        """
        self.synchronize()
        peaks = {f"cuda{device}_peak_bytes": self.cuda.max_memory_allocated(device) for device in self.devices}
        readings = {
            "peak_bytes": self._sampling.end() if self._sampling else sum(peaks.values()),
            "reserved_peak_bytes": self._sum(self.cuda.max_memory_reserved),
            "device_used_bytes": self._used_bytes(),
            **self._before,
            **(peaks if len(peaks) > 1 else {}),
        }
        self._empty()
        return readings | {"held_bytes": self._sum(self.cuda.memory_allocated)}

    def synchronize(self) -> None:
        """Wait until every device has done what it was asked for."""
        for device in self.devices:
            self.cuda.synchronize(device)

    def free_bytes(self) -> int:
        """Return the free memory of all devices together."""
        return sum(free for free, _ in map(self.cuda.mem_get_info, self.devices))

    def _empty(self) -> None:
        gc.collect()
        self.synchronize()
        self.cuda.empty_cache()

    def _sum(self, read: Callable[[int], int]) -> int:
        return sum(map(read, self.devices))

    def _used_bytes(self) -> int:
        return sum(total - free for free, total in map(self.cuda.mem_get_info, self.devices))


class _Highest:
    """Samples a reading in a thread of its own, every SAMPLE_S from its making to `end`, which returns the highest."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read, self._ended = read, threading.Event()
        self._value = read()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self._value = max(self._value, self._read())

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        self._value = max(self._value, self._read())
        return self._value


class UnknownProbe:
    """Stands where no memory can be read: that of another machine, or of a server that does not tell."""

    kind = UNKNOWN

    def __init__(self) -> None:
        self.base: Readings = {}

    def start(self) -> None:
        """Begin a phase, of which nothing will be known."""

    def read(self) -> Readings:
        """Return {peak_bytes, held_bytes}, both unknown."""
        return {"peak_bytes": UNKNOWN, "held_bytes": UNKNOWN}

    def free_bytes(self) -> int:
        """Return 0: of no memory it is known that it is free."""
        return 0


class PrefillAndDecode:
    """Reads a probe over one generation in two phases, parted at its first token: call `at_token` after each token.

    Make it when the generation begins. Where a phase ends, freed memory is given back, so that nothing is timed meanwhile.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.phases: dict[str, Readings] = {}
        probe.start()

    def at_token(self) -> None:
        """Part the phases, at the first call."""
        if not self.phases:
            self.phases["prefill"] = self.probe.read()
            self.probe.start()

    def read(self) -> dict[str, Readings]:
        """Return the probe's readings of each phase, prefill and decode."""
        return self.phases | {"decode": self.probe.read()}


def instruments(device: str) -> tuple[Probe, Clock]:
    """Return the memory probe and the clock for a torch device, cpu or cuda."""
    if device == "cpu":
        return RssProbe(), time.perf_counter
    import torch

    probe = CudaProbe(torch.cuda)

    def clock() -> float:
        probe.synchronize()
        return time.perf_counter()

    return probe, clock


def settle() -> None:
    """Prepare a process whose model is loaded for measuring.

    What is loaded stays, and is not looked through at each collection of garbage, which would take a tenth of a second. Torch
    keeps the number of threads that it chose for this machine: no library changes it meanwhile.
    """
    import torch

    gc.collect()
    gc.freeze()
    torch.set_num_threads(torch.get_num_threads())


def hardware(device: str) -> dict[str, Any]:
    """Return a description of the device, cpu or cuda, in words and numbers; what cannot be read is None.

    server: of the machine that asks it, and measures how long that takes.
    """
    import torch

    cpu = device != "cuda"
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


def nvidia_smi(fields: list[str], of: str = "gpu") -> list[list[str]]:
    """Ask the driver's own tool; return the words of each GPU (or of each process, of="compute-apps"), nothing without it."""
    query = ["nvidia-smi", f"--query-{of}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    return [[word.strip() for word in line.split(",")] for line in lines if line.strip()]


def _driver() -> str | None:
    rows = nvidia_smi(["driver_version"])
    return rows[0][0] if rows else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def free_bytes() -> int:
    """Return the memory that is available: the machine's, or what this process's control group leaves of its limit."""
    free = psutil.virtual_memory().available
    for group in memory_groups():
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                free = min(free, int((group / limit).read_text()) - int((group / used).read_text()))
            except (OSError, ValueError):  # no such file, or "max": no limit
                continue
    return free


def memory_groups() -> list[Path]:
    """Return the folders of this process's memory control group, as the machine sees it and as a container does."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    folders = []
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            folders += [root / "memory" / path.lstrip("/"), root / "memory"]
        elif not controllers:
            folders += [root / path.lstrip("/"), root]
    return folders
