"""Records to frames of what runs cost: memory, latency, where their time went. Raw units."""

import pandas as pd


def measured(record):
    """Give what a complete run cost, in the words of the summary's columns; latencies are medians over the timed texts."""
    found, about = record.measurements(), record.about()
    timed = pd.DataFrame(found["latency"])
    return {
        "device": about["hardware"]["device"],
        "compute_dtype": found["model"]["compute_dtype"],
        "weights_bytes": sum(row["bytes"] for row in found["census"]),
        "peak_bytes": _peak_bytes(found["memory"]),
        "peak_kind": found["memory"]["kind"] if _peak_bytes(found["memory"]) is not None else None,
        "ttft_s": timed["ttft_s"].median(),
        "token_s": _token_s(timed).median(),
        "latency_s": timed["latency_s"].median(),
    }


def _peak_bytes(memory):
    """Give the highest peak of the phases that generate; loading is a phase of its own, which comes once."""
    peaks = [memory["phases"][phase]["peak_bytes"] for phase in ("quality", "resource")]
    return None if None in peaks else max(peaks)


def _token_s(timed):
    """Give the seconds of a further token: what is left of a text's time after its first token, over the other tokens."""
    return (timed["latency_s"] - timed["ttft_s"]) / (timed["new_tokens"] - 1)


def memory(records):
    """Give what each complete run's memory is made of, in bytes: weights, peaks by phase, allocator, device, prediction."""
    rows = []
    for record in (r for r in records if r.complete):
        measured = record.measurements()["memory"]
        row = {"model": record.run.model.name, "precision": record.run.precision}
        row |= {"weights_bytes": sum(part["bytes"] for part in record.measurements()["census"])}
        for phase, reading in measured["phases"].items():
            row |= {f"{phase}_{name}": value for name, value in reading.items()}
        row |= {f"predicted_{name}": value for name, value in (record.about().get("predicted") or {}).items()}
        rows.append(row | {"base_bytes": measured["base_bytes"], "kind": measured["kind"]})
    return pd.DataFrame(rows).convert_dtypes()


def census(records):
    """Give what is stored at which dtype, by role of the parameter, for each complete run."""
    return pd.DataFrame(
        {"model": r.run.model.name, "precision": r.run.precision, **part}
        for r in records
        if r.complete
        for part in r.measurements()["census"]
    )


def latency(records):
    """Give the raw readings, in seconds: one row a timed text."""
    frames = []
    for record in (r for r in records if r.complete):
        timed = pd.DataFrame(record.measurements()["latency"]).drop(columns="token_ids")
        timed.insert(0, "model", record.run.model.name)
        timed.insert(1, "precision", record.run.precision)
        frames.append(timed.assign(token_s=_token_s(timed)))
    return pd.concat(frames, ignore_index=True)


def time_spent(records):
    """Give where each complete run's time went, in seconds: process start, loading, the passes; and its scoring afterwards."""
    rows = []
    for record in (r for r in records if r.complete):
        row = {"model": record.run.model.name, "precision": record.run.precision, **record.measurements()["seconds"]}
        row["scoring_s"] = sum(m["seconds"] for m in map(record.manifest, record.run.study.scorers) if m)
        rows.append(row | {"total_s": sum(value for name, value in row.items() if name.endswith("_s"))})
    return pd.DataFrame(rows)
