"""Join and summarize many runs, and write to summary.md, beside this file, what it cost.

OMP_NUM_THREADS=1 python tests/bench/summary.py takes some minutes. Records of runs of 143 prompts and seven emotions are written
to a temporary folder by hand; no model runs. Each size is measured in a process of its own: seconds of processor time, and the
most memory held.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import affq
from affq.inference import KEY
from affq.models.sources import Architecture
from affq.results import record as records
from affq.study import load_study
from affq.study.prompts import cross, read_prompts

HERE = Path(__file__).parent
SIZES = (100, 300, 1000)
PROMPTS = 143  # times seven emotions: 1,001 texts a run
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4")
FRAMES = {"join": "texts", "arrays": "compared", "intervals": "intervals", "summary": "summary"}
FRAMES |= {"differences, and 1,000 resamples": "differences"}
CENSUS = [{"role": "weight", "dtype": "x", "parameters": 1, "elements": 1, "bytes": 1000}]
QUIET = {"seconds": 1.0, "other_processors": 0.0, "stolen_processors": 0.0, "throttled_s": 0.0, "hot": 0, "swapped_bytes": 0}
AS_MADE = {"thought_tokens": 0, "opens_turn": False}
PEAK = {"peak_bytes": 5000, "held_bytes": 1000}


def study_of(runs, folder):
    """Give a study of so many runs, of models that are no more than their names."""
    lines = [f'p{n},{"general" if n % 2 else "event"},"Write {n} of {{emotion}}.",Write {n}.' for n in range(PROMPTS)]
    (folder / "many.csv").write_text("id,kind,text,text_without_emotion\n" + "\n".join(lines) + "\n")
    (folder / "many.yaml").write_text(
        f"models: [smollm2-135m]\nprecisions: {json.dumps(PRECISIONS)}\nprompts: many.csv\njudges: [minilm-lora]\n"
        "measurement: {texts: 10}\nperplexity: null\nbatch: 1001\n"
    )
    models = tuple(Architecture(f"model-{number:04}", "{}") for number in range(runs // len(PRECISIONS)))
    return dataclasses.replace(load_study(folder / "many.yaml"), models=models)


def write(study, results):
    """Write complete, scored records of each run: texts of thirty words, judged as asked in half of them."""
    rng, requests = np.random.default_rng(0), cross(read_prompts(study.prompts), study.emotions)
    words = np.array([f"word{n}" for n in range(2000)])
    load = {name: QUIET | {"gpus": []} for name in ("before", "during")}
    for record in records.records(results, study):
        texts = [" ".join(row) for row in rng.choice(words, (len(requests), 30))]
        rows = [
            {key: request[key] for key in ("prompt_id", "kind", "emotion", "sample")}
            | {"prompt": request["request"], "text": text, "new_tokens": 30, "ended": True, **AS_MADE}
            for request, text in zip(requests, texts, strict=True)
        ]
        record.start({"hardware": {"device": "cpu"}, "weights_sha256": "f00"})
        record.append(rows, {"phases": {"decode": PEAK}})
        timed = [
            {key: row[key] for key in KEY}
            | {"round": 0, "ttft_s": 0.1, "latency_s": 1 + rng.random() / 9, "new_tokens": 8, "token_ids": [1] * 8}
            for row in rows[:10]
        ]
        one = {"warmup_s": [1.0], "steady": True, "rounds": 1, "width": None, "stopped": "cap", "load": load, "texts": timed}
        record.keep_pass(1, one | {"tokens": []})
        about = {"class": "M", "attention": "sdpa", "compute_dtype": "float32", "kernels": "torch", "chat_template": "x"}
        about |= {"ends": {}}
        memory = {
            "kind": "rss",
            "base_bytes": 7,
            "cache_bytes": 100,
            "phases": dict.fromkeys(("prefill", "decode", "resource"), PEAK),
        }
        seconds = {"start_s": 1.0, "load_s": 1.0, "quality_s": 1.0, "resource_s": 1.0}
        rest = {"alone": [], "throughput": {"stopped": "cap", "points": []}, "kernels": [], "seconds": seconds}
        record.finish({"model": about, "census": CENSUS, "memory": memory, **rest})
        keys = [{key: row[key] for key in KEY} for row in rows]
        judged = [
            key
            | {"judged_emotion": (right and key["emotion"]) or "joy", "probabilities": dict.fromkeys(study.emotions, 0.142857)}
            for key, right in zip(keys, rng.random(len(keys)) < 0.5, strict=True)
        ]
        for scorer in ("minilm-lora", "minilm-lora-masked"):
            record.score(scorer, {}, lambda _, judged=judged: judged)
        asked = [key | {"rouge1": 0.4, "rouge2": 0.2, "rougeL": rng.random()} for key in keys if key["emotion"]]
        record.score("rouge-references", {}, lambda _, asked=asked: asked)


def measure(runs, folder):
    """Join, summarize, compare: seconds of processor time of each, and the most memory."""
    results, seconds = affq.Results(study_of(runs, folder), folder / "results"), {}
    for name, frame in FRAMES.items():
        begun = time.process_time()
        getattr(results, frame)
        seconds[name] = time.process_time() - begun
    most_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"runs": runs, "texts": len(results.texts), "seconds": seconds, "most_bytes": most_bytes}


def main():
    rows = []
    for runs in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write(study_of(runs, Path(folder)), Path(folder) / "results")
            done = subprocess.run([sys.executable, __file__, str(runs), folder], check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout))
    names = list(rows[0]["seconds"])
    lines = [
        "# What joining and summarizing many runs costs\n",
        "Made by `OMP_NUM_THREADS=1 python tests/bench/summary.py`: seconds of processor time, and most memory held.\n",
        f"| runs | texts | {' | '.join(names)} | together, s | memory, GB |",
        f"|{' --- |' * (len(names) + 4)}",
    ]
    for row in rows:
        figures = " | ".join(f"{row['seconds'][name]:.1f}" for name in names)
        together, memory_gb = sum(row["seconds"].values()), row["most_bytes"] / 1e9
        lines.append(f"| {row['runs']:,} | {row['texts']:,} | {figures} | {together:.1f} | {memory_gb:.2f} |")
    (HERE / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]))))
    else:
        main()
