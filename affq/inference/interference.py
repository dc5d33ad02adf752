"""Was the measurement disturbed? Load of other processes, throttling and swapping, before it and during it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from affq.inference.probes import UNKNOWN, nvidia_smi

# How long the machine is watched at rest before a measurement: a processor's counters go by hundredths of a second, and a GPU
# says how busy it was over up to one.
REST_S = {"cpu": 0.3, "cuda": 1.2, "server": 0.3}
OTHERS = 0.1  # processors that others may take on average: affq itself and an idle system stay under a twentieth
STOLEN = 0.02  # share of a processor that a virtual machine's host may take
GPU_BUSY = 5  # per cent of time that a GPU may be busy while this process rests
# Bits of the driver's reasons for a lower clock: power cap, hardware slowdown, heat (software, hardware), power brake.
THROTTLING = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


class DisturbanceKind(StrEnum):
    """What can disturb a measurement."""

    OTHER_PROCESSES = "other_processes"
    STOLEN = "stolen"
    QUOTA = "quota"
    HEAT = "heat"
    SWAPPING = "swapping"
    GPU_BUSY = "gpu_busy"
    GPU_SLOWED = "gpu_slowed"
    GPU_SHARED = "gpu_shared"


PHRASES = {
    DisturbanceKind.OTHER_PROCESSES: "other processes took {amount:.1f} processors {when}",
    DisturbanceKind.STOLEN: "the machine's host took {amount:.2f} processors {when}",
    DisturbanceKind.QUOTA: "stopped at its quota {when}",
    DisturbanceKind.HEAT: "slowed by heat {when}",
    DisturbanceKind.SWAPPING: "swapping {when}",
    DisturbanceKind.GPU_BUSY: "GPU {gpu} was {amount} % busy {when}",
    DisturbanceKind.GPU_SLOWED: "GPU {gpu} was slowed, by heat or power, {when}",
    DisturbanceKind.GPU_SHARED: "{amount} processes were on GPU {gpu} {when}",
}


# Readings that disturb beyond a limit, by their names in `between`.
LIMITS = (
    ("other_processors", DisturbanceKind.OTHER_PROCESSES, OTHERS),
    ("stolen_processors", DisturbanceKind.STOLEN, STOLEN),
    ("throttled_s", DisturbanceKind.QUOTA, 0),
    ("hot", DisturbanceKind.HEAT, 0),
    ("swapped_bytes", DisturbanceKind.SWAPPING, 0),
)


@dataclass(frozen=True)
class Disturbance:
    """One thing that disturbed a measurement, `when`: before it, or during it.

    amount: processors that others took, seconds stopped at the quota, times slowed by heat, bytes swapped, per cent of time that
    the GPU was busy, or processes on it; None for a GPU that was slowed. gpu: its number.
    """

    kind: DisturbanceKind
    when: str
    amount: float | None = None
    gpu: int | None = None

    @property
    def phrase(self) -> str:
        """Return the disturbance in a few words, for a table."""
        return PHRASES[self.kind].format(amount=self.amount, gpu=self.gpu, when=self.when)


class LoadProbe:
    """Reads counters of the processors that this process may use, and of the GPUs where `device` is cuda.

    Where it is a server, that may be one of the other processes: what the others take is then unknown.
    """

    def __init__(self, device: str) -> None:
        self.device, self.rest_s = device, REST_S[device]
        self.process = psutil.Process()

    def read(self) -> dict[str, Any]:
        """Return counters since the system began: {clock_s, busy_s, stolen_s, own_s, throttled_s, hot, swapped_bytes, gpus}.

        busy_s, stolen_s: of all processors that this process may use. own_s: of this process and its children. throttled_s:
        for which this process's control group was stopped at its quota. hot: times that a processor was slowed by heat.
        gpus: [{gpu, busy_percent, reasons, processes}], reasons being the driver's bits. What cannot be read here is "unknown".
        """
        usable, every = self._usable(), psutil.cpu_times(percpu=True)
        times = [every[number] for number in usable if number < len(every)]
        idle = sum(t.idle + getattr(t, "iowait", 0) for t in times)
        # A guest's time is counted in user's already.
        total = sum(sum(t) - getattr(t, "guest", 0) - getattr(t, "guest_nice", 0) for t in times)
        stolen = sum(getattr(t, "steal", 0) for t in times)
        return {
            "clock_s": time.monotonic(),
            "busy_s": UNKNOWN if self.device == "server" else total - idle - stolen,
            "stolen_s": stolen,
            "own_s": sum(sum(times[:4]) for times in self._own()),
            "throttled_s": _throttled_s(),
            "hot": _hot(),
            "swapped_bytes": _swapped_bytes(),
            "gpus": self._gpus() if self.device == "cuda" else [],
        }

    def _own(self) -> Iterator[Sequence[float]]:
        """Yield the times of this process, of its children that ended among them, and of those that go on."""
        yield self.process.cpu_times()
        for child in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                yield child.cpu_times()

    def _usable(self) -> Sequence[int]:
        try:
            return self.process.cpu_affinity()
        except AttributeError:  # macOS
            return range(psutil.cpu_count() or 1)

    def _gpus(self) -> list[dict[str, int | str]] | str:
        processes = len({pid for (pid,) in nvidia_smi(["pid"], of="compute-apps")})  # one may be on several GPUs
        rows = nvidia_smi(["utilization.gpu", "clocks_event_reasons.active"])
        gpus = [
            {"gpu": number, "busy_percent": _number(busy), "reasons": _number(bits), "processes": processes}
            for number, (busy, bits) in enumerate(rows)
        ]
        return gpus or UNKNOWN


def _number(word: str) -> int | str:
    try:
        return int(word, 0)  # the reasons are hexadecimal
    except ValueError:
        return UNKNOWN


def _throttled_s() -> float | str:
    try:
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].split(":", 2)[2]
    except (OSError, IndexError):
        return UNKNOWN
    for folder in (Path("/sys/fs/cgroup") / group.lstrip("/"), Path("/sys/fs/cgroup")):
        try:
            return int(dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())["throttled_usec"]) / 1e6
        except (OSError, KeyError, ValueError):
            continue
    return UNKNOWN


def _hot() -> int | str:
    counters = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    try:
        counts = [int(counter.read_text()) for counter in counters]
    except (OSError, ValueError):
        return UNKNOWN
    return sum(counts) if counts else UNKNOWN


def _swapped_bytes() -> int:
    swap = psutil.swap_memory()
    return swap.sin + swap.sout


@contextmanager
def watched(probe: LoadProbe, sleep: Callable[[float], None] = time.sleep) -> Iterator[dict[str, dict[str, Any]]]:
    """Watch the load of the machine before and during the body of a `with` statement.

    Yields a dict that is filled at the end: {before, during}, each as `between` returns it.
    """
    load: dict[str, dict[str, Any]] = {}
    rest = probe.read()
    sleep(probe.rest_s)
    start = probe.read()
    yield load
    load |= {"before": between(rest, start), "during": between(start, probe.read())}


def between(start: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, Any]:
    """Return what happened between two readings: {seconds, other_processors, stolen_processors, throttled_s, hot, …, gpus}.

    other_processors: how many processors other processes took on average; stolen_processors: a virtual machine's host. gpus are
    as at the end.
    """
    took = {name: _less(end[name], start[name]) for name in end if name != "gpus"}
    seconds = took["clock_s"]
    return {
        "seconds": seconds,
        "other_processors": UNKNOWN if took["busy_s"] == UNKNOWN else max(0.0, (took["busy_s"] - took["own_s"]) / seconds),
        "stolen_processors": took["stolen_s"] / seconds,
        **{name: took[name] for name in ("throttled_s", "hot", "swapped_bytes")},
        "gpus": end["gpus"],
    }


def _less(end: Any, start: Any) -> Any:
    return UNKNOWN if UNKNOWN in (end, start) else end - start


def worst(every: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the worst of several measurements' loads, each as `watched` fills it: the highest of every reading that is known."""
    highest: dict[str, dict[str, Any]] = {}
    for when in ("before", "during"):
        loads = [load[when] for load in every]
        known = {name: [load[name] for load in loads if load[name] != UNKNOWN] for name in loads[0]}
        highest[when] = {name: max(values) if values else UNKNOWN for name, values in known.items() if name != "gpus"}
        highest[when]["gpus"] = [gpu for gpus in known["gpus"] for gpu in gpus]
    return highest


def disturbances(load: Mapping[str, Mapping[str, Any]]) -> list[Disturbance]:
    """Return what disturbed a measurement, each once, in the order in which it happened. load: as `watched` fills it."""
    disturbed = []
    for when, readings in load.items():
        for name, kind, most in LIMITS:
            if readings[name] != UNKNOWN and readings[name] > most:
                disturbed.append(Disturbance(kind, when, readings[name]))
        for gpu in readings["gpus"] if readings["gpus"] != UNKNOWN else []:
            disturbed += _of_gpu(gpu, when)
    return list(dict.fromkeys(disturbed))


def _of_gpu(gpu: Mapping[str, Any], when: str) -> Iterator[Disturbance]:
    number, busy, bits, processes = (gpu[name] for name in ("gpu", "busy_percent", "reasons", "processes"))
    if when == "before" and busy != UNKNOWN and busy > GPU_BUSY:
        yield Disturbance(DisturbanceKind.GPU_BUSY, when, busy, number)
    if bits != UNKNOWN and bits & THROTTLING:
        yield Disturbance(DisturbanceKind.GPU_SLOWED, when, gpu=number)
    if processes > 1:
        yield Disturbance(DisturbanceKind.GPU_SHARED, when, processes, number)
