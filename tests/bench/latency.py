"""Hold affq's latencies against a plain loop, against themselves in other processes, and against a machine that is busy.

python tests/bench/latency.py needs a quiet machine, takes a quarter of an hour on two cores, and writes latency.md beside itself;
ratio, first, processes or load behind it measure that part alone.
The default model's texts are timed by affq and by a plain `generate` loop in turn; repetitions of a study with `processes: 5`
are compared with each other; a run on a quiet machine and one beside two busy processes say whether they were disturbed.
"""

import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from scipy import stats

import affq
from affq.analysis import costs
from affq.inference import measure, probes
from affq.models.engines.transformers import Transformers
from affq.results.record import records
from affq.stats import compare
from affq.study import load_study, prompts

AFFQ = Path(sys.executable).with_name("affq")
PRECISIONS = ("fp32", "bf16", "int8", "nf4")
NEW_TOKENS, TEXTS = 64, 24  # of the ratio
FIRST_TOKENS, PAIRS = 8, 240  # of the reading of the clock at the first token
REPETITIONS, PROCESSES, REPEATED = 4, 5, ("fp32", "int8")
READINGS = ("ttft_s", "token_s", "latency_s")
SPIN = "while True: pass"


def plain_loop_s(model, tokenizer, request):
    """Time one text as a person would by hand: tokenize, start the clock, generate, stop it."""
    chat = [{"role": "user", "content": request["request"]}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    start = time.perf_counter()
    model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    return time.perf_counter() - start


def ready(precision):
    """Give the engine that has the default model, warmed up, and the requests that are timed."""
    run = load_study("default").run("smollm2-135m", precision)
    serving = Transformers(run)
    serving.import_all()
    serving.instruments()
    serving.load()
    probes.settle()
    timed = prompts.to_time(prompts.cross(prompts.read_prompts(run.study.prompts), run.study.emotions), TEXTS)
    measure.warm_up(serving.prepare(timed[:1]), serving.produce, 8)
    return serving, timed


def ratio(precision):
    """Print the seconds of each text by affq and by the plain loop, in turn, in random order within a pair: JSON."""
    serving, timed = ready(precision)
    order, pairs = random.Random(0), []
    for request in timed:
        inputs, pair = serving.prepare([request]), {}
        for who in order.sample(["affq", "plain"], 2):
            if who == "affq":
                pair[who] = measure.time_text(inputs, serving.produce, NEW_TOKENS)["latency_s"]
            else:
                pair[who] = plain_loop_s(serving._loaded, serving._tokenizer, request)
        pairs.append(pair)
    print(json.dumps(pairs))


def ratios():
    """Give the table of paired ratios, one row a precision, each measured in a process of its own."""
    yield "| precision | texts | affq, median s | plain loop, median s | median ratio | its 95 % interval | within 0.95 to 1.05 |"
    yield "|---|---|---|---|---|---|---|"
    for precision in PRECISIONS:
        done = subprocess.run([sys.executable, __file__, precision], capture_output=True, text=True, check=True)
        pairs = json.loads(done.stdout.splitlines()[-1])
        affq, plain = (np.array([pair[who] for pair in pairs]) for who in ("affq", "plain"))
        low, high = compare.median_interval(affq / plain)
        yield (
            f"| {precision} | {len(pairs)} | {np.median(affq):.3f} | {np.median(plain):.3f} | {np.median(affq / plain):.3f} | "
            f"{low:.3f} to {high:.3f} | {'yes' if 0.95 <= low and high <= 1.05 else 'no'} |"
        )


def at_first_token():
    """Give how a text's time changes where the clock is read at its first token: pairs in random order, at fp32."""
    serving, timed = ready("fp32")
    order, ratios = random.Random(0), []
    for request in itertools.islice(itertools.cycle(timed), PAIRS):
        inputs, pair = serving.prepare([request]), {}
        for reads in order.sample([True, False], 2):
            if reads:
                pair[reads] = measure.time_text(inputs, serving.produce, FIRST_TOKENS)["latency_s"]
            else:
                start = time.perf_counter()
                serving.produce(inputs, FIRST_TOKENS)
                pair[reads] = time.perf_counter() - start
        ratios.append(pair[True] / pair[False])
    low, high = compare.median_interval(ratios)
    yield "| pairs | median ratio | its 95 % interval | within 0.99 to 1.01 |"
    yield "|---|---|---|---|"
    within = "yes" if 0.99 <= low and high <= 1.01 else "no"
    yield f"| {len(ratios)} | {np.median(ratios):.4f} | {low:.4f} to {high:.4f} | {within} |"


def write_study(folder, name, precisions=PRECISIONS, **measurement):
    """Write a study of the default model: few texts to judge, and this to measure."""
    rows = ["id,kind,text,text_without_emotion", "note,general,Write a note full of {emotion}.,Write a note."]
    (folder / "one.csv").write_text("\n".join(rows) + "\n")
    study = {"models": ["smollm2-135m"], "precisions": list(precisions), "prompts": "one.csv", "device": "cpu"}
    study |= {
        "generation": {"max_new_tokens": 8},
        "measurement": {"texts": 7, "new_tokens": 16, "token_texts": 1, "aim": None, **measurement},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study))
    return folder / f"{name}.yaml"


def run(study, results):
    subprocess.run([AFFQ, "run", study, "--results", results, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return records(results, load_study(study))


def medians(record, reading):
    """Give the median of a reading in each process of a run."""
    return [float(np.median(costs.readings(one, reading))) for one in record.measurements()["passes"]]


def processes(folder):
    """Give, by reading, how many pairs of repetitions differ by no more than their intervals: repetitions are whole studies."""
    study = write_study(folder, "processes", REPEATED, processes=PROCESSES)
    repetitions = [run(study, folder / f"results{number}") for number in range(REPETITIONS)]
    yield "| precision | reading | repetitions, ms | interval within a process, of its middle | between | pairs that cover zero |"
    yield "|---|---|---|---|---|---|"
    covered, pairs = 0, 0
    for number, precision in enumerate(REPEATED):
        for reading in READINGS:
            by_repetition = [medians(repetition[number], reading) for repetition in repetitions]
            hits = [covers_zero(one, other) for one, other in itertools.combinations(by_repetition, 2)]
            covered, pairs = covered + sum(hits), pairs + len(hits)
            first = repetitions[0][number].measurements()["passes"][0]
            low, high = compare.median_interval(costs.readings(first, reading))
            t_low, t_high = compare.between_processes(by_repetition[0])
            middle = np.mean(by_repetition[0])
            shown = ", ".join(f"{1e3 * np.mean(found):.1f}" for found in by_repetition)
            yield (
                f"| {precision} | {reading} | {shown} | {(high - low) / middle:.1%} | {(t_high - t_low) / middle:.1%} | "
                f"{sum(hits)} of {len(hits)} |"
            )
    yield f"\nTogether {covered} of {pairs}, {covered / pairs:.0%} (aim: at least 90 %)."


def covers_zero(one, other):
    """Say whether the 95 % interval of the difference of two repetitions' means covers zero, by Welch's t."""
    interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(compare.LEVEL)
    return bool(interval.low <= 0 <= interval.high)


def load(folder):
    """Give what a run says of itself on a quiet machine, and beside two busy processes."""
    yield "| machine | precision | note | latency, median s |"
    yield "|---|---|---|---|"
    for name, busy in (("quiet", 0), ("two busy processes", 2)):
        others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(busy)]
        try:
            study = write_study(folder, f"load{busy}", REPEATED)
            run(study, folder / "load")
        finally:
            for other in others:
                other.kill()
        for row in affq.Results(study, folder / "load").summary.itertuples():
            disturbed = f"measurement disturbed: {row.disturbed}" if row.disturbed else "not flagged"
            yield f"| {name} | {row.precision} | {disturbed} | {row.latency_s:.2f} |"


PARTS = {
    "ratio": (
        "The same texts timed by affq and by a plain `generate` loop",
        f"{TEXTS} prompts of the default study, {NEW_TOKENS} tokens each, in random order; the ratio is taken text by text.",
        lambda folder: ratios(),
    ),
    "first": (
        "The reading of the clock at the first token",
        f"The same text with it and without, {FIRST_TOKENS} tokens at fp32, in random order.",
        lambda folder: at_first_token(),
    ),
    "processes": (
        f"Repetitions of a study with `processes: {PROCESSES}`",
        f"{REPETITIONS} repetitions of seven texts of 16 tokens; intervals of the first (within: of its first process).",
        processes,
    ),
    "load": ("A quiet machine, and a busy one", "Seven texts of 16 tokens, in one process.", load),
}


def main(parts):
    """Measure the parts that are named, all if none is, and write them to latency.md; the others stay as they were measured."""
    target, hardware = Path(__file__).with_suffix(".md"), probes.hardware("cpu")
    before = target.read_text().split("\n## ")[1:] if target.exists() else []
    sections = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in before}
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts or PARTS:
            title, about, rows = PARTS[part]
            lines = [f"{about} {hardware['device_name']}, {hardware['cores']} processors, {hardware['threads']} threads.", ""]
            for row in rows(Path(scratch)):
                print(row, flush=True)
                lines.append(row)
            sections[title] = "\n".join(lines)
    head = "# Latency, held against a plain loop, other processes and other load\n\nMade by tests/bench/latency.py.\n"
    ordered = [f"\n## {title}\n\n{sections[title]}\n" for title, _, _ in PARTS.values() if title in sections]
    target.write_text(head + "".join(ordered))


if __name__ == "__main__":
    ratio(sys.argv[1]) if sys.argv[1:2] and sys.argv[1] in PRECISIONS else main(sys.argv[1:])
