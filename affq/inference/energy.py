"""Read the energy that devices take, by counters that zeus finds. What no counter tells is unknown, for a reason, never zero.

zeus is an extra of affq, imported when a meter is asked for. Its own monitor is not used: it follows each counter of a processor
in a process that outlives a killed parent, and a window at whose end a counter had just begun anew is off by all of its range.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Protocol, TypedDict

from affq.inference.probes import Clock

# Between two updates of a device's counters: a processor's by Intel's manual, NVIDIA's by zeus's authors.
UPDATE_S = {"cpu": 0.001, "cuda": 0.1}
UPDATES = 20  # in a window at least: it is off by one update at most, a twentieth of its joules
REST_S = 2.0
WATCHED_S = 20.0  # between two looks at a counter: to go round in that, of the smallest range, a processor would take 3 kW

Sleep = Callable[[float], None]


class NoEnergy(StrEnum):
    """Why the energy of texts is unknown."""

    NOT_INSTALLED = "not_installed"
    NO_COUNTER = "no_counter"
    NOT_ALLOWED = "not_allowed"
    STANDS_STILL = "stands_still"
    ELSEWHERE = "elsewhere"
    FAILED = "failed"
    DROWNED = "drowned"
    NOT_READ = "not_read"


# Each in words, with its remedy where there is one.
PHRASES = {
    NoEnergy.NOT_INSTALLED: ("zeus, which reads the counters, is not installed", "pip install 'affq[energy]'"),
    NoEnergy.NO_COUNTER: ("zeus finds no counter of energy here", "a machine that is not virtual has one, in most cases"),
    NoEnergy.NOT_ALLOWED: (
        "the system lets only its administrator read the processor's counters",
        "sudo chmod -R a+r /sys/class/powercap/intel-rapl",
    ),
    NoEnergy.STANDS_STILL: ("a counter of energy is there, and stands still", ""),
    NoEnergy.ELSEWHERE: ("a server's counters are not known here", ""),
    NoEnergy.FAILED: ("the counters of energy cannot be read", ""),
    NoEnergy.DROWNED: ("at rest the devices took as much: other programs were at work", "run it on a quiet machine"),
    NoEnergy.NOT_READ: ("the affq that made the run did not read it", "affq run --force makes the run again"),
}


class Window(TypedDict):
    """The joules that each device took in some seconds: cpu0, dram0 (the memory beside it), gpu0 …"""

    seconds: float
    joules: dict[str, float]


class Energy(TypedDict):
    """The energy that devices took while texts were generated one by one, and while they rested: all of it, whoever asked for it.

    why: NoEnergy, with the library's own words as `detail`; None where rest and used are known. texts, new_tokens: generated
    while `used` was.
    """

    why: str | None
    detail: str
    rest: Window | None
    used: Window | None
    texts: int
    new_tokens: int


class Meter(Protocol):
    """Reads the energy that devices take.

    rest: what they took when the meter was made, with nothing to do; None where that is unknown. least_s: how long a window is
    at least.
    """

    rest: Window | None
    least_s: float

    def start(self) -> None:
        """Begin a window."""

    def seconds(self) -> float:
        """Return how long the window is by now."""

    def read(self, texts: int, new_tokens: int) -> Energy:
        """Return the energy since `start`, in which so many texts and tokens were generated."""


class UnknownMeter:
    """Stands where no energy can be read, and says why."""

    rest: Window | None = None
    least_s = 0.0

    def __init__(self, why: NoEnergy, detail: str = "") -> None:
        self.why, self.detail = why, detail

    def start(self) -> None:
        """Begin a window, of which nothing will be known."""

    def seconds(self) -> float:
        """Return 0: no window is waited for."""
        return 0.0

    def read(self, texts: int, new_tokens: int) -> Energy:
        """Return why nothing is known."""
        return {"why": str(self.why), "detail": self.detail, "rest": None, "used": None, "texts": texts, "new_tokens": new_tokens}


@dataclass(frozen=True)
class Counter:
    """A device's counter of joules. range_joules: where it begins again from 0; None where it does not."""

    device: str
    joules: Callable[[], float]
    range_joules: float | None = None


class CounterMeter:
    """Reads counters, after resting for `rest_s`. clock: waits until the device has done what it was asked for.

    A thread looks at them now and then, lest one goes round unseen.
    """

    def __init__(self, counters: list[Counter], clock: Clock, least_s: float, rest_s: float, sleep: Sleep) -> None:
        self._counters, self._clock, self.least_s = counters, clock, least_s
        self._lock = threading.Lock()
        self.start()
        threading.Thread(target=self._watch, daemon=True).start()
        sleep(rest_s)
        self.rest: Window | None = self._window()

    def start(self) -> None:
        """Begin a window."""
        self._began_s = self._clock()
        with self._lock:
            self._last = [counter.joules() for counter in self._counters]
            self._sums = [0.0 for _ in self._counters]

    def seconds(self) -> float:
        """Return how long the window is by now."""
        return self._clock() - self._began_s

    def read(self, texts: int, new_tokens: int) -> Energy:
        """Return the energy since `start`; unknown where a counter cannot be read any more, or stands still."""
        try:
            used = self._window()
        except Exception as error:  # whatever the library meets: texts and times are known all the same
            return UnknownMeter(NoEnergy.FAILED, _words(error)).read(texts, new_tokens)
        if not all(used["joules"].values()):
            return UnknownMeter(NoEnergy.STANDS_STILL).read(texts, new_tokens)
        return {"why": None, "detail": "", "rest": self.rest, "used": used, "texts": texts, "new_tokens": new_tokens}

    def _window(self) -> Window:
        seconds = self.seconds()
        self._count()
        return {"seconds": seconds, "joules": {c.device: joules for c, joules in zip(self._counters, self._sums, strict=True)}}

    def _count(self) -> None:
        """Add what each counter went on by since it was looked at last."""
        with self._lock:
            for number, counter in enumerate(self._counters):
                now = counter.joules()
                went_on = now - self._last[number]
                if went_on < 0:
                    if counter.range_joules is None:
                        raise ValueError(f"{counter.device} counts backwards")
                    went_on += counter.range_joules
                self._sums[number] += went_on
                self._last[number] = now

    def _watch(self) -> None:
        with suppress(Exception):  # which `read` meets too, and tells
            while True:
                time.sleep(WATCHED_S)
                self._count()


def import_all() -> None:
    """Import what finds the counters, if it is installed: what comes after is the model's memory, not the code's."""
    with suppress(ImportError):
        import zeus.device  # noqa: F401


def meter(device: str, clock: Clock = time.perf_counter, rest_s: float = REST_S, sleep: Sleep = time.sleep) -> Meter:
    """Return the meter of what serves, cpu, cuda or server, once the device has rested for `rest_s` seconds.

    cpu: every processor's package, and the memory beside it where that has a counter of its own. cuda: every GPU that torch
    sees, whole; what the processors take beside them is not counted. The device must have nothing to do meanwhile.
    """
    if device == "server":
        return UnknownMeter(NoEnergy.ELSEWHERE)
    try:
        from zeus.device.cpu.common import ZeusCPUInitError, ZeusCPUNoPermissionError
        from zeus.device.gpu.common import ZeusGPUInitError
    except ImportError as error:
        return UnknownMeter(NoEnergy.NOT_INSTALLED, str(error))
    try:
        counters = list(_gpus() if device == "cuda" else _processors())
        if not counters:
            return UnknownMeter(NoEnergy.NO_COUNTER)
        made = CounterMeter(counters, clock, UPDATES * UPDATE_S[device], rest_s, sleep)
    except (ZeusCPUInitError, ZeusGPUInitError) as error:
        return UnknownMeter(NoEnergy.NO_COUNTER, str(error))
    except (ZeusCPUNoPermissionError, PermissionError) as error:
        return UnknownMeter(NoEnergy.NOT_ALLOWED, str(error))
    except Exception as error:  # a library's trouble with a counter is none of the texts'
        return UnknownMeter(NoEnergy.FAILED, _words(error))
    return made if made.rest and all(made.rest["joules"].values()) else UnknownMeter(NoEnergy.STANDS_STILL)


def _gpus() -> Iterator[Counter]:
    from zeus.device import get_gpus

    gpus = get_gpus()
    for number in range(len(gpus)):
        yield Counter(f"gpu{number}", partial(_millijoules, gpus.get_total_energy_consumption, number))


def _millijoules(read: Callable[[int], int], number: int) -> float:
    return read(number) / 1e3


def _processors() -> Iterator[Counter]:
    """Yield the counters of each package, and of its memory. A zone psys counts the whole board, packages among it."""
    from zeus.device import get_cpus

    packages = [cpu for cpu in get_cpus().cpus if cpu.rapl_file.name.startswith("package")]
    for number, cpu in enumerate(packages):
        for kind, zone in (("cpu", cpu.rapl_file), ("dram", cpu.dram)):
            if zone:
                yield Counter(f"{kind}{number}", partial(_microjoules, zone.energy_uj_path), zone.max_energy_range_uj / 1e6)


def _microjoules(path: str) -> float:
    return int(Path(path).read_text()) / 1e6


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
