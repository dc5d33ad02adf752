"""Each run in a row, with its status, quality and cost; and what the complete runs were made of and on."""

from collections.abc import Iterator, Sequence

import pandas as pd

from affq.analysis import comparison, costs
from affq.analysis.texts import baseline_of, complete, named
from affq.results import Reading, State
from affq.stats import PROMPTS_LIKE_THESE

BOUNDED = (*comparison.F1S, *comparison.MEANS)  # the figures with an interval for prompts like these
SUMMARY = "run_id study model precision engine weights status device stored_dtype compute_dtype texts emotion_f1_chance".split()
SUMMARY += [f"{figure}{end}" for figure in BOUNDED for end in ("", "_low", "_high")]
SUMMARY += "weights_bytes peak_bytes peak_kind ttft_s token_s latency_s latency_low_s latency_high_s joules_a_text".split()
SUMMARY += "failure changed disturbed stale_scores note".split()
COUNTS = ["texts", "weights_bytes", "peak_bytes"]  # whole numbers, though some are empty


def summarize(records: Sequence[Reading], compared: comparison.Compared, intervals: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run, columns SUMMARY, raw units; latencies are medians over the timed texts.

    <figure>_low and _high are the ends of its interval for prompts like these, empty where there is no spread. What else is empty
    has its reason in `note`, but for the baseline's rougeL_to_baseline. intervals: comparison.intervals of `compared`.
    """
    figures = _with_ends(intervals)
    rows = []
    for record in records:
        run, state = record.run, record.state()
        row = {"run_id": run.id, "study": run.study.name, **named(run)}
        row |= {"weights": run.settings["weights"], "status": str(state.status)}
        row |= {"stored_dtype": record.stored_dtype(), "failure": str(state.failure.kind) if state.failure else None}
        row["changed"] = ", ".join(state.changes)
        if record.complete:
            row |= costs.measured(record) | {"stale_scores": ", ".join(_stale_scores(record))}
            if run.study.judged and compared.has(run.id):
                row |= {"texts": run.study.texts_asked, "emotion_f1_chance": compared.chance_f1(run.id)}
                row |= figures[tuple(named(run).values())]
        rows.append(row | {"note": _note(state, record, baseline_of(record, records), row)})
    return pd.DataFrame(rows, columns=SUMMARY).astype(dict.fromkeys(COUNTS, "Int64"))


def _with_ends(intervals: pd.DataFrame) -> dict[tuple[str, ...], dict[str, float]]:
    """Return the BOUNDED figures for prompts like these: {NAMED: {<figure>, <figure>_low, <figure>_high}}."""
    figures: dict[tuple[str, ...], dict[str, float]] = {}
    bounded = (intervals["estimand"] == PROMPTS_LIKE_THESE) & intervals["figure"].isin(BOUNDED)
    for row in intervals[bounded].itertuples():
        ends = {row.figure: row.estimate, f"{row.figure}_low": row.low, f"{row.figure}_high": row.high}
        figures.setdefault((row.model, row.precision, row.engine), {}).update(ends)
    return figures


def _note(state: State, record: Reading, baseline: Reading, row: dict) -> str:
    """Return what a reader must know of a run's row, in short: why a figure is empty, or less sure than it looks."""
    notes = [state.note]
    if record.complete:
        notes += _of_texts(record, baseline, row) if record.run.study.judged else ["random weights"]
        notes += _of_measurement(record, row)
    return "; ".join(filter(None, notes))


def _of_texts(record: Reading, baseline: Reading, row: dict) -> Iterator[str]:
    if "emotion_f1" not in row:
        yield "not scored"
    if record.measurements()["model"]["chat_template"] == "none":
        yield "no chat template: the model is given the prompts as they stand"
    if not baseline.complete:
        yield f"no paired figures: the baseline {baseline.run.precision} is {baseline.state().status}"
    if row["stale_scores"]:
        yield f"scores of other code or versions, which affq score makes again: {row['stale_scores']}"


def _stale_scores(record: Reading) -> list[str]:
    study = record.run.study
    scorers = (*study.scorers, *(f"{judge.name}-{texts}" for judge in study.judges for texts in ("masked", "alone")))
    return [scorer for scorer in scorers if record.scores_are_stale(scorer)]


def _of_measurement(record: Reading, row: dict) -> Iterator[str]:
    if row["device"] == "cuda" and "cpu" in record.measurements()["model"].get("placed", ""):
        yield "weights offloaded to the CPU: latency is not the GPU's"
    if words := costs.unpacked(record.measurements()):
        yield words
    if row["disturbed"]:
        yield f"measurement disturbed: {row['disturbed']}"
    if row["device"] == "server":
        yield "memory unknown: the server does not tell it; times are the client's"
        made = [text["new_tokens"] for one in record.measurements()["passes"] for text in one["texts"]]
        if (asked := record.run.study.measurement.new_tokens) != min(made) or asked != max(made):
            yield f"timed texts have {min(made)} to {max(made)} tokens where {asked} were asked for"
    elif row["peak_bytes"] is None:
        yield "peak unknown: this system reports none that can be reset"
    prompt_ids = record.measurements()["model"].get("prompt_ids")
    if prompt_ids and prompt_ids["equal"] < prompt_ids["compared"]:
        other = prompt_ids["compared"] - prompt_ids["equal"]
        yield f"its own template or tokenizer gives other token ids for {other} of {prompt_ids['compared']} prompts"


def provenance(records: Sequence[Reading]) -> pd.DataFrame:
    """Return what the complete runs were made of and on: one row a field and value, with the runs that share it."""
    rows = []
    for record in complete(records):
        run = record.run.label
        rows += [(name, str(value), run) for name, value in _made_of(record).items() if value is not None]
    frame = pd.DataFrame(rows, columns=["field", "value", "run"])
    runs = frame["run"].nunique()
    shared = frame.groupby(["field", "value"], sort=False)["run"].agg(list).reset_index()
    shared = shared.sort_values("field", key=lambda f: f.map(list(shared["field"]).index), kind="stable")
    shared["runs"] = ["all" if len(names) == runs else ", ".join(names) for names in shared.pop("run")]
    return shared


def _made_of(record: Reading) -> dict[str, object]:
    """Return the settings, versions and device of a complete run, and what scored its texts; None for what does not apply."""
    study, about, measured = record.run.study, record.about(), record.measurements()
    settings, software, hardware = about["settings"], about["software"], about["hardware"]
    fields = {
        "weights": settings["revision"],
        "weights loaded": about["weights_sha256"],
        "stored as": about["stored_dtype"],
        "texts kept from an earlier attempt": about["texts_kept"] or None,
        "engine": record.run.engine.name,
        **{f"engine {name}": value for name, value in about.get("engine", {}).items()},
        "precision": settings["precision"]["name"],
        "weight_dtype": settings["precision"]["weight_dtype"],
        **settings["precision"]["quantization"],
        **measured["model"],
        "ends": ", ".join(f"{token} ({number})" for token, number in measured["model"]["ends"].items()) or "none",
        **settings["generation"],
        **{f"measurement {name}": value for name, value in settings["measurement"].items()},
        "seed": settings["seed"],
        "batch": settings["batch"],
        "prompts": settings["prompts_sha256"],
        "emotions": ", ".join(settings["emotions"]),
        "samples": settings["samples"],
    }
    for scorer in study.scorers:
        if manifest := record.manifest(scorer):
            versions = ", ".join(f"{name} {version}" for name, version in manifest["software"]["versions"].items())
            by = manifest["by"] | {"code_digest": manifest["software"]["code_digest"], "versions": versions}
            fields |= {f"{scorer} {name}": value for name, value in by.items()}
    return fields | {
        "judges": ", ".join(judge.name for judge in study.judges) if study.judged else None,
        "affq": software["affq"],
        "commit": software["commit"] or "",
        "code": software["code_digest"],
        "python": software["python"],
        **software["versions"],
        **hardware,
    }
