"""How fast the engines decode one text, and how near that is to the memory's speed: python tests/bench/engines.py

Writes docs/engines.json and docs/engines.md anew; --rounds and --tokens make it shorter. It needs a quiet machine.

The packaged model, one text at a time, the engines in turn, each loaded as a run loads it and timed as the resource pass times
texts: transformers, and llama.cpp with the file as it was published and with others made of it. Beside each text of llama.cpp's
is what its own timings say of it. A step of decoding reads every weight once: their bytes over its seconds are held against what
the memory gives while an array is copied.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of bench

from bench.speed import REPOSITORY, copy_bytes_per_s, machine

from affq.inference import interference, measure
from affq.models import AskedEngine, engine_of, fetch
from affq.models.engines.llama_cpp import LlamaCpp
from affq.study import Run, Study, load_study

PAGE = REPOSITORY / "docs" / "engines.md"
MODEL = "smollm2-135m"
ASKED = (
    *(("transformers", precision) for precision in ("bf16", "fp32")),
    *(("llama.cpp", precision) for precision in ("stored", "q8_0", "fp32")),
)
SLOWEST = ("transformers", "bf16")  # what the others are held against
WARM_UP_TOKENS = 16
COLUMNS = "engine and precision, weights (MB), first token (ms), further token (ms), beside its own, of the memory's speed".split(
    ", "
)
COLUMNS += ["text (s)", "times as fast"]


class Told(LlamaCpp):
    """llama.cpp, with what its own timings say of the last text."""

    def _generate(self, *options: Any) -> Any:
        written = super()._generate(*options)
        self.timings = written[0].timings
        return written


class Timed:
    """An engine that has the model, and a text that it is timed with."""

    def __init__(self, study: Study, name: str, precision: str) -> None:
        model = next(model for model in study.models if model.name == MODEL)
        run = Run(study, model, precision, AskedEngine(name, name))
        fetch(model, precision, run.engine, print)
        self.engine = Told(run) if name == "llama.cpp" else engine_of(run)
        self.engine.import_all()
        _, self.clock = self.engine.instruments()
        self.engine.load()
        self.inputs = self.engine.prepare(study.requests[:1])

    def time(self, tokens: int) -> dict[str, float]:
        """Time the text, after warming up: {latency_s, ttft_s, token_s}, and own_token_s where the engine tells it."""
        measure.warm_up(self.inputs, self.engine.produce, min(WARM_UP_TOKENS, tokens), self.clock)
        timing = measure.time_text(self.inputs, self.engine.produce, tokens, self.clock)
        seconds = {name: timing[name] for name in ("latency_s", "ttft_s")}
        seconds["token_s"] = (timing["latency_s"] - timing["ttft_s"]) / (tokens - 1)
        if isinstance(self.engine, Told):
            seconds["own_token_s"] = self.engine.timings["predicted_per_token_ms"] / 1000
        return seconds

    def read_bytes(self) -> int:
        """Return the bytes of the weights that a step reads: all of them, but for an embedding that is no head too."""
        rows = self.engine.census()
        apart = any(row["role"] == "head" for row in rows)
        return sum(row["bytes"] for row in rows if not (apart and row["role"] == "embedding"))


def timings(rounds: int, tokens: int) -> dict[str, Any]:
    """Time every engine once in each round; return the texts of each, the bytes of its weights, and the machine's load."""
    study, engines = load_study("default"), {}
    try:
        for asked in ASKED:
            engines[" ".join(asked)] = Timed(study, *asked)
        texts: dict[str, list] = {name: [] for name in engines}
        with interference.watched(interference.LoadProbe("cpu")) as load:
            for _ in range(rounds):
                for name, timed in engines.items():
                    texts[name].append(timed.time(tokens))
        read_bytes = {name: timed.read_bytes() for name, timed in engines.items()}
        about = engines["llama.cpp stored"].engine.about()
    finally:
        for timed in engines.values():
            timed.engine.close()
    rate = copy_bytes_per_s()
    measured = {"tokens": tokens, "texts": texts, "read_bytes": read_bytes, "llama.cpp": about, "load": load}
    return {"machine": machine(), "copy_bytes_per_s": rate, **measured}


def page(measured: dict[str, Any]) -> str:
    """Return docs/engines.md."""
    middle = {name: {key: median(text[key] for text in texts) for key in texts[0]} for name, texts in measured["texts"].items()}
    slowest, rate = middle[" ".join(SLOWEST)], measured["copy_bytes_per_s"]
    rows = []
    for name, seconds in middle.items():
        share = measured["read_bytes"][name] / seconds["token_s"] / rate
        own = f"{seconds['token_s'] / seconds['own_token_s'] - 1:+.1%}" if "own_token_s" in seconds else ""
        rows.append(
            f"| {name} | {measured['read_bytes'][name] / 1e6:,.0f} | {1000 * seconds['ttft_s']:,.0f} | "
            f"{1000 * seconds['token_s']:.1f} | {own} | {share:.0%} | {seconds['latency_s']:.2f} | "
            f"{slowest['latency_s'] / seconds['latency_s']:.1f} |"
        )
    disturbed = ", ".join(disturbance.phrase for disturbance in interference.disturbances(measured["load"]))
    count, about = len(measured["texts"][" ".join(SLOWEST)]), measured["llama.cpp"]
    return f"""# One text at a time, engine by engine

Made by tests/bench/engines.py, which says how.

{MODEL}, one text of {measured["tokens"]} tokens, the engines in turn: medians of {count} rounds on one machine
({measured["machine"]}; xllamacpp {about["xllamacpp"]}, {about["threads"]} threads). Its memory reads and writes
{rate / 1e9:,.1f} GB/s while an array is copied. Disturbed: {disturbed or "by nothing"}.

*Beside its own*: the seconds of a token, as the client sees them, against llama.cpp's own timings of the same texts.
*Of the memory's speed*: the weights' bytes over the seconds of a token. *Times as fast*: a whole text, against
{" ".join(SLOWEST)}.

| {" | ".join(COLUMNS)} |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page; what was measured goes beside it as JSON")
    asked = parser.parse_args()
    measured = timings(asked.rounds, asked.tokens)
    asked.out.with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n")
    asked.out.write_text(page(measured))


if __name__ == "__main__":
    main()
