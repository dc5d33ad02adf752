"""How long a study will take on this machine, and how much memory, before any of it starts."""

import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from affq.files import packaged_yaml
from affq.inference import READINGS
from affq.models import PRECISIONS, STORED, TRANSFORMERS
from affq.study import Run, Study

PROBE_S = 0.2
USEFUL_CORES = 8  # behind more of them, reading the weights from memory sets the pace; not measured


def seconds(run: Run, device: str) -> float | None:
    """Return the seconds that one run is estimated to take; None for what was never measured: other devices and engines, a new
    precision.

    Right to a factor of two or three: it is what the default study took (reference_speed.yaml), in proportion to parameters,
    tokens and this machine's fp32 speed. Further off are processors without bf16 units at all but fp32, mixtures of experts,
    which compute with a part of their parameters, texts that end early, and sampled ones, whose noise takes 0.7 ms a token of
    a 49,152-token vocabulary and is not counted.
    """
    measured = run.precision + ("" if run.engine.name == TRANSFORMERS else f" on {run.engine.name}")
    if device != "cpu" or measured not in reference()["seconds"]:
        return None
    took, then, now = reference()["seconds"][measured], reference()["sizes"], _sizes(run)
    # A step gives each text of a batch a token: so much time for the first, so much for each one more.
    first_s = took["resource_s"] / then["timed_tokens"]
    more_s = (took["quality_s"] / then["max_new_tokens"] - then["batches"] * first_s) / (then["texts"] - then["batches"])
    quality_s = now["max_new_tokens"] * (now["batches"] * first_s + (now["texts"] - now["batches"]) * more_s)
    processes = run.study.measurement.processes  # each starts, loads and measures; the first alone generates
    again_s = (processes - 1) * (took["load_s"] + now["timed_tokens"] * first_s)
    batches_s = now["batch_steps"] * first_s + now["batch_more"] * more_s
    work_s = took["load_s"] + quality_s + now["timed_tokens"] * first_s + again_s + batches_s
    speed = now["parameters"] / then["parameters"] * reference()["gflops"] / machine_gflops()
    return processes * took["start_s"] + work_s * speed


def report_seconds() -> float:
    """Return the estimated seconds of scoring and reporting the default study here, on the processor, whatever the runs use."""
    return reference()["report_s"] * reference()["gflops"] / machine_gflops()


def memory_bytes(run: Run) -> int:
    """Return an upper bound of the resident memory of one run's process while it loads on a CPU.

    A file of weights is read whole, then converted tensor by tensor; several files are read one after the other and take less.
    Measured for one file of float32 and for one of bfloat16: up to 6 % less. Long texts in large batches can take more.
    """
    model = run.model
    if run.precision == STORED:
        return reference()["base_bytes"] + 2 * model.stored_bytes
    # What is stored in fewer than 16 bits a weight (GGUF) is loaded from a float32 copy; random weights are in no file.
    copied = 0 < model.stored_bytes < 2 * model.parameters
    file_bytes = 4 * model.parameters if copied else model.stored_bytes
    dtype_bytes = 4 if PRECISIONS[run.precision].compute_dtype == "float32" else 2
    return reference()["base_bytes"] + file_bytes + max(file_bytes, dtype_bytes * model.parameters)


def words(seconds: float) -> str:
    """Return seconds as people say them, rounded up: under a minute, about 5 min, about 4 h, about 3 days."""
    if seconds < 60:
        return "under a minute"
    for unit, length_s, most in (("min", 60, 90), ("h", 3600, 48)):
        if seconds <= most * length_s:
            return f"about {math.ceil(seconds / length_s)} {unit}"
    return f"about {math.ceil(seconds / 86400)} days"


@cache
def reference() -> dict[str, Any]:
    """Return reference_speed.yaml, which explains its keys."""
    return packaged_yaml(Path(__file__).with_name("reference_speed.yaml").read_text(encoding="utf-8"))


def _sizes(run: Run) -> dict[str, int]:
    """Return the sizes of a run, under the keys of the reference's `sizes`."""
    study = run.study
    timed = study.measurement
    sizes = [2**power for power in range(timed.throughput.bit_length())]
    steps = READINGS * timed.new_tokens
    return {
        "parameters": run.model.parameters,
        "texts": study.texts_wanted,
        "batches": math.ceil(study.texts_wanted / study.batch),
        "max_new_tokens": study.generation.max_new_tokens,
        "timed_tokens": timed_tokens(study),
        "batch_steps": len(sizes) * steps,
        "batch_more": sum(size - 1 for size in sizes) * steps,
    }


def timed_tokens(study: Study) -> int:
    """Return the number of tokens of a resource pass that makes all its rounds.

    Of the warm-ups three are counted, the fewest that there may be.
    """
    timed = study.measurement
    texts = min(timed.texts, study.texts_asked // study.samples) * timed.rounds
    return (texts + timed.token_texts) * timed.new_tokens + 3 * timed.warmup_tokens


@cache
def machine_gflops() -> float:
    """Return this machine's speed at fp32 matrix products when idle (10⁹ operations a second): one core's, times the cores.

    Measured with products too small for a library to split between threads, and the fastest of many, so that other programs do
    not show in it (a product on all cores took up to 15 times as long while another process kept one of them busy).
    """
    matrix = np.random.default_rng(0).random((96, 96), dtype=np.float32)
    product, count, fastest_s = np.empty_like(matrix), 20, math.inf
    end = time.perf_counter() + PROBE_S
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(count):
            np.matmul(matrix, matrix, out=product)
        fastest_s = min(fastest_s, time.perf_counter() - start)
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return min(cores, USEFUL_CORES) * count * 2 * len(matrix) ** 3 / fastest_s / 1e9
