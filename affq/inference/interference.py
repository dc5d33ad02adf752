"""Was the measurement disturbed? Load of other processes, throttling and swapping, before it and during it."""

import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from affq.inference.probes import UNKNOWN, nvidia_smi

# How long is looked, at rest, before a measurement: a processor's counters go by hundredths of a second, and a GPU says how
# busy it was over up to one.
REST_S = {"cpu": 0.3, "cuda": 1.2}
OTHERS = 0.1  # processors that others may take on average: affq itself and an idle system stay under a twentieth
STOLEN = 0.02  # share of a processor that a virtual machine's host may take
GPU_BUSY = 5  # per cent of time that a GPU may be busy while this process rests
# Bits of the driver's reasons for a lower clock: power cap, hardware slowdown, heat (software, hardware), power brake.
THROTTLING = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


class LoadProbe:
    """Reads counters of the processors that this process may use, and of the GPUs where `device` is cuda."""

    def __init__(self, device):
        self.device, self.rest_s = device, REST_S[device]
        self.process = psutil.Process()

    def read(self):
        """Give counters since the system began: {clock_s, busy_s, stolen_s, own_s, throttled_s, hot, swapped_bytes}, and gpus.

        busy_s, stolen_s: of all processors that this process may use. own_s: of this process and its children. throttled_s:
        for which this process's control group was stopped at its quota. hot: times that a processor was slowed by heat.
        gpus: [{gpu, busy_percent, reasons, processes}], reasons being the driver's bits. What is not told here is "unknown".
        """
        usable, every = self._usable(), psutil.cpu_times(percpu=True)
        times, own = [every[number] for number in usable if number < len(every)], self.process.cpu_times()
        idle = sum(t.idle + getattr(t, "iowait", 0) for t in times)
        # A guest's time is counted in user's already.
        total = sum(sum(t) - getattr(t, "guest", 0) - getattr(t, "guest_nice", 0) for t in times)
        stolen = sum(getattr(t, "steal", 0) for t in times)
        return {
            "clock_s": time.monotonic(),
            "busy_s": total - idle - stolen,
            "stolen_s": stolen,
            "own_s": sum(own[:4]),
            "throttled_s": _throttled_s(),
            "hot": _hot(),
            "swapped_bytes": _swapped_bytes(),
            "gpus": self._gpus() if self.device == "cuda" else [],
        }

    def _usable(self):
        try:
            return self.process.cpu_affinity()
        except AttributeError:  # macOS
            return range(psutil.cpu_count())

    def _gpus(self):
        processes = len({pid for (pid,) in nvidia_smi(["pid"], of="compute-apps")})  # one may be on several GPUs
        rows = nvidia_smi(["utilization.gpu", "clocks_event_reasons.active"])
        found = [
            {"gpu": number, "busy_percent": _number(busy), "reasons": _number(bits), "processes": processes}
            for number, (busy, bits) in enumerate(rows)
        ]
        return found or UNKNOWN


def _number(word):
    try:
        return int(word, 0)  # the reasons are hexadecimal
    except ValueError:
        return UNKNOWN


def _throttled_s():
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


def _hot():
    counters = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    try:
        counts = [int(counter.read_text()) for counter in counters]
    except (OSError, ValueError):
        return UNKNOWN
    return sum(counts) if counts else UNKNOWN


def _swapped_bytes():
    swap = psutil.swap_memory()
    return swap.sin + swap.sout


@contextmanager
def watched(probe, sleep=time.sleep):
    """Look at a load probe before and during what the `with` statement holds.

    Gives a dict, filled at its end with {before, during}, each as `between` says.
    """
    found = {}
    rest = probe.read()
    sleep(probe.rest_s)
    start = probe.read()
    yield found
    found |= {"before": between(rest, start), "during": between(start, probe.read())}


def between(start, end):
    """Give what happened between two readings: {seconds, other_processors, stolen_processors, throttled_s, hot, …, gpus}.

    other_processors: how many processors other processes took on average; stolen_processors: a virtual machine's host. gpus are
    as at the end.
    """
    took = {name: _less(end[name], start[name]) for name in end if name != "gpus"}
    seconds = took["clock_s"]
    return {
        "seconds": seconds,
        "other_processors": max(0.0, (took["busy_s"] - took["own_s"]) / seconds),
        "stolen_processors": took["stolen_s"] / seconds,
        **{name: took[name] for name in ("throttled_s", "hot", "swapped_bytes")},
        "gpus": end["gpus"],
    }


def _less(end, start):
    return UNKNOWN if UNKNOWN in (end, start) else end - start


def worst(every):
    """Give the worst of several measurements, each as `watched` fills it: the highest of every reading that is known."""
    found = {}
    for when in ("before", "during"):
        loads = [one[when] for one in every]
        known = {name: [load[name] for load in loads if load[name] != UNKNOWN] for name in loads[0]}
        found[when] = {name: max(values) if values else UNKNOWN for name, values in known.items() if name != "gpus"}
        found[when]["gpus"] = [gpu for gpus in known["gpus"] for gpu in gpus]
    return found


def reasons(found):
    """Say why a measurement counts as disturbed, in a list of words; empty where nothing did. found: as `watched` fills it."""
    said = []
    for when, load in found.items():
        if load["other_processors"] > OTHERS:
            said.append(f"other processes took {load['other_processors']:.1f} processors {when}")
        if load["stolen_processors"] > STOLEN:
            said.append(f"the machine's host took {load['stolen_processors']:.2f} processors {when}")
        for name, words in (("throttled_s", "stopped at its quota"), ("hot", "slowed by heat"), ("swapped_bytes", "swapping")):
            if load[name] != UNKNOWN and load[name] > 0:
                said.append(f"{words} {when}")
        for gpu in load["gpus"] if load["gpus"] != UNKNOWN else []:
            said += _of_gpu(f"GPU {gpu['gpu']}", gpu, when)
    return list(dict.fromkeys(said))


def _of_gpu(name, gpu, when):
    busy, bits, processes = gpu["busy_percent"], gpu["reasons"], gpu["processes"]
    if when == "before" and busy != UNKNOWN and busy > GPU_BUSY:
        yield f"{name} was {busy} % busy {when}"
    if bits != UNKNOWN and bits & THROTTLING:
        yield f"{name} was slowed, by heat or power, {when}"
    if processes > 1:
        yield f"{processes} processes were on {name} {when}"
