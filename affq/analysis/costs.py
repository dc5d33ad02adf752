"""Records to frames of what runs cost: memory, latency, throughput, kernels, their time. Raw units; unknown is empty."""

import numpy as np
import pandas as pd

from affq.inference import interference
from affq.stats import compare

# The readings of the resource pass: what each is a reading of.
READINGS = {
    "ttft_s": "time to first token",
    "token_s": "further token, a text's mean",
    "latency_s": "whole text",
    "single_token_s": "further token, each by itself",
}
PERCENTILES = (10, 90, 99)


def measured(record):
    """Give what a complete run cost, in the words of the summary's columns; latencies are medians over the timed texts."""
    found, about = record.measurements(), record.about()
    timed = {row["reading"]: row for row in _statistics(record)}
    peak_bytes = _peak_bytes(found["memory"])
    return {
        "device": about["hardware"]["device"],
        "compute_dtype": found["model"]["compute_dtype"],
        "weights_bytes": _weights_bytes(found),
        "peak_bytes": peak_bytes,
        "peak_kind": found["memory"]["kind"] if peak_bytes is not None else None,
        **{name: timed[name]["median_s"] for name in ("ttft_s", "token_s", "latency_s")},
        "latency_low_s": timed["latency_s"]["low_s"],
        "latency_high_s": timed["latency_s"]["high_s"],
    }


def _weights_bytes(found):
    return sum(row["bytes"] for row in found["census"])


def _known(value):
    return None if value == "unknown" else value


def _peak_bytes(memory):
    """Give the highest peak of the phases that generate; loading is a phase of its own, which comes once."""
    peaks = [memory["phases"][phase]["peak_bytes"] for phase in ("prefill", "decode", "resource")]
    return None if "unknown" in peaks else max(peaks)


def disturbances(record):
    """Say what disturbed a complete run's measurement, a list of words: the worst of its processes."""
    return interference.reasons(interference.worst([one["load"] for one in record.measurements()["passes"]]))


def load(records):
    """Give what else the machine did before and during each resource pass: one row a process and moment."""
    return _frame(
        records,
        lambda found: (
            {"process": one["process"], "when": when, **{n: _known(v) for n, v in seen.items() if n != "gpus"}, **_of_gpus(seen)}
            for one in found["passes"]
            for when, seen in one["load"].items()
        ),
    )


def _of_gpus(seen):
    gpus = seen["gpus"] if seen["gpus"] != "unknown" else []
    return {f"gpu{gpu['gpu']}_{name}": _known(value) for gpu in gpus for name, value in gpu.items() if name != "gpu"}


def _frame(records, rows):
    """Put the rows that `rows` makes of each complete run's measurements below each other, model and precision first."""
    return pd.DataFrame(
        [
            {"model": record.run.model.name, "precision": record.run.precision, **row}
            for record in records
            if record.complete
            for row in rows(record.measurements())
        ]
    )


def memory(records):
    """Give what each complete run's memory is made of, in bytes: weights, cache, readings by phase, prediction."""
    rows = []
    for record in (r for r in records if r.complete):
        found = record.measurements()
        row = {"model": record.run.model.name, "precision": record.run.precision, "weights_bytes": _weights_bytes(found)}
        row["cache_bytes"] = found["memory"]["cache_bytes"]
        for phase, reading in found["memory"]["phases"].items():
            row |= {f"{phase}_{name}": _known(value) for name, value in reading.items()}
        row |= {f"predicted_{name}": value for name, value in (record.about().get("predicted") or {}).items()}
        row |= {name: value for name, value in found["memory"].items() if name.startswith("base")}
        rows.append(row | {"kind": found["memory"]["kind"]})
    return pd.DataFrame(rows).convert_dtypes()


def memory_parts(records):
    """Split each complete run's memory at decode, in the study's batch, in bytes; empty where a reading is unknown.

    cache_bytes: keys and values at the end. activations_bytes: the rest of the peak, temporaries of products and what the
    allocator keeps of them. rest_bytes: what is held beyond the weights once texts are done and freed memory is given back; on a
    GPU also what the device holds beyond the allocator's peak: context, kernels, blocks that are cached.
    """
    return _frame(records, _parts)


def _parts(found):
    weights_bytes, reading = _weights_bytes(found), found["memory"]["phases"]["decode"]
    cache_bytes, peak_bytes, held_bytes = (found["memory"]["cache_bytes"], reading["peak_bytes"], reading["held_bytes"])
    row = {"weights_bytes": weights_bytes, "cache_bytes": cache_bytes}
    if "unknown" not in (peak_bytes, held_bytes):
        rest_bytes = max(0, held_bytes - weights_bytes)
        row["activations_bytes"] = max(0, peak_bytes - weights_bytes - cache_bytes - rest_bytes)
        if "device_used_bytes" in reading:
            used_bytes = reading["device_used_bytes"] - found["memory"]["base_device_used_bytes"]
            rest_bytes += max(0, used_bytes - peak_bytes)
        row["rest_bytes"] = rest_bytes
    yield row | {"peak_bytes": _known(peak_bytes)}


def census(records):
    """Give what is stored at which dtype, by role of the parameter, for each complete run."""
    return _frame(records, lambda found: found["census"])


def latency(records):
    """Give the raw readings, in seconds: one row a timed text and round, of each process."""
    return _frame(
        records,
        lambda found: (
            {"process": one["process"]} | {name: value for name, value in row.items() if name != "token_ids"}
            for one in found["passes"]
            for row in _with_token_s(one["texts"])
        ),
    )


def _with_token_s(texts):
    """Add the seconds of a further token: what is left of a text's time after its first token, over the other tokens."""
    return [row | {"token_s": (row["latency_s"] - row["ttft_s"]) / (row["new_tokens"] - 1)} for row in texts]


def latency_statistics(records):
    """Give the statistics of each complete run's readings, in seconds, one row a reading (READINGS).

    n; median_s, of several processes the mean of their medians; p10_s, p90_s, p99_s where a reading lies beyond; low_s to
    high_s, the interval of median_s at compare.LEVEL, and whether it is within-process or between processes. Tokens of one text
    are not independent: each by itself has no interval. stopped: what ended the rounds, the aim or the cap; steady: whether
    warming up ended.
    """
    rows = [row for record in records if record.complete for row in _statistics(record)]
    return pd.DataFrame(rows)


def _statistics(record):
    every = record.measurements()["passes"]
    about = {"model": record.run.model.name, "precision": record.run.precision}
    ends = {"rounds": sum(one["rounds"] for one in every), "stopped": _shared(one["stopped"] for one in every)}
    ends |= {"steady": all(one["steady"] for one in every), "processes": len(every)}
    for name, words in READINGS.items():
        by_process = [readings(one, name) for one in every]
        values = np.array([value for values in by_process for value in values])
        if not len(values):
            continue
        medians = [float(np.median(found)) for found in by_process]
        row = {**about, "reading": name, "of": words, "n": len(values), "median_s": float(np.mean(medians))}
        for percentile in PERCENTILES:
            beyond = len(values) * min(percentile, 100 - percentile) >= 100
            row[f"p{percentile}_s"] = float(np.percentile(values, percentile)) if beyond else np.nan
        kind, (low, high) = "within-process", (np.nan, np.nan)
        if name != "single_token_s" and len(every) > 1:
            kind, (low, high) = "between processes", compare.between_processes(medians)
        elif name != "single_token_s":
            low, high = compare.median_interval(values, compare.level_of(record.run.study.measurement.rounds))
        yield {**row, "low_s": low, "high_s": high, "interval": None if np.isnan(low) else kind, **ends}


def _shared(words):
    return " and ".join(dict.fromkeys(words))


def readings(one, name):
    """List the readings of a resource pass by their name of READINGS, in seconds."""
    if name == "single_token_s":
        return [seconds for text in one["tokens"] for seconds in text["token_s"]]
    return [row[name] for row in _with_token_s(one["texts"])]


def throughput(records):
    """Give texts and tokens a second at each batch size, with the memory there: one row a run and batch size, medians."""
    return _frame(
        records, lambda found: (_point(point, found["throughput"]["stopped"]) for point in found["throughput"]["points"])
    )


def _point(point, stopped):
    seconds = float(np.median(point["seconds"]))
    return {
        "batch": point["batch"],
        "texts_per_s": point["batch"] / seconds,
        "tokens_per_s": point["batch"] * point["new_tokens"] / seconds,
        "slowest_s": max(point["seconds"]),
        "fastest_s": min(point["seconds"]),
        "peak_bytes": _known(point["peak_bytes"]),
        "stopped": stopped,
    }


def kernels(records):
    """Give where a profiled text's time went: one row a run, phase, group and kernel, `share` being of the phase's time."""
    found = _frame(records, lambda found: found["kernels"])
    return found.assign(share=found["seconds"] / found.groupby(["model", "precision", "phase"])["seconds"].transform("sum"))


def largest_kernels(kernels, count=5):
    """Give the `count` largest of each run and phase. kernels: as the frame of that name."""
    largest = kernels.sort_values("seconds", ascending=False, kind="stable").groupby(["model", "precision", "phase"]).head(count)
    return largest.sort_index().drop(columns="seconds")


def time_spent(records):
    """Give where each complete run's time went, in seconds: process start, loading, the passes; and its scoring afterwards."""
    rows = []
    for record in (r for r in records if r.complete):
        row = {"model": record.run.model.name, "precision": record.run.precision, **record.measurements()["seconds"]}
        row["scoring_s"] = sum(m["seconds"] for m in map(record.manifest, record.run.study.scorers) if m)
        rows.append(row | {"total_s": sum(value for name, value in row.items() if name.endswith("_s"))})
    return pd.DataFrame(rows)


def ratios(records):
    """Give what each complete run costs against its model's baseline, with intervals.

    One row a run, figure and estimand: {model, precision, against, figure, estimand, estimate, low, high}. figure: `weights` and
    `peak`, as the summary has them, and `latency`, of the means over the timed prompts, each a unit for prompts like these. For
    these prompts the rounds over a prompt are its samples, or the processes where there are several. Nothing for a baseline that
    is not complete.
    """
    rows = []
    for record in (r for r in records if r.complete):
        wanted = record.run.study.baseline(record.run.model).id
        baseline = next(r for r in records if r.run.id == wanted)
        if baseline is record or not baseline.complete:
            continue
        about = {"model": record.run.model.name, "precision": record.run.precision, "against": baseline.run.precision}
        for figure in ("weights", "peak", "latency"):
            for of in (compare.PROMPTS_LIKE_THESE, compare.THESE_PROMPTS)[: 1 + (figure == "latency")]:
                found, estimand = ratio(figure, record, baseline, of)
                ends = {name: float(getattr(found, name)) for name in ("estimate", "low", "high")}
                rows.append(about | {"figure": figure, "estimand": estimand} | ends)
    return pd.DataFrame(rows, columns="model precision against figure estimand estimate low high".split())


def ratio(figure, record, other, of=compare.PROMPTS_LIKE_THESE):
    """Give one figure of `ratios` of any two complete runs: (compare.Interval, what it is an interval of, in words).

    Weights are counted. So is a peak by the CUDA allocator; that of resident memory is one reading, which another execution does
    not give again, and has no interval.
    """
    if figure == "latency":
        units = _latencies(record, other, of)
        terms = np.stack([compare.totals(units[:, None, :, run]) for run in (0, 1)], axis=-1)
        within = ", within one process" if record.run.study.measurement.processes == 1 else ""
        return compare.interval(terms, compare.ratio(compare.mean), of, "log"), f"{of}{within}"
    pair = [one.measurements() for one in (record, other)]
    of_run = _weights_bytes if figure == "weights" else lambda found: _peak_bytes(found["memory"])
    values = [of_run(found) for found in pair]
    found = np.nan if None in values else values[0] / values[1]
    counted = figure == "weights" or all(one["memory"]["kind"] == "vram_allocated" for one in pair)
    end = found if counted else np.nan
    return compare.Interval(found, end, end, 0.0 if counted else np.nan, np.inf), "exact" if counted else "one reading"


def _latencies(record, other, of):
    """Pair two runs' seconds a text: by prompt and round; or, for these prompts and several processes, by process alone."""
    frames = [latency([one]).rename(columns={"latency_s": name}) for one, name in ((record, "one"), (other, "other"))]
    key = ["process", "prompt_id", "emotion", "sample", "round"]
    paired = frames[0].merge(frames[1][[*key, "other"]], on=key)
    several = of == compare.THESE_PROMPTS and paired["process"].nunique() > 1
    unit, repeat = ("run", "process") if several else ("prompt_id", "round")
    means = paired.assign(run=0).groupby([unit, repeat], sort=False)[["one", "other"]].mean()
    wide = means.unstack(repeat).dropna(axis="columns")  # rounds that both have of every prompt
    return np.stack([wide["one"].to_numpy(), wide["other"].to_numpy()], axis=-1)
