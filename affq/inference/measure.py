"""The resource pass: how long texts take, one at a time and many at once. Clock, probe and interval are arguments.

A clock waits until the device has done what it was asked for, and then gives the seconds: `probes.instruments` makes it.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import psutil

from affq.errors import InputError
from affq.inference.energy import Energy, Meter
from affq.inference.probes import UNKNOWN, Clock, Probe, Readings
from affq.inference.requests import AtToken, Key, Made, Request, key_of

WARM_UPS = 10  # at most
STEADY = 0.05  # spread of the last three warm-ups, over the fastest of them, at which warming up ends
READINGS = 3  # of each batch size
FULL = 0.9  # of the free memory: a batch that is expected to take more is not tried
FINE = 16  # parts of the largest batch that fits: by less than one of them a next is not larger, and ends the search

Prepare = Callable[[Sequence[Request]], Any]  # requests to the inputs of one batch, as the engine takes them


class Produce(Protocol):
    """Generates exactly `new_tokens` tokens for each text of a batch, and calls at_token() after each step: Engine.produce."""

    def __call__(self, inputs: Any, new_tokens: int, at_token: AtToken | None = None) -> list[Made]: ...


class TimingSettings(Protocol):
    """How texts are timed: what `time_texts` needs to know of a study's measurement."""

    @property
    def new_tokens(self) -> int: ...
    @property
    def warmup_tokens(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def aim(self) -> float | None: ...
    @property
    def token_texts(self) -> int: ...


class WarmUp(TypedDict):
    """The seconds of each warm-up, and whether the last ones took the same time."""

    warmup_s: list[float]
    steady: bool


class Timing(TypedDict):
    """One text timed: up to its first token (prefill with it), and the whole of it."""

    ttft_s: float
    latency_s: float
    new_tokens: int
    token_ids: list[int]


class TextReading(Key, Timing):
    """A timed text in a round over the texts."""

    round: int


class TokenTiming(TypedDict):
    """One text timed token by token: the seconds to its first token, and of each further one."""

    ttft_s: float
    token_s: list[float]


class TokenReading(Key, TokenTiming):
    """A text that was timed token by token."""


class Latency(WarmUp):
    """The raw readings of a resource pass.

    width: of the median's interval over the median, when the rounds ended; None where there was no interval. too_short: how many
    texts an engine ended before their second token; they are not among the readings. energy: of the texts, and of as many further
    ones as its counters need.
    """

    texts: list[TextReading]
    too_short: int
    rounds: int
    width: float | None
    stopped: Literal["aim", "cap"]
    energy: Energy
    tokens: list[TokenReading]


class Throughput(TypedDict):
    """Readings of growing batches. points: {batch, seconds: READINGS of them, new_tokens, and what the probe reads}."""

    stopped: Literal["cap", "memory"]
    points: list[dict[str, Any]]


def time_texts(
    prepare: Prepare,
    produce: Produce,
    requests: Sequence[Request],
    settings: TimingSettings,
    width: Callable[[list[float], bool], float],
    meter: Meter,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Time texts one at a time, in rounds over the requests, until their median is known well enough.

    After warming up, each request is generated once, which gives ttft_s and latency_s. Besides its first token the clock is
    read at none, since waiting for each would slow them. If there is an `aim`, readings end when width(seconds of all texts,
    whether they end so) is at most that; else after `rounds`. Then the first `token_texts` requests are timed token by token.
    Inputs are made outside the clock; no garbage is collected inside it. The meter reads the energy of all texts but those of
    warming up and those that are timed token by token. Raises InputError where no text has two tokens.

    settings: a study's measurement.
    """
    inputs = [prepare([request]) for request in requests]
    warm = warm_up(inputs[0], produce, settings.warmup_tokens, clock)
    texts: list[TextReading] = []
    too_short, reached, narrow = 0, float("inf"), False
    meter.start()
    for number, request, prompt in ((n, *pair) for n in range(settings.rounds) for pair in zip(requests, inputs, strict=True)):
        timing = time_text(prompt, produce, settings.new_tokens, clock)
        if timing is None:
            too_short += 1
            continue
        texts.append({**key_of(request), "round": number, **timing})
        reached = width([reading["latency_s"] for reading in texts], settings.aim is not None)
        narrow = settings.aim is not None and reached <= settings.aim
        if narrow:
            break
    if not texts:
        problem = f"none of the {too_short} timed texts has two tokens, from which the time of a token is known"
        raise InputError(problem, remedy="choose an engine that ignores the end of a text, or a model that writes more")
    new_tokens = [reading["new_tokens"] for reading in texts]
    for prompt in cycle(inputs):
        if meter.seconds() >= meter.least_s:
            break
        new_tokens += [made.new_tokens for made in produce(prompt, settings.new_tokens)]
    energy = meter.read(len(new_tokens), sum(new_tokens))
    by_token = [
        (request, time_tokens(prompt, produce, settings.new_tokens, clock))
        for request, prompt in list(zip(requests, inputs, strict=True))[: settings.token_texts]
    ]
    return {
        **warm,
        "texts": texts,
        "too_short": too_short,
        "rounds": texts[-1]["round"] + 1,
        "width": reached if reached < float("inf") else None,
        "stopped": "aim" if narrow else "cap",
        "energy": energy,
        "tokens": [{**key_of(request), **timing} for request, timing in by_token if timing],
    }


def warm_up(inputs: Any, produce: Produce, tokens: int, clock: Clock = time.perf_counter) -> WarmUp:
    """Generate texts of so many tokens until three in a row take the same time within STEADY, WARM_UPS at most."""
    seconds: list[float] = []
    steady = False
    while len(seconds) < WARM_UPS and not steady:
        with _uncollected():
            start = clock()
            produce(inputs, tokens)
            seconds.append(clock() - start)
        last = seconds[-3:]
        steady = len(last) == 3 and max(last) <= (1 + STEADY) * min(last)
    return {"warmup_s": seconds, "steady": steady}


def time_text(inputs: Any, produce: Produce, new_tokens: int, clock: Clock = time.perf_counter) -> Timing | None:
    """Time one text, and its first token within it: that reading of the clock does not show (tests/bench/latency.md).

    None for a text that an engine ends before its second token.
    """
    first: list[float] = []

    def at_token() -> None:
        if not first:
            first.append(clock())

    with _uncollected():
        start = clock()
        (made,) = produce(inputs, new_tokens, at_token)
        end = clock()
    if made.new_tokens < 2 or not first:
        return None
    return {
        "ttft_s": first[0] - start,
        "latency_s": end - start,
        "new_tokens": made.new_tokens,
        "token_ids": list(made.token_ids),
    }


def time_tokens(inputs: Any, produce: Produce, new_tokens: int, clock: Clock = time.perf_counter) -> TokenTiming | None:
    """Time one text token by token, waiting for the device at each. None for one that an engine ends before its second token."""
    moments: list[float] = []

    def at_token() -> None:
        moments.append(clock())

    with _uncollected():
        start = clock()
        produce(inputs, new_tokens, at_token)
    if len(moments) < 2:
        return None
    return {"ttft_s": moments[0] - start, "token_s": [after - before for before, after in pairwise(moments)]}


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect garbage now, and none until the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def throughput(
    prepare: Prepare,
    produce: Produce,
    requests: Sequence[Request],
    new_tokens: int,
    most: int,
    probe: Probe,
    clock: Clock = time.perf_counter,
) -> Throughput:
    """Time batches of 1, 2, 4 … texts up to `most`, or up to the largest that memory holds, found by halving to a FINE-th.

    requests: taken in turn until a batch is full. A batch is not tried if its peak, on the line through those before it, would
    take more than FULL of what the probe says is free; one that runs out of a GPU's memory is given up. No points if most is 0.
    """
    points: list[dict[str, Any]] = []
    size, too_many = min(1, most), most + 1
    while 0 < size < too_many:
        point = None
        if _expected_bytes(points, size) <= FULL * probe.free_bytes():
            batch = [requests[number % len(requests)] for number in range(size)]
            point = _time_batch(prepare, produce, batch, new_tokens, probe, clock)
        if point:
            points.append(point)
        else:
            too_many = size
        fits = points[-1]["batch"] if points else 0
        growing = too_many > most
        size = min(2 * fits, most) if growing else (fits + too_many) // 2
        if size - fits <= (0 if growing else fits // FINE):  # ten batches more would tell the last of a thousand texts
            break
    return {"stopped": "cap" if too_many > most else "memory", "points": points}


def _expected_bytes(points: list[dict[str, Any]], size: int) -> float:
    """Return the bytes that a batch will take beyond what is held, on the line through two smaller ones; 0 if unknown."""
    if len(points) < 2 or UNKNOWN in (points[-1]["peak_bytes"], points[-2]["peak_bytes"], points[-1]["held_bytes"]):
        return 0
    small, large = points[-2:]
    slope = max(0, large["peak_bytes"] - small["peak_bytes"]) / (large["batch"] - small["batch"])
    return large["peak_bytes"] + slope * (size - large["batch"]) - large["held_bytes"]


def _time_batch(
    prepare: Prepare, produce: Produce, batch: Sequence[Request], new_tokens: int, probe: Probe, clock: Clock
) -> dict[str, Any] | None:
    """Time one batch READINGS times; return None where a GPU's memory runs out.

    Its new_tokens are those that were made, of each text on average: an engine may end one before.
    """
    import torch

    seconds: list[float] = []
    tokens = 0
    try:
        inputs = prepare(batch)
        probe.start()  # an engine may load the model anew for a batch of this size
        produce(inputs, 2)
        for _ in range(READINGS):
            with _uncollected():
                start = clock()
                made = produce(inputs, new_tokens)
                seconds.append(clock() - start)
            tokens += sum(text.new_tokens for text in made)
    except torch.OutOfMemoryError:
        return None
    made_a_text = max(1, tokens // (READINGS * len(batch)))
    return {"batch": len(batch), "seconds": seconds, "new_tokens": made_a_text, **probe.read()}


def over_batches(readings: Sequence[Mapping[str, Any]]) -> tuple[float, int | str, dict[str, Readings]]:
    """Return the seconds of a pass in batches, its largest cache_bytes, and for each phase the highest of each reading.

    readings: of each batch, {quality_s, cache_bytes, phases}. What is unknown for one batch is unknown for the pass.
    """

    def highest(values: list[Any]) -> int | str:
        return UNKNOWN if UNKNOWN in values else max(values)

    phases: dict[str, Readings] = {}
    for phase, first in readings[0]["phases"].items():
        phases[phase] = {name: highest([reading["phases"][phase][name] for reading in readings]) for name in first}
    cache_bytes = highest([reading["cache_bytes"] for reading in readings])
    return sum(reading["quality_s"] for reading in readings), cache_bytes, phases


def since_start() -> float:
    """Return the seconds since this process began: at the start of a notebook's work, what its imports took."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the system's start; proc(5)
    except OSError:  # not Linux
        return time.time() - psutil.Process().create_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")  # no clock that somebody sets
