"""What runs cost, as frames: memory, latency, throughput, kernels, their time. Raw units; unknown is empty."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from affq.analysis.texts import NAMED, baseline_of, complete, named
from affq.inference import UNKNOWN, NoEnergy, interference
from affq.results import Reading
from affq.stats import compare

# The readings of the resource pass: what each is a reading of.
READINGS = {
    "ttft_s": "time to first token",
    "token_s": "further token, a text's mean",
    "latency_s": "whole text",
    "single_token_s": "further token, each by itself",
}
PERCENTILES = (10, 90, 99)
LATENCY_STATISTICS = [*NAMED, "reading", "of", "n", "median_s", *(f"p{percentile}_s" for percentile in PERCENTILES)]
LATENCY_STATISTICS += "low_s high_s interval rounds stopped steady processes".split()
ENERGY = [*NAMED, "metered", "texts", "seconds", "joules", "rest_watts", "joules_a_text", "joules_a_text_low"]
ENERGY += "joules_a_text_high interval joules_a_token gross_joules_a_text unknown".split()
RATIOS = [*NAMED, "against", "figure", "estimand", "estimate", "low", "high"]
KERNELS = [*NAMED, "phase", "group", "kernel", "calls", "seconds"]
THROUGHPUT = [*NAMED, "batch", "texts_per_s", "tokens_per_s", "slowest_s", "fastest_s", "peak_bytes", "stopped"]


def measured(record: Reading) -> dict[str, object]:
    """Return what a complete run cost, by the summary's columns; latencies are medians over the timed texts."""
    measurements, about = record.measurements(), record.about()
    timed = {row["reading"]: row for row in _statistics(record)}
    peak_bytes = _peak_bytes(measurements)
    disturbances = interference.disturbances(interference.worst([process["load"] for process in measurements["passes"]]))
    return {
        "device": about["hardware"]["device"],
        "compute_dtype": measurements["model"]["compute_dtype"],
        "weights_bytes": _weights_bytes(measurements),
        "peak_bytes": peak_bytes,
        "peak_kind": measurements["memory"]["kind"] if peak_bytes is not None else None,
        **{name: timed[name]["median_s"] for name in ("ttft_s", "token_s", "latency_s")},
        "latency_low_s": timed["latency_s"]["low_s"],
        "latency_high_s": timed["latency_s"]["high_s"],
        "joules_a_text": _joules_a_text(measurements),
        "disturbed": ", ".join(disturbance.phrase for disturbance in disturbances),
    }


def _weights_bytes(measurements: dict) -> int | None:
    """Return the bytes of the stored weights; None where they could not be counted."""
    return sum(row["bytes"] for row in measurements["census"]) if measurements["census"] else None


def _peak_bytes(measurements: dict) -> int | None:
    """Return the highest peak of the phases that generate; loading is a phase of its own, which comes once."""
    phases = measurements["memory"]["phases"]
    peaks = [phases[phase]["peak_bytes"] for phase in ("prefill", "decode", "resource")]
    return None if UNKNOWN in peaks else max(peaks)


def _joules_a_text(measurements: dict) -> float:
    """Return the joules of a text beyond what the devices take at rest; NaN where they are unknown."""
    return energy_of(measurements["passes"])["joules_a_text"]


def _known(value: float | str) -> float | str | None:
    return None if value == UNKNOWN else value


def _frame(
    records: Iterable[Reading], rows: Callable[[dict], Iterable[dict]], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the rows that `rows` makes of each complete run's measurements below each other, what a run is known by first."""
    every = [{**named(record.run), **row} for record in complete(records) for row in rows(record.measurements())]
    return pd.DataFrame(every, columns=columns)


def load(records: Iterable[Reading]) -> pd.DataFrame:
    """Return what else the machine did before and during each resource pass: one row a process and moment."""
    frame = _frame(records, _loads)
    counts = {name: "Int64" for name in frame if name in ("hot", "swapped_bytes") or str(name).startswith("gpu")}
    return frame.astype({name: dtype for name, dtype in {"throttled_s": "float", **counts}.items() if name in frame})


def _loads(measurements: dict) -> Iterator[dict]:
    for process in measurements["passes"]:
        for when, readings in process["load"].items():
            gpus = readings["gpus"] if readings["gpus"] != UNKNOWN else []
            row = {"process": process["process"], "when": when}
            row |= {name: _known(value) for name, value in readings.items() if name != "gpus"}
            yield row | {f"gpu{gpu['gpu']}_{name}": _known(value) for gpu in gpus for name, value in gpu.items() if name != "gpu"}


def memory(records: Iterable[Reading]) -> pd.DataFrame:
    """Return what each complete run's memory is made of, in bytes: weights, cache, readings by phase, prediction."""
    rows = []
    for record in complete(records):
        measurements = record.measurements()
        readings = measurements["memory"]
        row: dict[str, Any] = {**named(record.run), "weights_bytes": _weights_bytes(measurements)}
        row["cache_bytes"] = _known(readings["cache_bytes"])
        for phase, phase_bytes in readings["phases"].items():
            row |= {f"{phase}_{name}": _known(value) for name, value in phase_bytes.items()}
        row |= {f"predicted_{name}": value for name, value in (record.about().get("predicted") or {}).items()}
        row |= {name: _known(value) for name, value in readings.items() if name.startswith("base")}
        rows.append(row | {"kind": readings["kind"]})
    return _whole_bytes(pd.DataFrame(rows))


def _whole_bytes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with bytes as whole numbers where some are unknown."""
    return frame.astype({name: "Int64" for name in frame if str(name).endswith("_bytes")})


def memory_parts(records: Iterable[Reading]) -> pd.DataFrame:
    """Split each complete run's memory at decode, in the study's batch, in bytes; empty where a reading is unknown.

    cache_bytes: keys and values at the end. activations_bytes: the rest of the peak, temporaries of products and what the
    allocator keeps of them. rest_bytes: what is held beyond the weights once texts are done and freed memory is given back; on a
    GPU also what the device holds beyond the allocator's peak: context, kernels, blocks that are cached.
    """
    return _whole_bytes(_frame(records, _parts))


def _parts(measurements: dict) -> Iterator[dict]:
    weights_bytes, memory = _weights_bytes(measurements), measurements["memory"]
    decode, cache_bytes = memory["phases"]["decode"], memory["cache_bytes"]
    peak_bytes, held_bytes = decode["peak_bytes"], decode["held_bytes"]
    row = {"weights_bytes": weights_bytes, "cache_bytes": _known(cache_bytes)}
    if UNKNOWN not in (peak_bytes, held_bytes, cache_bytes) and weights_bytes is not None:
        # What is held may be keys and values too: an engine that makes room for them once keeps it.
        beside_bytes = max(0, peak_bytes - weights_bytes - cache_bytes)
        rest_bytes = min(max(0, held_bytes - weights_bytes), beside_bytes)
        row["activations_bytes"] = beside_bytes - rest_bytes
        used_bytes, base_bytes = decode.get("device_used_bytes", UNKNOWN), memory.get("base_device_used_bytes", UNKNOWN)
        if UNKNOWN not in (used_bytes, base_bytes):
            rest_bytes += max(0, used_bytes - base_bytes - peak_bytes)
        row["rest_bytes"] = rest_bytes
    yield row | {"peak_bytes": _known(peak_bytes)}


def census(records: Iterable[Reading]) -> pd.DataFrame:
    """Return what is stored at which dtype, by role of the parameter, for each complete run, as it served."""
    return _frame(records, lambda measurements: map(_counted, measurements["census"]))


def _counted(row: dict) -> dict:
    """Return a row of a census, method and bits empty where its affq did not count them."""
    about = {"role": row["role"], "dtype": row["dtype"], "method": row.get("method") or "", "bits": row.get("bits", np.nan)}
    return {**about, **{name: value for name, value in row.items() if name not in about}}


def unpacked(measurements: dict) -> str | None:
    """Return, in a few words, that weights served otherwise than they were loaded: unpacked for good; None where they did not."""
    loaded, served = measurements.get("census_loaded", []), measurements["census"]
    packed, still = _packed(loaded), _packed(served)
    if sum(still.values()) >= sum(packed.values()):
        return None
    loaded_mb, served_mb = (sum(row["bytes"] for row in rows) / 1e6 for rows in (loaded, served))
    methods = " and ".join(packed)
    return f"{methods} unpacked the weights when first used: {loaded_mb:,.1f} MB when loaded, {served_mb:,.1f} MB as they served"


def _packed(census: Iterable[dict]) -> dict[str, int]:
    """Return how many elements are held quantized, by what quantized them."""
    elements: dict[str, int] = {}
    for row in census:
        if method := row.get("method"):
            elements[method] = elements.get(method, 0) + row["elements"]
    return elements


def latency(records: Iterable[Reading]) -> pd.DataFrame:
    """Return the raw readings, in seconds: one row a timed text and round, of each process."""
    return _frame(
        records,
        lambda measurements: (
            {"process": process["process"]} | {name: value for name, value in row.items() if name != "token_ids"}
            for process in measurements["passes"]
            for row in _with_token_s(process["texts"])
        ),
    )


def _with_token_s(texts: Iterable[dict]) -> list[dict]:
    """Add the seconds of a further token: what is left of a text's time after its first token, over the other tokens."""
    return [row | {"token_s": (row["latency_s"] - row["ttft_s"]) / (row["new_tokens"] - 1)} for row in texts]


def latency_statistics(records: Iterable[Reading]) -> pd.DataFrame:
    """Return the statistics of each complete run's readings, in seconds, one row a reading (READINGS).

    n; median_s, of several processes the mean of their medians; p10_s, p90_s, p99_s where a reading lies beyond; low_s to
    high_s, the interval of median_s at compare.LEVEL, and whether it is within-process or between processes. Tokens of one text
    are not independent: each by itself has no interval. stopped: what ended the timing, the aim or the cap; steady: whether
    warming up ended.
    """
    return pd.DataFrame([row for record in complete(records) for row in _statistics(record)], columns=LATENCY_STATISTICS)


def _statistics(record: Reading) -> Iterator[dict]:
    processes = record.measurements()["passes"]
    about = named(record.run)
    stopped = " and ".join(dict.fromkeys(process["stopped"] for process in processes))
    ends = {"rounds": sum(process["rounds"] for process in processes), "stopped": stopped}
    ends |= {"steady": all(process["steady"] for process in processes), "processes": len(processes)}
    for name, meaning in READINGS.items():
        by_process = [readings(process, name) for process in processes]
        values = np.array([value for values in by_process for value in values])
        if not len(values):
            continue
        medians = [float(np.median(values)) for values in by_process]
        row = {**about, "reading": name, "of": meaning, "n": len(values), "median_s": float(np.mean(medians))}
        for percentile in PERCENTILES:
            beyond = len(values) * min(percentile, 100 - percentile) >= 100
            row[f"p{percentile}_s"] = float(np.percentile(values, percentile)) if beyond else np.nan
        kind, (low, high) = "within-process", (np.nan, np.nan)
        if name != "single_token_s" and len(processes) > 1:
            kind, (low, high) = "between processes", compare.between_processes(medians)
        elif name != "single_token_s":
            low, high = compare.median_interval(values, compare.level_of(record.run.study.measurement.aim is not None))
        yield {**row, "low_s": low, "high_s": high, "interval": None if np.isnan(low) else kind, **ends}


def readings(process: dict, name: str) -> list[float]:
    """Return the readings of one process's resource pass by their name of READINGS, in seconds."""
    if name == "single_token_s":
        return [seconds for text in process["tokens"] for seconds in text["token_s"]]
    return [row[name] for row in _with_token_s(process["texts"])]


def throughput(records: Iterable[Reading]) -> pd.DataFrame:
    """Return texts and tokens a second at each batch size, with the memory there: one row a run and batch size, medians."""
    return _whole_bytes(_frame(records, _points, THROUGHPUT))


def _points(measurements: dict) -> Iterator[dict]:
    for point in measurements["throughput"]["points"]:
        seconds = float(np.median(point["seconds"]))
        yield {
            "batch": point["batch"],
            "texts_per_s": point["batch"] / seconds,
            "tokens_per_s": point["batch"] * point["new_tokens"] / seconds,
            "slowest_s": max(point["seconds"]),
            "fastest_s": min(point["seconds"]),
            "peak_bytes": _known(point["peak_bytes"]),
            "stopped": measurements["throughput"]["stopped"],
        }


def energy(records: Iterable[Reading]) -> pd.DataFrame:
    """Return the energy of each complete run's timed texts, in joules: one row a run, columns ENERGY.

    joules, seconds: all that was read while `texts` texts were generated, of all processes. rest_watts: what the same devices
    take at rest, with the model loaded. It is left out of joules_a_text, of several processes the mean, with the interval between
    processes, and of joules_a_token; it is in gross_joules_a_text. unknown: NoEnergy, where nothing is known.
    """
    return _frame(records, lambda measurements: [energy_of(measurements["passes"])], ENERGY).astype({"texts": "Int64"})


def energy_of(processes: Sequence[dict]) -> dict[str, Any]:
    """Return a row of `energy`, of what was read in several processes, or over several repetitions: {energy: energy.Energy}."""
    readings = [process.get("energy") or {"why": NoEnergy.NOT_READ} for process in processes]
    readings = [reading for reading in readings if reading["why"] or reading["texts"]] or [{"why": NoEnergy.NOT_READ}]
    row: dict[str, Any] = dict.fromkeys(ENERGY[len(NAMED) :], np.nan) | {"metered": None, "texts": None, "interval": None}
    if why := next((reading["why"] for reading in readings if reading["why"]), None):
        return row | {"unknown": str(why)}
    used = [sum(reading["used"]["joules"].values()) for reading in readings]
    rest_watts = [sum(reading["rest"]["joules"].values()) / reading["rest"]["seconds"] for reading in readings]
    seconds = [reading["used"]["seconds"] for reading in readings]
    added = [joules - watts * took for joules, watts, took in zip(used, rest_watts, seconds, strict=True)]
    if min(added) <= 0:
        return row | {"unknown": str(NoEnergy.DROWNED)}
    a_text = [joules / reading["texts"] for joules, reading in zip(added, readings, strict=True)]
    if len(readings) > 1:
        low, high = compare.between_processes(a_text)
        row |= {"joules_a_text_low": low, "joules_a_text_high": high, "interval": "between processes"}
    texts = sum(reading["texts"] for reading in readings)
    return row | {
        "metered": ", ".join(readings[0]["used"]["joules"]),
        "texts": texts,
        "seconds": sum(seconds),
        "joules": sum(used),
        "rest_watts": float(np.mean(rest_watts)),
        "joules_a_text": float(np.mean(a_text)),
        "joules_a_token": sum(added) / sum(reading["new_tokens"] for reading in readings),
        "gross_joules_a_text": sum(used) / texts,
        "unknown": None,
    }


def kernels(records: Iterable[Reading]) -> pd.DataFrame:
    """Return where a profiled text's time went: one row a run, phase, group and kernel, `share` being of the phase's time."""
    kernels = _frame(records, lambda measurements: measurements["kernels"], KERNELS)
    return kernels.assign(share=kernels["seconds"] / kernels.groupby([*NAMED, "phase"])["seconds"].transform("sum"))


def largest_kernels(kernels: pd.DataFrame, count: int = 5) -> pd.DataFrame:
    """Return the `count` largest of each run and phase. kernels: as the frame of that name."""
    largest = kernels.sort_values("seconds", ascending=False, kind="stable").groupby([*NAMED, "phase"]).head(count)
    return largest.sort_index().drop(columns="seconds")


def time_spent(records: Iterable[Reading]) -> pd.DataFrame:
    """Return where each complete run's time went, in seconds: process start, loading, the passes; and its scoring afterwards."""
    rows = []
    for record in complete(records):
        row = {**named(record.run), **record.measurements()["seconds"]}
        row["scoring_s"] = sum(m["seconds"] for m in map(record.manifest, record.run.study.scorers) if m)
        rows.append(row | {"total_s": sum(value for name, value in row.items() if name.endswith("_s"))})
    return pd.DataFrame(rows)


def ratios(records: Sequence[Reading]) -> pd.DataFrame:
    """Return what each complete run costs against its model's baseline, with intervals.

    One row a run, figure and estimand, columns RATIOS. figure: `weights` and `peak`, as the summary has them, `latency`, of the
    means over the timed prompts, each a unit for prompts like these, and `energy`, of joules a text. For these prompts the rounds
    over a prompt are its samples, or the processes where there are several. No row where the baseline is not complete, and none
    of energy where one of both is unknown.
    """
    rows = []
    for record in complete(records):
        baseline = baseline_of(record, records)
        if baseline is record or not baseline.complete:
            continue
        about = {**named(record.run), "against": baseline.run.precision}
        for figure in ("weights", "peak", "latency", "energy"):
            for of in (compare.PROMPTS_LIKE_THESE, compare.THESE_PROMPTS)[: 1 + (figure == "latency")]:
                interval, estimand = ratio(figure, record, baseline, of)
                if figure == "energy" and np.isnan(interval.estimate):
                    continue
                ends = {name: float(getattr(interval, name)) for name in ("estimate", "low", "high")}
                rows.append(about | {"figure": figure, "estimand": estimand} | ends)
    return pd.DataFrame(rows, columns=RATIOS)


def ratio(figure: str, record: Reading, other: Reading, of: str = compare.PROMPTS_LIKE_THESE) -> tuple[compare.Interval, str]:
    """Return one figure of `ratios` of any two complete runs, and what its interval is an interval of.

    Weights are counted. So is a peak by the CUDA allocator; that of resident memory is one reading, which another execution does
    not give again, and has no interval. Nor has energy.
    """
    if figure == "latency":
        latencies = _latencies(record, other, of)
        terms = np.stack([compare.totals(latencies[:, None, :, run]) for run in (0, 1)], axis=-1)
        within = ", within one process" if record.run.study.measurement.processes == 1 else ""
        return compare.interval(terms, compare.ratio(compare.mean), of, "log"), f"{of}{within}"
    pair = [run.measurements() for run in (record, other)]
    read = {"weights": _weights_bytes, "peak": _peak_bytes, "energy": _joules_a_text}[figure]
    own, others = map(read, pair)
    # The peak of a tiny model can be 0: it fitted into what was held before.
    estimate = own / others if own is not None and others else np.nan
    counted = figure == "weights" or (figure == "peak" and all(run["memory"]["kind"] == "vram_allocated" for run in pair))
    end = estimate if counted else np.nan
    interval = compare.Interval(estimate, end, end, 0.0 if counted else np.nan, np.inf)
    return interval, "exact" if counted else "one reading"


def _latencies(record: Reading, other: Reading, of: str) -> np.ndarray:
    """Return two runs' seconds a text: (prompts, rounds, 2), or, for these prompts and several processes, (1, processes, 2)."""
    frames = [latency([run]).rename(columns={"latency_s": name}) for run, name in ((record, "run"), (other, "other"))]
    key = ["process", "prompt_id", "emotion", "sample", "round"]
    paired = frames[0].merge(frames[1][[*key, "other"]], on=key)
    several = of == compare.THESE_PROMPTS and paired["process"].nunique() > 1
    unit, repeat = ("study", "process") if several else ("prompt_id", "round")
    means = paired.assign(study=0).groupby([unit, repeat], sort=False)[["run", "other"]].mean()
    wide = means.unstack(repeat).dropna(axis="columns")  # rounds that both have of every prompt
    return np.stack([wide["run"].to_numpy(), wide["other"].to_numpy()], axis=-1)
