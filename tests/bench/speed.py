"""How long the default study takes: this build against another, and the products that it is made of. Peers: peers.py.

python tests/bench/speed.py builds FOLDER   FOLDER holds the files of the build before (git worktree add FOLDER TAG)
python tests/bench/speed.py limits          the products of the quality pass alone, and this machine's rates
python tests/bench/speed.py                 writes docs/speed.md anew

Each part needs a quiet machine, keeps what it measured in docs/speed.json, and writes docs/speed.md from all that is there.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import torch

from affq.inference import generate, probes
from affq.models import import_for, load
from affq.study import load_study

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "speed.md"
COMMAND = [sys.executable, "-P", "-c", "from affq.start import entry; entry()"]
STAGES = {"start_s": "starts", "load_s": "loading", "quality_s": "quality passes", "resource_s": "resource passes"}
FLOAT = {"fp32": torch.float32, "bf16": torch.bfloat16}
REPEATS = 5


def timed(command: list, build: Path, folder: Path) -> float:
    """Run a command of a build's, and return the seconds that it took."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(build)}
    subprocess.run([*COMMAND, *command, "--results", folder], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def builds(before: Path) -> dict:
    """Execute, score and report the default study with both builds in turn; return the seconds of each stage."""
    measured = {}
    for name, build in (("this", REPOSITORY), ("before", before)):
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=build, capture_output=True, text=True, check=True)
        with tempfile.TemporaryDirectory() as folder:
            walls = {verb: timed([verb, "default"], build, Path(folder)) for verb in ("run", "score", "report")}
            spent = pd.read_csv(Path(folder, "default", "tables", "time_spent.csv"))
        by_precision = spent.set_index("precision")[list(STAGES)].to_dict("index")
        measured[name] = {"commit": commit.stdout.strip(), "walls_s": walls, "stages_s": by_precision}
    return measured


def limits() -> dict:
    """Time the matrix products of the default study's quality pass alone, and this machine's fastest product and copy."""
    study, rates, products_s = load_study("default"), {}, {}
    for precision, dtype in FLOAT.items():
        run = study.run("smollm2-135m", precision)
        import_for(run.model.folder, precision)
        model, tokenizer = load(run.model.folder, precision, "cpu")
        requests, new_tokens = study.requests, study.generation.max_new_tokens
        layers = Counter(tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Linear))
        head = tuple(model.get_output_embeddings().weight.shape)
        prefill_rows = generate.prepare(model, tokenizer, requests)["input_ids"].numel()
        steps = ((prefill_rows, 1), (len(requests), new_tokens - 1))  # rows of a product, and how often it is made
        products_s[precision] = new_tokens * product_s(len(requests), *head, dtype)
        for shape, count in layers.items() - {(head, 1)}:
            products_s[precision] += sum(count * times * product_s(rows, *shape, dtype) for rows, times in steps)
        rates[precision] = 2 * 2048**3 / product_s(2048, 2048, 2048, dtype)
    return {"products_s": products_s, "flop_per_s": rates, "copy_bytes_per_s": copy_bytes_per_s()}


def copy_bytes_per_s() -> float:
    """Return the bytes that this machine's memory reads and writes in a second while an array is copied."""
    source = torch.ones(64_000_000)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest_s(lambda: target.copy_(source))


def machine() -> str:
    """Return what this machine is, in words."""
    processor, threads = probes.hardware("cpu")["processor"], torch.get_num_threads()
    return f"{processor}, {psutil.cpu_count()} processors, {threads} threads, torch {torch.__version__}"


def product_s(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> float:
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    with torch.inference_mode():
        return fastest_s(lambda: torch.nn.functional.linear(x, weight))


def fastest_s(work) -> float:
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def page(measured: dict) -> str:
    """Return docs/speed.md."""
    lines = ["# How long it takes", "", "Made by tests/bench/speed.py, which says how.", ""]
    if "builds" in measured:
        lines += of_builds(measured["builds"])
    if "limits" in measured and "builds" in measured:
        lines += of_limits(measured["limits"], measured["builds"]["this"])
    return "\n".join(lines)


def of_builds(measured: dict) -> list[str]:
    both = [measured["before"], measured["this"]]
    rows = [(f"`affq {verb} default`", *(build["walls_s"][verb] for build in both)) for verb in ("run", "score", "report")]
    rows.append(("all three", *(sum(build["walls_s"].values()) for build in both)))
    for stage, words in STAGES.items():
        rows.append((words, *(sum(run[stage] for run in build["stages_s"].values()) for build in both)))
        for precision in both[1]["stages_s"] if stage in ("quality_s", "resource_s") else ():
            rows.append((f"{words}, {precision}", *(build["stages_s"][precision][stage] for build in both)))
    return [
        "## The default study, by this build and by the one before",
        "",
        f"In turn on one machine ({measured['machine']}): commit {both[1]['commit']} and commit {both[0]['commit']}. Seconds; "
        "the stages are parts of `affq run`.",
        "",
        "| what | before | this build | ratio |",
        "|---|---|---|---|",
        *(f"| {what} | {before:,.1f} | {this:,.1f} | {this / before:.2f} |" for what, before, this in rows),
        "",
    ]


def of_limits(measured: dict, build: dict) -> list[str]:
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s at {precision}" for precision, rate in measured["flop_per_s"].items())
    rows = []
    for precision, products_s in measured["products_s"].items():
        quality_s = build["stages_s"][precision]["quality_s"]
        rows.append(f"| {precision} | {quality_s:,.1f} | {products_s:,.1f} | {products_s / quality_s:.0%} |")
    return [
        "## How near the quality pass is to its matrix products",
        "",
        f"The products of all layers, prefill and decoding, timed alone on {measured['machine']}, at their own sizes. "
        f"The machine's fastest product: {rates}; it copies {measured['copy_bytes_per_s'] / 1e9:,.1f} GB/s. "
        "The rest of a pass is attention, keys and values that are copied with each step, norms, and the choice of tokens.",
        "",
        "| precision | quality pass, s | its products alone, s | share |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def main(part: str = "", *folder: str) -> None:
    path = PAGE.with_suffix(".json")
    measured = json.loads(path.read_text()) if path.exists() else {}
    parts = {"builds": builds, "limits": limits}
    if part:
        measured[part] = parts[part](*map(Path, folder)) | {"machine": machine()}
        path.write_text(json.dumps(measured, indent=1) + "\n")
    PAGE.write_text(page(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
