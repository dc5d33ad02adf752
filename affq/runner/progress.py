"""Follow a study while it runs, and show it: a live table in a terminal, plain lines elsewhere, events for programs.

Events have seconds, bytes and counts in the unit of their name, None where not known. `affq run --json` writes their fields, a
JSON object a line, with the kind of event first.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import psutil
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from affq.errors import printable
from affq.results import Kind, Record, Series, Stage, Status
from affq.runner import estimate
from affq.study import Run, Study, run_label

EVERY_S = 0.5  # between two looks
SERIES_EVERY_S = 2.0  # between two looks at a series, of which nothing is shown but what it has written
PLAIN_EVERY_S = 30  # between two plain lines on the same stage


@dataclass(frozen=True)
class Event:
    """Something that goes on while a study is executed."""

    event: ClassVar[str]  # its kind


@dataclass(frozen=True)
class Fetching(Event):
    """Something is fetched or waited for before the study begins."""

    event = "fetching"
    words: str


@dataclass(frozen=True)
class StudyBegins(Event):
    """runs: how many are chosen, of the study's study_runs. to_run: how many of those are to be executed."""

    event = "study_begins"
    study: str
    runs: int
    study_runs: int
    to_run: int
    estimate_s: float | None


@dataclass(frozen=True)
class OfRun(Event):
    """An event of one run: the `number`th of `runs` chosen ones."""

    number: int
    runs: int
    run_id: str | None
    model: str
    precision: str
    engine: str

    @property
    def name(self) -> str:
        return f"[{self.number}/{self.runs}] {run_label(self.model, self.precision, self.engine)}"


@dataclass(frozen=True)
class Progress:
    """How far a run is. left_s: of it alone. memory_bytes: resident, of its process."""

    stage: Stage
    texts: int
    texts_wanted: int
    texts_per_s: float | None
    left_s: float | None
    elapsed_s: float
    memory_bytes: int | None


@dataclass(frozen=True)
class RunGoesOn(Progress, OfRun):
    """study_left_s: of this run and of those that come after it."""

    event = "run"
    study_left_s: float | None


@dataclass(frozen=True)
class RunEnded(OfRun):
    """executed: whether it was, rather than done before. log: the file."""

    event = "run_ended"
    status: Status
    note: str
    executed: bool
    elapsed_s: float
    log: str


@dataclass(frozen=True)
class StudyEnded(Event):
    """ok: how many of the chosen runs have their figures."""

    event = "study_ended"
    study: str
    ok: int
    runs: int
    study_runs: int
    elapsed_s: float


Tell = Callable[[Event], None]


@contextmanager
def watched(record: Record[Run], estimate_s: float | None, tell: Callable[[Progress], None]) -> Iterator[None]:
    """Tell the progress at each look, from a thread of its own, while the body executes the run of `record`."""
    ended, began_s, before = threading.Event(), time.monotonic(), record.mark()
    pace = Pace(record.run.study, estimate_s)

    def look() -> None:
        while not ended.wait(EVERY_S):
            stage, texts = record.progress(before)
            tell(pace.at(time.monotonic() - began_s, stage, texts, _memory_bytes()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def followed(series: Series, say: Callable[[str], None]) -> Iterator[None]:
    """Say of each level of load, from a thread of its own, that it is over, while the body makes the series."""
    ended, before = threading.Event(), len(series.told())

    def look() -> None:
        told, over = before, False
        while not over:
            over = ended.wait(SERIES_EVERY_S)
            readings = series.told()
            for reading in readings[told:]:
                say(_of_level(reading))
            told = len(readings)

    thread = threading.Thread(target=look, daemon=True)
    if series.kind == Kind.LOAD:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


def _of_level(reading: Mapping[str, Any]) -> str:
    streams, rate = reading["streams"], reading["rate"]
    asked = f"{rate:g} texts a second" if rate else f"{streams} stream{'s' if streams > 1 else ''}"
    return f"{asked}, repetition {reading['repetition'] + 1}: {reading['texts']} texts in {reading['seconds']:.1f} s"


class Pace:
    """Turns what is done of a run at which second into speed and time left."""

    def __init__(self, study: Study, estimate_s: float | None) -> None:
        self.study, self.estimate_s = study, estimate_s
        self.batches: list[tuple[float, int]] = []  # (elapsed_s, texts) as each batch was first seen
        self.timing_since_s: float | None = None

    def at(self, elapsed_s: float, stage: Stage, texts: int, memory_bytes: int | None = None) -> Progress:
        """Return the progress; speed is known from the second batch on."""
        # Texts that were kept are there while the model still loads.
        if stage != Stage.LOADING and texts and (not self.batches or texts > self.batches[-1][1]):
            self.batches.append((elapsed_s, texts))
        if stage != Stage.TIMING:
            self.timing_since_s = None  # further processes come first, and time as well
        elif self.timing_since_s is None:
            self.timing_since_s = elapsed_s
        texts_per_s = None
        if len(self.batches) > 1:
            (first_s, first), (last_s, last) = self.batches[0], self.batches[-1]
            texts_per_s = (last - first) / max(last_s - first_s, EVERY_S)
        left_s = self._left_s(elapsed_s, stage, texts_per_s)
        return Progress(stage, texts, self.study.texts_wanted, texts_per_s, left_s, elapsed_s, memory_bytes)

    def _left_s(self, elapsed_s: float, stage: Stage, texts_per_s: float | None) -> float | None:
        if stage == Stage.ENDING:
            return 0
        if texts_per_s is None:
            return self.estimate_s and max(self.estimate_s - elapsed_s, 0)
        # A prompt by itself takes at most the time of a batch, token by token.
        batch_s = self.study.batch / texts_per_s
        timing_s = estimate.timed_tokens(self.study) / self.study.generation.max_new_tokens * batch_s
        if self.timing_since_s is not None:
            return max(timing_s - (elapsed_s - self.timing_since_s), 0)
        last_s, last = self.batches[-1]
        return max((self.study.texts_wanted - last) / texts_per_s - (elapsed_s - last_s), 0) + timing_s


def _memory_bytes() -> int | None:
    """Return the resident memory of the largest process below this one, the run's; None if it is not there yet."""
    resident = []
    for child in psutil.Process().children(recursive=True):
        try:
            resident.append(child.memory_info().rss)
        except psutil.Error:
            continue  # it has just ended
    return max(resident, default=None)


def reporter(as_json: bool, quiet: bool) -> AbstractContextManager[Tell]:
    """Return what shows the events: a context manager whose value takes them one by one."""
    if as_json:
        return nullcontext(_write_json)
    if quiet:
        return nullcontext(_write_failure)
    return _Table() if sys.stdout and sys.stdout.isatty() else nullcontext(_Lines().show)


def _write_json(event: Event) -> None:
    """Write one JSON object a line on standard output, where nothing else is then."""
    print(json.dumps({"event": event.event, **asdict(event)}), flush=True)


def _write(line: str) -> None:
    print(printable(line), flush=True)


def _write_failure(event: Event) -> None:
    if isinstance(event, RunEnded) and event.status == Status.FAILED:
        _write(sentence(event))


class _Lines:
    """Plain lines: a run's stages, its texts from time to time, how it ended."""

    def __init__(self) -> None:
        self.last: tuple[str | None, Stage] | None = None  # run and stage of the last line on a run
        self.last_s = 0.0

    def show(self, event: Event) -> None:
        if not isinstance(event, RunGoesOn):
            _write(sentence(event))
            return
        now, now_s = (event.run_id, event.stage), time.monotonic()
        if now != self.last or now_s - self.last_s >= PLAIN_EVERY_S:
            self.last, self.last_s = now, now_s
            _write(", ".join([f"{event.name}: {event.stage}", *details(event)]))


class _Table:
    """A table that is drawn again in place: a line a run, and the total."""

    def __enter__(self) -> Tell:
        self.rows: dict[int, tuple[str, str, str]] = {}  # by a run's number: its name, stage or status, details
        self.total = ""
        self.live = Live(console=Console(highlight=False), refresh_per_second=4)
        return self.show

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def show(self, event: Event) -> None:
        if isinstance(event, RunGoesOn):
            self.rows[event.number] = (event.name, event.stage, ", ".join(details(event)))
            self.total = "" if event.study_left_s is None else f"{estimate.words(event.study_left_s)} left in all"
        elif isinstance(event, RunEnded):
            took = f"{event.elapsed_s:.0f} s" if event.executed else "was done before"
            log = f"log: {event.log}" if event.status == Status.FAILED else ""
            self.rows[event.number] = (event.name, event.status, ", ".join(filter(None, (took, event.note, log))))
        elif isinstance(event, StudyEnded):
            self.total = sentence(event)
        else:
            self.live.console.print(Text(printable(sentence(event))))
            if isinstance(event, StudyBegins):  # from here on: while weights are fetched, the hub's own bars have the screen
                self.live.start()
        self.live.update(self._table())

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for _, cells in sorted(self.rows.items()):
            table.add_row(*(Text(printable(cell)) for cell in cells))
        return Group(table, Text(printable(self.total)))


def details(progress: Progress) -> list[str]:
    """Return what is known of a run's progress, in words: texts, speed, time left, memory."""
    if progress.stage == Stage.STARTING:
        return []
    words = [f"{progress.texts} of {progress.texts_wanted} texts"] if progress.texts else []
    if progress.texts_per_s and progress.stage == Stage.GENERATING:
        words.append(f"{progress.texts_per_s:.2g} texts/s")
    if progress.left_s is not None:
        words.append(f"{estimate.words(progress.left_s)} left")
    if progress.memory_bytes:
        words.append(f"{progress.memory_bytes / 1e9:.1f} GB resident")
    return words


def sentence(event: Event) -> str:
    """Return an event in one line; "" for a run that goes on."""
    match event:
        case Fetching():
            return event.words
        case StudyBegins():
            chosen, rest = _of_study(event)
            if not event.to_run:
                return f"Study {event.study}: every {chosen}run is there{rest}."
            guess = event.estimate_s
            time_words = "how long is not known yet on this device" if guess is None else f"{estimate.words(guess)}, roughly"
            doing = f"{event.to_run} of {event.runs} {chosen}runs {_are(event.to_run)} to be done"
            return f"Study {event.study}: {doing}: {time_words}{rest}."
        case StudyEnded():
            chosen, rest = _of_study(event)
            return f"{event.ok} of {event.runs} {chosen}runs {_are(event.ok)} done, {event.elapsed_s:.0f} s{rest}"
        case RunEnded():
            how = f"{event.elapsed_s:.0f} s" if event.executed else "not done again"
            log = f"; log: {event.log}" if event.status == Status.FAILED else ""
            return f"{event.name}: {event.status}, {how}" + (f" ({event.note}{log})" if event.note else "")
    return ""


def _of_study(event: StudyBegins | StudyEnded) -> tuple[str, str]:
    """Return what says that only some runs of the study are chosen: a word before `runs`, and the sentence's end."""
    return ("", "") if event.runs == event.study_runs else ("chosen ", f"; the study has {event.study_runs}")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
