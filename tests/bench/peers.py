"""Give affq and its peers the same work on the same machine: lm-eval for the texts, optimum-benchmark for memory and latency.

python tests/bench/peers.py ENVIRONMENT needs a quiet machine and the default model's weights, and writes docs/peers.json and
docs/peers.md; lm-eval, optimum-benchmark or affq behind it measure these alone. ENVIRONMENT is a folder, or becomes one: a
virtual environment with the peers, which need an older transformers. The prompts are those that the default study asks for an
emotion, as affq renders them. Each command is timed as a whole, from its start to its end, as a user waits for it.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import transformers
import yaml

import affq
from affq.inference import probes
from affq.inference.chat import render
from affq.study import load_study

AFFQ = Path(sys.executable).with_name("affq")
TORCH = "torch==2.13.0"
PEERS = ("lm-eval==0.4.13", "optimum-benchmark==0.6.0", "transformers==4.57.6", "bitsandbytes==0.50.2")
PEERS += ("accelerate==1.15.0", "datasets==5.0.1")
MODEL, DTYPES = "smollm2-135m", {"fp32": "float32", "int8": "bfloat16"}  # what computes, in affq too
TEXTS, NEW_TOKENS, TIMED = 70, 64, 10
ENVIRON = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HYDRA_FULL_ERROR": "1"}


def make_environment(folder):
    """Make a virtual environment with the peers. torch goes first, from where the user's pip finds it."""
    venv.create(folder, with_pip=True)
    for packages in ([TORCH], [TORCH, *PEERS]):
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=True)


def older(model, folder):
    """Copy a model folder for transformers 4.57, which does not know some words of 5: weights and tokenizer stay the same.

    It would take rope_theta for its default, without a word, and texts would be others.
    """
    shutil.copytree(model, folder, copy_function=os.symlink)
    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"]}
    tokenizer |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, content in {"config.json": config, "tokenizer_config.json": tokenizer}.items():
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))


def wait_for(command, folder):
    """Return the seconds that a command takes from its start to its end, and why it failed, if it did."""
    begun = time.perf_counter()
    caches = {name: str(folder / "cache") for name in ("HF_HOME", "HF_DATASETS_CACHE")}
    done = subprocess.run(command, cwd=folder, env=os.environ | ENVIRON | caches, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        return {"wall_s": seconds, "error": (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}
    return {"wall_s": seconds}


def lm_eval(binaries, model, prompts, precision, folder):
    """Let lm-eval write the texts: one batch, greedy, each up to its end. It judges no emotion: the metric does nothing."""
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    task = {"task": "prompts", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "prompts.jsonl")}}}
    task |= {"test_split": "test", "output_type": "generate_until", "doc_to_text": "prompt", "doc_to_target": ""}
    task |= {"generation_kwargs": {"until": [], "max_gen_toks": NEW_TOKENS, "do_sample": False}}
    task |= {"metric_list": [{"metric": "bypass"}]}
    (folder / "prompts.yaml").write_text(yaml.safe_dump(task))
    options = {"pretrained": str(model), "dtype": DTYPES[precision]} | ({"load_in_8bit": True} if precision == "int8" else {})
    given = ",".join(f"{name}={value}" for name, value in options.items())
    command = [binaries / "lm-eval", "run", "--model", "hf", "--model_args", given, "--device", "cpu", "--batch_size", str(TEXTS)]
    command += ["--include_path", folder, "--tasks", "prompts", "--log_samples", "--output_path", folder / "out"]
    row = wait_for(command, folder)
    if "error" not in row:
        texts = [json.loads(line) for path in (folder / "out").rglob("samples_*.jsonl") for line in path.open()]
        results = json.loads(next((folder / "out").rglob("results_*.json")).read_text())
        if [text["arguments"]["gen_args_0"]["arg_0"] for text in sorted(texts, key=lambda text: text["doc_id"])] != prompts:
            raise RuntimeError("lm-eval asked for something else")
        row["own"] = f"{len(texts)} texts in {float(results['total_evaluation_time_seconds']):.0f} s with loading"
    return row


def optimum_benchmark(binaries, model, prompt_tokens, precision, folder):
    """Let optimum-benchmark time texts one at a time, and read its memory: random tokens, as long as the median prompt."""
    backend = {"model": str(model), "device": "cpu", "task": "text-generation", "torch_dtype": DTYPES[precision]}
    if precision == "int8":  # quantization_config alone, to which a warning sends, would load it unquantized
        backend |= {"quantization_scheme": "bnb", "quantization_config": {"load_in_8bit": True, "llm_int8_threshold": 6.0}}
    shapes = {"batch_size": 1, "sequence_length": prompt_tokens}
    forced = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    scenario = {"latency": True, "memory": True, "iterations": TIMED, "input_shapes": shapes, "generate_kwargs": forced}
    # Its launcher `inline` ends with a TypeError; by `spawn` each reading of memory starts a process that imports everything.
    kinds = ["benchmark", {"scenario": "inference"}, {"launcher": "process"}, {"backend": "pytorch"}, "_self_"]
    run = {"run": {"dir": str(folder / "out")}, "job": {"chdir": True}}
    config = {"defaults": kinds, "name": "peers", "hydra": run, "scenario": scenario, "backend": backend}
    config |= {"launcher": {"start_method": "fork"}}
    (folder / "peers.yaml").write_text(yaml.safe_dump(config))
    row = wait_for([binaries / "optimum-benchmark", "--config-dir", folder, "--config-name", "peers"], folder)
    if "error" not in row:
        report = json.loads((folder / "out" / "benchmark_report.json").read_text())
        latency, peak_mb = report["generate"]["latency"], report["decode"]["memory"]["max_ram"]
        row["own"] = f"{latency['p50']:.2f} s a text (median of {latency['count']}), peak {peak_mb / 1e3:.2f} GB with libraries"
    return row


def affq_study(folder):
    """Let affq do both, judge the texts, compare the precisions, and write the page: run and report, each a command."""
    study = {"models": [MODEL], "precisions": list(DTYPES), "generation": {"max_new_tokens": NEW_TOKENS}}
    study |= {"measurement": {"texts": TIMED, "new_tokens": NEW_TOKENS}}
    (folder / "peers.yaml").write_text(yaml.safe_dump(study))
    rows = {
        verb: wait_for([AFFQ, verb, "peers.yaml", "--results", "results"], folder) | {"own": ""} for verb in ("run", "report")
    }
    if not any("error" in row for row in rows.values()):
        runs = list(affq.Results(folder / "peers.yaml", folder / "results").summary.itertuples())
        costs = (f"{r.precision} {r.latency_s:.2f} s a text, peak {r.peak_bytes / 1e9:.2f} GB without libraries" for r in runs)
        rows["run"]["own"] = "; ".join(costs)
        rows["report"]["own"] = "; ".join(f"{r.precision} emotion F1 {r.emotion_f1:.2f}" for r in runs)
    return rows


GIVES = {
    "lm-eval": "texts; no latency, no memory, no judge of emotions",
    "optimum-benchmark": "latency, time to the first token, memory of the process; no texts",
    "affq run": "texts, and controls; latency with intervals, time to the first token; memory by phase; proof of the precision",
    "affq report": "two judges of emotions, ROUGE, perplexity, diversity; differences with intervals; a page",
}


def measure(part, environment, folder):
    """Return the rows of a part, {name: row}, each command in a folder of its own."""
    if part == "affq":
        return {f"affq {verb}": row for verb, row in affq_study(folder).items()}
    study = load_study("default")
    model = study.run(MODEL, "fp32").model.folder
    older(model, folder / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    prompts = [render(tokenizer, request["request"]) for request in study.requests if request["emotion"] is not None][:TEXTS]
    median_tokens = round(statistics.median(len(tokenizer.tokenize(prompt)) for prompt in prompts))
    rows = {}
    for precision in DTYPES:
        (own := folder / precision).mkdir()
        if part == "lm-eval":
            rows[f"{part}, {precision}"] = lm_eval(environment / "bin", folder / "model", prompts, precision, own)
        else:
            rows[f"{part}, {precision}"] = optimum_benchmark(environment / "bin", folder / "model", median_tokens, precision, own)
    return rows


def page(hardware, rows):
    """Give the lines of docs/peers.md: each command, then affq's time over its peers' where all of them are there."""
    yield "# affq and its peers, at the same work\n"
    yield "Made by tests/bench/peers.py. One command a row, timed from its start to its end; int8 is bitsandbytes' over bf16."
    yield f"{TEXTS} prompts of the default study, {NEW_TOKENS} tokens, {MODEL}; up to {TIMED} texts timed alone by affq,"
    yield "at least as many by optimum-benchmark."
    yield f"{hardware['device_name']}, {hardware['cores']} processors, {hardware['threads']} threads."
    yield f"Peers: {', '.join([TORCH, *PEERS])}.\n"
    yield "| command | seconds | its own figures | what it gives |"
    yield "|---|---|---|---|"
    for name, row in rows.items():
        seconds = f"failed after {row['wall_s']:.0f}" if "error" in row else f"{row['wall_s']:.0f}"
        yield f"| {name} | {seconds} | {row.get('error') or row['own']} | {GIVES[name.partition(',')[0]]} |"
    own, peers = ([row for name, row in rows.items() if name.startswith("affq") == ours] for ours in (True, False))
    if len(own) == 2 and len(peers) == 2 * len(DTYPES) and not any("error" in row for row in rows.values()):
        own_s, peers_s = (sum(row["wall_s"] for row in some) for some in (own, peers))
        yield f"\naffq took {own_s:.0f} s, lm-eval and optimum-benchmark {peers_s:.0f} s together: ratio {own_s / peers_s:.2f}."


def main(environment, parts):
    """Measure the parts that are named, all if none is; others stay as they were measured, on this machine alone."""
    target, hardware = Path(__file__).parents[2] / "docs" / "peers.json", probes.hardware("cpu")
    before = json.loads(target.read_text()) if target.exists() else {}
    rows = before["rows"] if before.get("hardware") == hardware else {}
    if not environment.exists():
        make_environment(environment)
    for part in parts or ("lm-eval", "optimum-benchmark", "affq"):
        with tempfile.TemporaryDirectory() as scratch:
            rows |= measure(part, environment, Path(scratch))
        target.write_text(json.dumps({"hardware": hardware, "rows": rows}, indent=1) + "\n")
        target.with_suffix(".md").write_text("\n".join(page(hardware, rows)) + "\n")
    print(target.with_suffix(".md").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
