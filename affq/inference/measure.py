"""The resource pass: how long texts take, one at a time and many at once. Clock, probe and interval are arguments.

produce(inputs, n) generates exactly n tokens for each of the texts that prepare(requests) made inputs of, and returns token ids
of shape (texts, prompt + n). produce(inputs, n, at_token) calls at_token() after each token.
"""

import gc
import os
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import psutil

from affq.inference.generate import KEY

WARM_UPS = 10  # at most
STEADY = 0.05  # spread of the last three warm-ups, over the fastest of them, at which warming up ends
READINGS = 3  # of each batch size
FULL = 0.9  # of the free memory: a batch that is expected to take more is not tried


class Timing(Protocol):
    """How texts are timed: what `time_texts` needs to know of a study's measurement."""

    @property
    def new_tokens(self) -> int: ...
    @property
    def warmup_tokens(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def aim(self) -> float: ...
    @property
    def token_texts(self) -> int: ...


def time_texts(prepare, produce, requests, settings: Timing, width, clock=time.perf_counter, synchronize=lambda: None):
    """Time texts one at a time, in rounds over the requests, until their median is known well enough.

    After warming up, each request is generated twice: one token, which gives ttft_s (prefill and the first token), and all of
    them, which gives latency_s. No clock is read between tokens, since waiting for each would slow them. Rounds end when
    width(seconds of all texts, most rounds) is at most `aim`, or after `rounds`. Then the first `token_texts` requests are
    timed token by token. Inputs are made outside the clock; no garbage is collected inside it.

    settings: a study's measurement. Returns raw readings, in seconds: {warmup_s: [], steady, rounds, width, stopped: aim or cap,
    texts: [{prompt_id, emotion, sample, round, ttft_s, latency_s, new_tokens, token_ids}], tokens: [{prompt_id, emotion, sample,
    ttft_s, token_s: []}]}. width is None for inf.
    """
    inputs = [prepare([request]) for request in requests]
    found = warm_up(inputs[0], produce, settings.warmup_tokens, clock, synchronize) | {"texts": []}
    for number in range(settings.rounds):
        for request, one in zip(requests, inputs, strict=True):
            reading = time_text(one, produce, settings.new_tokens, clock, synchronize)
            found["texts"].append({**_key(request), "round": number, **reading})
        reached = width([reading["latency_s"] for reading in found["texts"]], settings.rounds)
        if reached <= settings.aim:
            break
    found |= {"rounds": number + 1, "width": reached if reached < float("inf") else None}
    found["stopped"] = "aim" if reached <= settings.aim else "cap"
    found["tokens"] = [
        {**_key(request), **time_tokens(one, produce, settings.new_tokens, clock, synchronize)}
        for request, one in list(zip(requests, inputs, strict=True))[: settings.token_texts]
    ]
    return found


def _key(request):
    return {key: request[key] for key in KEY}


def warm_up(inputs, produce, tokens, clock=time.perf_counter, synchronize=lambda: None):
    """Generate texts of so many tokens until three in a row take the same time within STEADY, WARM_UPS at most.

    Returns {warmup_s: [seconds], steady: whether they did}.
    """
    seconds, steady = [], False
    while len(seconds) < WARM_UPS and not steady:
        with _uncollected():
            synchronize()
            start = clock()
            produce(inputs, tokens)
            synchronize()
            seconds.append(clock() - start)
        last = seconds[-3:]
        steady = len(last) == 3 and max(last) <= (1 + STEADY) * min(last)
    return {"warmup_s": seconds, "steady": steady}


def time_text(inputs, produce, new_tokens, clock=time.perf_counter, synchronize=lambda: None):
    """Time one text's first token alone, and then the whole of it: {ttft_s, latency_s, new_tokens, token_ids}, seconds."""
    with _uncollected():
        synchronize()
        start = clock()
        produce(inputs, 1)
        synchronize()
        between = clock()
        output = produce(inputs, new_tokens)
        synchronize()
        end = clock()
    token_ids = output[0, -new_tokens:].tolist()
    return {"ttft_s": between - start, "latency_s": end - between, "new_tokens": len(token_ids), "token_ids": token_ids}


def time_tokens(inputs, produce, new_tokens, clock=time.perf_counter, synchronize=lambda: None):
    """Time one text token by token, waiting for the device at each: {ttft_s, token_s: [seconds of each further token]}."""
    moments = []

    def at_token():
        synchronize()
        moments.append(clock())

    with _uncollected():
        synchronize()
        start = clock()
        produce(inputs, new_tokens, at_token)
    return {"ttft_s": moments[0] - start, "token_s": [after - before for before, after in pairwise(moments)]}


@contextmanager
def _uncollected():
    """Collect garbage now, and none until the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def throughput(prepare, produce, requests, new_tokens, most, probe, clock=time.perf_counter, synchronize=lambda: None):
    """Time batches of 1, 2, 4 … texts up to `most`, or up to the largest that memory holds, which is found by halving.

    requests: taken in turn until a batch is full. A batch is not tried if its peak, on the line through those before it, would
    take more than FULL of what the probe says is free; one that runs out of a GPU's memory is given up. Returns {stopped: cap or
    memory, points: [{batch, seconds: [READINGS of them], new_tokens, and what the probe reads}]}, without points if most is 0.
    """
    points, size, too_many = [], min(1, most), most + 1
    while 0 < size < too_many:
        point = None
        if _expected_bytes(points, size) <= FULL * probe.free_bytes():
            batch = [requests[number % len(requests)] for number in range(size)]
            point = _time_batch(prepare, produce, batch, new_tokens, probe, clock, synchronize)
        if point:
            points.append(point)
        else:
            too_many = size
        fits = points[-1]["batch"] if points else 0
        size = min(2 * fits, most) if too_many > most else (fits + too_many) // 2
        if size == fits:
            break
    return {"stopped": "cap" if too_many > most else "memory", "points": points}


def _expected_bytes(points, size):
    """Give the bytes that a batch will take beyond what is held, on the line through two smaller ones; 0 if unknown."""
    if len(points) < 2 or "unknown" in (points[-1]["peak_bytes"], points[-2]["peak_bytes"], points[-1]["held_bytes"]):
        return 0
    small, large = points[-2:]
    slope = max(0, large["peak_bytes"] - small["peak_bytes"]) / (large["batch"] - small["batch"])
    return large["peak_bytes"] + slope * (size - large["batch"]) - large["held_bytes"]


def _time_batch(prepare, produce, batch, new_tokens, probe, clock, synchronize):
    """Time one batch READINGS times; None where a GPU's memory runs out."""
    import torch

    probe.start()
    try:
        inputs, seconds = prepare(batch), []
        produce(inputs, 2)
        for _ in range(READINGS):
            with _uncollected():
                synchronize()
                start = clock()
                produce(inputs, new_tokens)
                synchronize()
                seconds.append(clock() - start)
    except torch.OutOfMemoryError:
        return None
    return {"batch": len(batch), "seconds": seconds, "new_tokens": new_tokens, **probe.read()}


def over_batches(readings):
    """Sum up the readings of a pass by batch: (its seconds, its largest cache_bytes, {phase: the highest of each reading}).

    What is unknown for one batch is unknown for the pass.
    """
    phases = {}
    for phase in readings[0]["phases"]:
        by_name = {name: [reading["phases"][phase][name] for reading in readings] for name in readings[0]["phases"][phase]}
        phases[phase] = {name: "unknown" if "unknown" in values else max(values) for name, values in by_name.items()}
    return sum(r["quality_s"] for r in readings), max(r["cache_bytes"] for r in readings), phases


def since_start():
    """Give the seconds since this process began: at the start of a notebook's work, what its imports took."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the system's start; proc(5)
    except OSError:  # not Linux
        return time.time() - psutil.Process().create_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")  # no clock that somebody sets
