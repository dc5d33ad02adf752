"""A soak: the same texts again and again in one process, and what memory is held after each round."""

import gc
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psutil

from affq.inference.engine import Engine
from affq.inference.probes import UNKNOWN, Clock
from affq.inference.requests import KEY, Request, key_of


def rounds(
    serving: Engine,
    requests: Sequence[Request],
    soak_s: float,
    rows: Iterable[dict[str, Any]] = (),
    readings: Sequence[dict[str, Any]] = (),
    clock: Clock = time.perf_counter,
) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Generate the requests one at a time, round after round, until `soak_s` seconds are over; yield each round.

    A round is its rows and its reading, as results.schemas has them in SoakRow and SoakReading; one that was begun ends. rows,
    readings: of the soak's earlier processes, whose texts are the ones to compare with, and whose seconds count. A text that
    fails is a row with its error, which is raised where a whole round has nothing else: a server that is gone does not come back.
    """
    first: dict[tuple, str] = {}
    for row in rows:
        if row["text"] is not None:
            first.setdefault(_key(row), row["text"])
    process = 1 + max((reading["process"] for reading in readings), default=0)
    before_s = max((reading["start_s"] + reading["seconds"] for reading in readings), default=0.0)
    number, began = len(readings), clock()
    while (start_s := before_s + clock() - began) < soak_s:
        made: list[dict[str, Any]] = []
        cache_bytes: set[int | str] = set()
        failure: Exception | None = None
        for place, request in enumerate(requests):
            row = {**key_of(request), "round": number, "number": place, "process": process}
            row["start_s"] = before_s + clock() - began
            try:
                made.append({**row, **_text(serving, request, first, cache_bytes, clock), "error": None})
            except Exception as error:  # whatever a model trips over that has served for hours
                failure, seconds = error, before_s + clock() - began - row["start_s"]
                nothing = {"ttft_s": None, "new_tokens": 0, "text": None, "differs_at": None}
                made.append({**row, "seconds": seconds, **nothing, "error": f"{type(error).__name__}: {error}"})
        reading = {"round": number, "process": process, "start_s": start_s, "seconds": before_s + clock() - began - start_s}
        known = cache_bytes and UNKNOWN not in cache_bytes
        yield made, {**reading, **held(), "cache_bytes": max(map(int, cache_bytes)) if known else None}
        if failure and all(row["error"] for row in made):
            raise failure
        number += 1


def _key(row: Any) -> tuple:
    return tuple(row[name] for name in KEY)


def _text(
    serving: Engine, request: Request, first: dict[tuple, str], cache_bytes: set[int | str], clock: Clock
) -> dict[str, Any]:
    """Generate one text; return its times, and what it says where it is the first of its request, or differs from that."""
    moments: list[float] = []

    def at_token() -> None:
        if not moments:
            moments.append(clock())

    start = clock()
    (text,), bytes_of_cache = serving.texts([request], at_token)
    seconds = clock() - start
    cache_bytes.add(bytes_of_cache)
    words = text["text"]
    is_first = _key(request) not in first
    known = first.setdefault(_key(request), words)
    return {
        "seconds": seconds,
        "ttft_s": moments[0] - start if moments else None,
        "new_tokens": text["new_tokens"],
        "text": words if is_first or words != known else None,
        "differs_at": None if words == known else len(os.path.commonprefix([words, known])),
    }


def held() -> dict[str, int | None]:
    """Return what memory is held now, in bytes, None where there is no such thing.

    rss_bytes: resident, of this process, whose garbage is collected first; server_rss_bytes: of the processes that it has
    started, such as an engine's server; allocated_bytes: by torch on its GPUs. Freed memory that an allocator keeps is in it, as
    the system has it no more.
    """
    import torch

    gc.collect()
    own, servers = psutil.Process(), []
    for child in own.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            servers.append(child.memory_info().rss)
    cuda = torch.cuda
    on_gpus = sum(map(cuda.memory_allocated, range(cuda.device_count()))) if cuda.is_initialized() else None
    return {
        "rss_bytes": own.memory_info().rss,
        "server_rss_bytes": sum(servers) if servers else None,
        "allocated_bytes": on_gpus,
    }
