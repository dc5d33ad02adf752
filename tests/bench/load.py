"""Ask one server for the same texts by affq's load generator and by GuideLLM: python tests/bench/load.py ENVIRONMENT

Writes docs/load.json and docs/load.md anew; --texts, --streams, --rates and --repetitions make it shorter. It needs a quiet
machine. ENVIRONMENT is a folder, or becomes one: a virtual environment that has GuideLLM, and all else of this one.

llama.cpp's server has the packaged model, over TCP on this machine. Both ask its chat for the study's requests, with the same
settings and as many new tokens at most, level by level in turn: affq, then GuideLLM. Medians over the texts of each level are
held against each other. In an open loop both send at moments of their own drawing, so that queues differ.

Before, affq alone asks a server whose every token comes when it is planned to, in real time: tests/test_load.py asks the same in
time that jumps.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Queue
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of bench

import numpy as np
import torch
from bench.speed import REPOSITORY, machine
from servers import llama_server
from simulated import QUANTILES, REQUESTS, Known, client, planned, seconds

from affq.inference import interference, load, probes
from affq.models import STORED, AskedEngine, fetch
from affq.models.engines.openai import OpenAI
from affq.study import Run, load_study

PAGE = REPOSITORY / "docs" / "load.md"
GUIDELLM = "guidellm==0.8.1"
NAMES = ("first token", "further token", "text")
WARM_UP = 2  # texts a slot
PAUSE = (3.0, 5.0)  # of the known server, in seconds of the level
COLUMNS = ("asked", *(f"{name}: {of}" for name in NAMES for of in ("affq (ms)", "GuideLLM (ms)", "ratio")))


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with GuideLLM, which takes what it can from this one; return its folder of commands."""
    commands = folder / "bin"
    if not (commands / "guidellm").exists():
        venv.create(folder, with_pip=True)
        (packages,) = folder.glob("lib/python3*/site-packages")
        (packages / "affq.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run([commands / "python", "-m", "pip", "install", "--quiet", GUIDELLM], check=True)
    return commands


def by_guidellm(command: Path, engine: OpenAI, prompts: Path, level: load.Level, texts: int, scratch: Path) -> list[dict]:
    """Return the seconds of each text that GuideLLM asked for at a level."""
    body = engine._body(engine.run.study.requests[0], most := engine.run.study.generation.max_new_tokens, timed=False)
    settings = {name: value for name, value in body.items() if name not in ("model", "messages", "stream", "max_tokens")}
    profile: dict[str, Any] = {"kind": "concurrent", "streams": [level.streams]}
    if level.rate:
        profile = {"kind": "poisson", "rate": [level.rate]}
    backend = {"kind": "openai_http", "target": engine.run.engine.address, "model": engine.run.engine.served, "max_tokens": most}
    asked = {
        "backend": {**backend, "request_format": "/v1/chat/completions", "extras": {"body": settings}},
        "profile": profile,
        "constraints": [{"kind": "max_requests", "count": texts}],
        "tokenizer": {"kind": "huggingface_auto", "model": str(engine.run.model.folder)},
        "data": [{"kind": "json_file", "path": str(prompts)}],
        "outputs": [{"kind": "json", "path": str(scratch / "told.json")}],
    }
    (scratch / "asked.json").write_text(json.dumps({"spec": asked}))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(scratch / "datasets")}
    words = [command, "run", "--config", scratch / "asked.json", "--disable-console"]
    subprocess.run(words, check=True, env=environment, cwd=scratch)
    (benchmark,) = json.loads((scratch / "told.json").read_text())["benchmarks"]
    rows = benchmark["requests"]["successful"]
    return [
        {
            "first token": row["time_to_first_token_ms"] / 1000,
            "further token": row["inter_token_latency_ms"] / 1000,
            "text": row["request_latency"],
            "new_tokens": row["output_tokens"],
        }
        for row in rows
    ]


def by_affq(engine: OpenAI, level: load.Level, texts: int, seed: int, repetition: int) -> tuple[list[dict], dict]:
    """Return the seconds of each text that affq asked for at a level, since it was sent, and the level's reading."""
    rows, reading = load.measure(engine, engine.run.study.requests[:texts], level, texts, seed, repetition)
    texts_s = [
        {
            "first token": row["first_s"] - row["sent_s"],
            "further token": (row["moments_s"][-1] - row["first_s"]) / (len(row["moments_s"]) - 1),
            "text": row["end_s"] - row["sent_s"],
            "new_tokens": row["new_tokens"],
        }
        for row in rows
        if row["error"] is None and len(row["moments_s"]) > 1
    ]
    return texts_s, dict(reading)


class Pausing:
    """An engine whose server pauses from some seconds of a level on."""

    def __init__(self, serving: OpenAI, known: Known) -> None:
        self.serving, self.known, self.need = serving, known, serving.need

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Any]:
        async with self.serving.asking() as ask:
            now = asyncio.get_running_loop().time()
            self.known.pause = (now + PAUSE[0], now + PAUSE[1])
            yield ask


def of_known_server() -> list[dict[str, Any]]:
    """Return percentiles of a level in an open loop beside those that the server planned, in milliseconds."""
    known, address = Known(), Queue[str]()

    async def serve() -> None:
        async with known.serving() as there:
            address.put(there)
            await asyncio.sleep(3600)

    threading.Thread(target=asyncio.run, args=[serve()], daemon=True).start()  # its clock is this process's
    serving, rate, texts = client(address.get()), 10.0, 100
    rows, _ = load.measure(Pausing(serving, known), REQUESTS, load.Level(0, rate=rate), texts, seed=0)
    truth = planned(np.array(load.due(rate, texts, seed=0, repetition=0)), Known(PAUSE))
    told = [
        {"of": name, "quantile": share, "ms": 1000 * float(np.quantile(values, share)), "planned_ms": 1000 * float(at)}
        for name, values in seconds(rows).items()
        for share, at in zip(QUANTILES, np.quantile(truth[name], QUANTILES), strict=True)
    ]
    serving.close()
    return told


def measured(environment: Path, texts: int, streams: list[int], rates: list[float], repetitions: int) -> dict[str, Any]:
    """Return what both measured at each level, text by text, and what disturbed it."""
    commands, study = make_environment(environment), load_study("default")
    model = next(model for model in study.models if model.name == "smollm2-135m")
    fetch(model, STORED, AskedEngine("llama.cpp", "llama.cpp"), print)
    slots, threads, known = max(streams), torch.get_num_threads(), of_known_server()
    levels: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="affq-bench-") as folder,
        llama_server(model.gguf, slots=slots, threads=threads) as (address, _),
    ):
        scratch = Path(folder)
        prompts = scratch / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": request["request"]}) + "\n" for request in study.requests[:texts]))
        engine = OpenAI(Run(study, model, STORED, AskedEngine("openai", "local", address, str(model.gguf))))
        engine.serve(slots)
        by_affq(engine, load.Level(0, streams=slots), WARM_UP * slots, 0, 0)
        probes.settle()
        with interference.watched(interference.LoadProbe("server")) as machine_load:
            for repetition, level in load.in_turn(load.levels(streams, rates), repetitions):
                ours, reading = by_affq(engine, level, texts, study.seed, repetition)
                theirs = by_guidellm(commands / "guidellm", engine, prompts, level, texts, scratch)
                levels.append({"repetition": repetition, "streams": level.streams, "rate": level.rate})
                levels[-1] |= {"affq": ours, "GuideLLM": theirs, "reading": reading}
        about = engine.about()
        engine.close()
    settings = {"texts": texts, "new_tokens": study.generation.max_new_tokens, "repetitions": repetitions}
    servers = {"server": about["server"], "threads": threads, "slots": slots, "guidellm": GUIDELLM}
    return {"machine": machine(), **settings, **servers, "known": known, "levels": levels, "load": machine_load}


def page(told: dict[str, Any]) -> str:
    """Return docs/load.md."""
    lines, ratios = [], []
    asked = dict.fromkeys((level["streams"], level["rate"]) for level in told["levels"])
    for streams, rate in asked:
        rows = [level for level in told["levels"] if (level["streams"], level["rate"]) == (streams, rate)]
        cells = [f"{rate:g} texts a second" if rate else f"{streams} stream{'s' if streams > 1 else ''}"]
        for name in NAMES:
            # The repetitions' median: one that something disturbed does not count for the level.
            middle = {
                who: statistics.median(statistics.median(text[name] for text in row[who]) for row in rows)
                for who in ("affq", "GuideLLM")
            }
            ratio = middle["affq"] / middle["GuideLLM"]
            ratios += [] if rate else [ratio]
            cells += [f"{1000 * middle['affq']:,.1f}", f"{1000 * middle['GuideLLM']:,.1f}", f"{ratio:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    known = [
        f"| {row['of']} | {100 * row['quantile']:.0f} | {row['ms']:,.2f} | {row['planned_ms']:,.2f} | "
        f"{row['ms'] / row['planned_ms']:.3f} |"
        for row in told["known"]
    ]
    busiest = max(level["reading"]["client_busy"] for level in told["levels"])
    lag_s = max(level["reading"]["lag_s"] for level in told["levels"])
    disturbed = ", ".join(disturbance.phrase for disturbance in interference.disturbances(told["load"]))
    return f"""# affq's load generator and GuideLLM's, on one server

Made by tests/bench/load.py, which says how.

smollm2-135m behind {told["server"]}, {told["threads"]} threads and {told["slots"]} slots, on one machine ({told["machine"]}).
{told["texts"]} texts of at most {told["new_tokens"]} tokens a level, {told["repetitions"]} repetitions, affq and
{told["guidellm"]} in turn; the median repetition's median over texts, since each was sent.
Disturbed: {disturbed or "by nothing"}.

In the closed loop the ratios are between {min(ratios):.3f} and {max(ratios):.3f}. affq's process took {busiest:.2f} of a
processor at most, and its event loop woke {1000 * lag_s:.1f} ms late at most, 99 times in 100.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
{chr(10).join(lines)}

A server of known behaviour, in real time: 100 texts, 10 a second in an open loop, the first token after 50 ms, nine more 10 ms
apart, and a pause of two seconds in the midst. What affq measured since each text was due, beside what the server planned:

| seconds | percentile | affq (ms) | planned (ms) | ratio |
|---|---|---|---|---|
{chr(10).join(known)}
"""


def numbers(words: str) -> list[float]:
    return [float(word) for word in words.split(",") if word]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", type=Path, help="the folder of GuideLLM's virtual environment; made where it is not there")
    parser.add_argument("--texts", type=int, default=40, help="of each level and repetition")
    parser.add_argument("--streams", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--rates", type=numbers, default=[0.5])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page; what was measured goes beside it as JSON")
    asked = parser.parse_args()
    told = measured(asked.environment, asked.texts, [int(n) for n in asked.streams], asked.rates, asked.repetitions)
    asked.out.with_suffix(".json").write_text(json.dumps(told) + "\n")
    asked.out.write_text(page(told))


if __name__ == "__main__":
    main()
