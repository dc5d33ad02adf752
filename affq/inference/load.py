"""Under load: texts asked for by many at once, in a closed loop or an open one, with the moment at which each piece came.

Own code, over asyncio: GuideLLM (0.8.1) sends no token ids, and takes its prompts through `datasets` and a dozen packages more.
tests/bench/load.py holds the two against each other.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal, Protocol, TypedDict

import numpy as np

from affq.inference.engine import Engine
from affq.inference.requests import AtToken, Ending, Key, Request, key_of

LOOK_S = 0.02  # between two looks at how late the event loop wakes
RARELY = 0.99  # of the looks are no later than is said


class Unanswered(Exception):
    """A request that failed, in words that may be published; others may still be answered."""


class Answered(Protocol):
    """A text that is there: its ids are made words of once the clock does not wait for that."""

    def __call__(self) -> Ending: ...


Ask = Callable[[Request, AtToken], Awaitable[Answered]]


class Serving(Engine, Protocol):
    """An engine that can be asked for texts by many at once, each in its own time."""

    def serve(self, streams: int) -> None:
        """Load the model so that so many texts are under way at the same time, after `import_all`, in the place of `load`."""

    def asking(self) -> AbstractAsyncContextManager[Ask]:
        """Return what asks for a text: ask(request, at_token), at_token() being called at each piece. Raises Unanswered.

        No limit of the client's holds a request back, and the server keeps nothing of a prompt from one text to the next.
        """

    def need(self) -> None:
        """Raise ServerError unless the server is there."""


@dataclass(frozen=True)
class Level:
    """How much is asked for: in a closed loop so many texts are under way, in an open one so many a second are sent."""

    number: int
    streams: int | None = None
    rate: float | None = None

    @property
    def loop(self) -> Literal["closed", "open"]:
        return "closed" if self.rate is None else "open"


class Row(Key):
    """One text of a level: results.schemas.LoadRow says what its fields are."""

    level: int
    repetition: int
    number: int
    loop: Literal["closed", "open"]
    streams: int | None
    rate: float | None
    due_s: float
    sent_s: float
    first_s: float | None
    end_s: float
    moments_s: list[float]
    new_tokens: int
    text: str
    ended: bool
    error: str | None


class Reading(TypedDict):
    """What a level took: results.schemas.LoadReading."""

    level: int
    repetition: int
    loop: Literal["closed", "open"]
    streams: int | None
    rate: float | None
    seconds: float
    client_busy: float
    lag_s: float


def levels(streams: Sequence[int], rates: Sequence[float]) -> list[Level]:
    """Return the levels of a study, in its order: those of the closed loop first."""
    asked = [*((count, None) for count in streams), *((None, rate) for rate in rates)]
    return [Level(number, count, rate) for number, (count, rate) in enumerate(asked)]


def slots(streams: Sequence[int], batch: int) -> int:
    """Return how many texts are to be under way at once: as many as the largest level has, else as in a study's batch."""
    return max(streams, default=batch)


def in_turn(levels: Sequence[Level], repetitions: int) -> list[tuple[int, Level]]:
    """Return (repetition, level) in the order in which they are measured: a machine's slow minutes are shared by all levels."""
    return [(repetition, level) for repetition in range(repetitions) for level in levels]


def due(rate: float, texts: int, seed: int, repetition: int) -> list[float]:
    """Return when each text is to be sent, in seconds since the level's start: a Poisson process of `rate` texts a second."""
    rng = np.random.default_rng([seed, repetition, *rate.as_integer_ratio()])
    return np.cumsum(rng.exponential(1 / rate, texts)).tolist()


def measure(
    serving: Serving, requests: Sequence[Request], level: Level, texts: int, seed: int, repetition: int = 0
) -> tuple[list[Row], Reading]:
    """Do what `asked` does in an event loop of its own, in a thread: that of a notebook goes on in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, asked(serving, requests, level, texts, seed, repetition)).result()


async def asked(
    serving: Serving, requests: Sequence[Request], level: Level, texts: int, seed: int, repetition: int = 0
) -> tuple[list[Row], Reading]:
    """Ask for `texts` texts at a level; return rows and reading.

    Repetitions share the requests in their order, which begins again when it ends: the next one goes on behind the last. A
    request that fails is a row with its error. Raises ServerError where the server is gone. The event loop's clock counts.
    """
    wanted = list(islice(cycle(requests), repetition * texts, (repetition + 1) * texts))
    async with serving.asking() as ask, _watched() as client:
        under_way = _Level(serving, ask, level, repetition)
        if level.streams:
            left = iter(enumerate(wanted))
            await _together([under_way.stream(left) for _ in range(level.streams)])
        elif level.rate:
            times = due(level.rate, texts, seed, repetition)
            await _together([under_way.text(n, *pair) for n, pair in enumerate(zip(wanted, times, strict=True))])
    rows = under_way.rows()
    about = {name: rows[0][name] for name in ("level", "repetition", "loop", "streams", "rate")}
    return rows, Reading(**about, **client)  # type: ignore[typeddict-item]


class _Level:
    """A level under way. Its seconds begin when it is made."""

    def __init__(self, serving: Serving, ask: Ask, level: Level, repetition: int) -> None:
        self._serving, self._ask, self._level, self._repetition = serving, ask, level, repetition
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()
        self._made: list[tuple[Row, Answered | None]] = []

    def rows(self) -> list[Row]:
        """Return the rows, in the order of the requests, with their texts."""
        for row, answered in self._made:
            if answered:
                ending = answered()
                row["text"], row["new_tokens"], row["ended"] = ending["text"], ending["new_tokens"], ending["ended"]
        return sorted((row for row, _ in self._made), key=lambda row: row["number"])

    async def stream(self, left: Iterator[tuple[int, Request]]) -> None:
        """Ask for one text after the other while there are any left."""
        for number, request in left:
            await self.text(number, request)

    async def text(self, number: int, request: Request, due_s: float | None = None) -> None:
        """Ask for a text when it is due, or now, and keep its row."""
        if due_s is not None:
            await asyncio.sleep(due_s - self._now())
        sent_s, moments_s, answered, error = self._now(), list[float](), None, None
        try:
            answered = await self._ask(request, lambda: moments_s.append(self._now()))
        except Unanswered as words:
            error = str(words)
        end_s = self._now()
        row: Row = {
            **key_of(request),
            "level": self._level.number,
            "repetition": self._repetition,
            "number": number,
            "loop": self._level.loop,
            "streams": self._level.streams,
            "rate": self._level.rate,
            "due_s": sent_s if due_s is None else due_s,
            "sent_s": sent_s,
            "first_s": moments_s[0] if moments_s else None,
            "end_s": end_s,
            "moments_s": moments_s,
            "new_tokens": 0,
            "text": "",
            "ended": False,
            "error": error,
        }
        self._made.append((row, answered))
        if error:
            await asyncio.to_thread(self._serving.need)

    def _now(self) -> float:
        return self._clock() - self._start


async def _together(each: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all; the first error ends the others, and is raised as it is."""
    error: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for one in each:
                group.create_task(one)
    except ExceptionGroup as errors:
        error = errors.exceptions[0]
    if error:  # raised out here: of one that was raised in handling a group, IPython tells a notebook nothing
        raise error


@asynccontextmanager
async def _watched() -> AsyncIterator[dict[str, float]]:
    """Watch whether this process keeps up with what it asks for: {seconds, client_busy, lag_s}, filled at the end."""
    clock, lags, told = asyncio.get_running_loop().time, [0.0], dict[str, float]()

    async def look() -> None:
        while True:
            due = clock() + LOOK_S
            await asyncio.sleep(LOOK_S)
            lags.append(clock() - due)

    looking, start, busy_s = asyncio.create_task(look()), clock(), time.process_time()
    try:
        yield told
    finally:
        looking.cancel()
    seconds = clock() - start
    told |= {"seconds": seconds, "client_busy": (time.process_time() - busy_s) / seconds}
    told["lag_s"] = float(np.quantile(lags, RARELY))
