"""Records to tidy frames to the published tables. A failed or missing run stays a row. Raw units, until `for_reading`."""

from operator import itemgetter

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from affq.analysis import comparison, costs
from affq.emotions import names_emotion
from affq.errors import InputError
from affq.inference import KEY
from affq.stats import compare

BOUNDED = (*comparison.F1S, *comparison.MEANS)  # the figures with an interval for prompts like these
SUMMARY = "run_id model precision engine weights status device stored_dtype compute_dtype texts emotion_f1_chance".split()
SUMMARY += [f"{figure}{end}" for figure in BOUNDED for end in ("", "_low", "_high")]
SUMMARY += "weights_bytes peak_bytes peak_kind ttft_s token_s latency_s latency_low_s latency_high_s note".split()
COUNTS = ("texts", "weights_bytes", "peak_bytes", "load_peak_bytes", "elements", "bytes", "parameters")
COSTS = {"peak_bytes": "peak memory", "latency_s": "latency"}


def texts(records):
    """Give every text of the complete runs with its prompt, judged emotion and scores: one row a generation.

    Emotion is None for the control prompts. Scores that were not made are empty. Raises InputError if no run is complete.
    """
    frames, held = [], {}
    for record in records:
        if not record.complete:
            continue
        run, generations = record.run, record.generations()
        keys, judge = list(map(itemgetter(*KEY), generations)), run.study.judges[0].name
        frame = pd.DataFrame(generations)
        frame.insert(0, "run_id", run.id)
        frame.insert(1, "model", run.model.name)
        frame.insert(2, "precision", run.precision)
        judged = _in_line(record.scores(judge), keys)
        frame["judged_emotion"] = [row.get("judged_emotion") for row in judged]
        masked = _in_line(record.scores(f"{judge}-masked"), keys)
        frame["masked_emotion"] = [row.get("judged_emotion") for row in masked]
        frame["names_target"] = [bool(g["emotion"]) and names_emotion(g["text"], g["emotion"]) for g in generations]
        of_target = [row.get("probabilities", {}).get(g["emotion"]) for row, g in zip(judged, generations, strict=True)]
        frame["target_probability"] = np.array(of_target, dtype=float)
        to_references = _in_line(record.scores("rouge-references"), keys)
        for name in ("rouge1", "rouge2", "rougeL"):
            frame[name] = np.array([row.get(name) for row in to_references], dtype=float)
        to_baseline = _in_line(_paired(record, records), keys)
        frame["rougeL_to_baseline"] = np.array([row.get("rougeL") for row in to_baseline], dtype=float)
        for name in ("prompt_id", "kind", "emotion", "prompt", "judged_emotion", "masked_emotion"):
            frame[name] = [held.setdefault(value, value) for value in frame[name]]  # once, whatever the number of runs
        frames.append(frame)
    if not frames:
        raise InputError("no run of this study is complete: there is no text; affq run makes them")
    return pd.concat(frames, ignore_index=True)


def _paired(record, records):
    """Give the scores against the baseline; none if the baseline is not complete, or is not the one they were made against."""
    baseline, manifest = baseline_of(record, records), record.manifest("rouge-baseline")
    if not (manifest and baseline.complete and manifest["by"]["generations_sha256"] == baseline.generations_sha256()):
        return []
    return record.scores("rouge-baseline")


def baseline_of(record, records):
    """Find the record of the run that a record's paired figures are taken against."""
    baseline = record.run.study.baseline(record.run.model).id
    return next(r for r in records if r.run.id == baseline)


def _in_line(scores, keys):
    """Put scores in the order of the generations' keys, {} where there is none."""
    by_key = dict(zip(map(itemgetter(*KEY), scores), scores, strict=True))
    return [by_key.get(key, {}) for key in keys]


def macro_f1(targets, judged, emotions):
    """Give the unweighted mean over `emotions` of F1; an emotion that was never judged counts as 0."""
    return float(f1_score(targets, judged, labels=list(emotions), average="macro", zero_division=0))


def judged_texts(texts, run_id):
    """Give the texts of one run that were asked for an emotion and are judged."""
    return texts[(texts["run_id"] == run_id) & texts["emotion"].notna() & texts["judged_emotion"].notna()]


def summary(records, texts):
    """Give one row a run, columns SUMMARY, raw units; latencies are medians over the timed texts.

    <figure>_low and _high are the ends of its interval for prompts like these, empty where no spread shows. What else is empty
    has its reason in `note`, but for the baseline's rougeL_to_baseline.
    """
    compared, rows = comparison.Compared(texts, records[0].run.study), []
    figures = _with_ends(comparison.intervals(compared))
    for record in records:
        run, state = record.run, record.state()
        row = {"run_id": run.id, "model": run.model.name, "precision": run.precision, "engine": run.study.engine}
        row |= {"weights": run.settings["weights"], "status": str(state.status), "stored_dtype": record.stored_dtype()}
        notes = [state.note] if state.note else []
        if record.complete:
            row |= costs.measured(record)
            if run.study.judged:
                if compared.has(run.id):
                    chance = {"texts": run.study.texts_asked, "emotion_f1_chance": compared.chance_f1(run.id)}
                    row |= chance | figures[run.model.name, run.precision]
                else:
                    notes.append("not scored")
                notes += _of_texts(record, baseline_of(record, records))
            else:
                notes.append("random weights")
            if row["device"] == "cuda" and "cpu" in record.measurements()["model"].get("placed", ""):
                notes.append("weights offloaded to the CPU: latency is not the GPU's")
            if disturbed := costs.disturbances(record):
                notes.append(f"measurement disturbed: {', '.join(d.phrase for d in disturbed)}")
            if row["peak_bytes"] is None:
                notes.append("peak unknown: this system reports none that can be reset")
        rows.append(row | {"note": "; ".join(notes)})
    return _typed(pd.DataFrame(rows, columns=SUMMARY))


def _with_ends(intervals):
    """Give the BOUNDED figures for prompts like these: {(model, precision): {<figure>, <figure>_low, <figure>_high}}."""
    found = {}
    for row in intervals[intervals["estimand"] == compare.PROMPTS_LIKE_THESE].itertuples():
        if row.figure in BOUNDED:
            figures = {row.figure: row.estimate, f"{row.figure}_low": row.low, f"{row.figure}_high": row.high}
            found.setdefault((row.model, row.precision), {}).update(figures)
    return found


def _of_texts(record, baseline):
    """Note what bears on a run's quality: prompts without a chat template, a baseline that is not there."""
    if record.measurements()["model"]["chat_template"] == "none":
        yield "no chat template: the model is given the prompts as they stand"
    if not baseline.complete:
        yield f"no paired figures: the baseline {baseline.run.precision} is {baseline.state().status}"


def _typed(frame):
    """Keep counts whole numbers where some are empty."""
    return frame.astype({name: "Int64" for name in frame.columns.intersection(COUNTS)})


def emotion_f1(texts, emotions):
    """Give F1 by run and emotion: {model, precision, emotion, texts, recall, f1}."""
    rows = []
    for (run_id, model, precision), _ in texts.groupby(["run_id", "model", "precision"], sort=False):
        asked = judged_texts(texts, run_id)
        if asked.empty:
            continue
        found = f1_score(asked["emotion"], asked["judged_emotion"], labels=list(emotions), average=None, zero_division=0)
        for emotion, f1 in zip(emotions, found, strict=True):
            of = asked[asked["emotion"] == emotion]
            recall = (of["judged_emotion"] == emotion).mean()
            rows.append(
                {"model": model, "precision": precision, "emotion": emotion, "texts": len(of), "recall": recall, "f1": f1}
            )
    return pd.DataFrame(rows)


def confusion(texts, emotions):
    """Count texts by asked emotion (rows; `no emotion` is the control) and judged emotion (columns), for each run."""
    asked = texts["emotion"].fillna("no emotion").rename("asked")
    counts = pd.crosstab([texts["model"], texts["precision"], asked], texts["judged_emotion"].rename("judged"))
    counts = counts.reindex(columns=[*emotions, *[c for c in counts.columns if c not in emotions]], fill_value=0)
    order = [(*run, e) for run in _in_order(texts) for e in [*emotions, "no emotion"] if (*run, e) in counts.index]
    return counts.reindex(order).rename_axis(columns=None).reset_index()


def _in_order(texts):
    return list(texts[["model", "precision"]].drop_duplicates().itertuples(index=False, name=None))


def side_by_side(texts, emotion):
    """Put the first samples for one emotion beside each other: a row a prompt, a column a run, judged emotions in brackets."""
    of = texts[texts["emotion"] == emotion]
    run = of["model"] + " " + of["precision"] if of["model"].nunique() > 1 else of["precision"]
    marked = "[" + of["judged_emotion"].fillna("not judged") + "] " + of["text"]
    wide = of.assign(run=run, marked=marked).pivot_table(
        index="prompt_id", columns="run", values="marked", aggfunc="first", sort=False
    )
    return wide.rename_axis(columns=None).fillna("").reset_index(names="prompt")


def examples(texts):
    """Choose texts by rule: one row a text, {why, model, precision, prompt, asked, judged, target_probability, text}.

    Of each run the text with the highest and the one with the lowest probability of the emotion asked for; of each model of
    several runs the request whose texts' probabilities lie furthest apart, at the runs of the highest and of the lowest.
    """
    known = texts[texts["emotion"].notna() & texts["target_probability"].notna()]
    chosen = []
    for _, of in known.groupby("run_id", sort=False):
        chosen += [(why, of.loc[at]) for why, at in _ends_of(of["target_probability"], "surest", "least sure")]
    for _, of in known.groupby("model", sort=False):
        by_request = of.groupby(KEY, sort=False)["target_probability"]
        if by_request.size().max() > 1:
            widest = (by_request.max() - by_request.min()).idxmax()
            of_request = of[(of[KEY] == list(widest)).all(axis=1)]
            ends = _ends_of(of_request["target_probability"], "differs most: highest", "differs most: lowest")
            chosen += [(why, of.loc[at]) for why, at in ends]
    rows = [
        {"why": why, "model": row["model"], "precision": row["precision"], "prompt": row["prompt_id"], "asked": row["emotion"]}
        | {"judged": row["judged_emotion"], "target_probability": row["target_probability"], "text": row["text"]}
        for why, row in chosen
    ]
    return pd.DataFrame(rows, columns="why model precision prompt asked judged target_probability text".split())


def _ends_of(values, highest, lowest):
    return (highest, values.idxmax()), (lowest, values.idxmin())


def judge_quality(judges):
    """Give precision, recall and F1 by emotion of each judge that has a card, on its test file: {judge, emotion, …}."""
    kinds = ("precision", "recall", "f1")
    known = [(judge.name, judge.card["test"]) for judge in judges if judge.card]
    rows = [{"judge": name, "emotion": e, **{k: test[k][e] for k in kinds}} for name, test in known for e in test["f1"]]
    return pd.DataFrame(rows, columns=["judge", "emotion", *kinds])


def provenance(records):
    """Give what the complete runs were made of and on: one row a field and value, with the runs that share it."""
    rows = []
    for record in (r for r in records if r.complete):
        about, measured = record.about(), record.measurements()
        settings, software, hardware = about["settings"], about["software"], about["hardware"]
        fields = {
            "weights": settings["revision"],
            "weights loaded": about["weights_sha256"],
            "stored as": about["stored_dtype"],
            "texts kept from an earlier attempt": about["texts_kept"] or None,
            "engine": settings["engine"],
        }
        fields |= {"precision": settings["precision"]["name"], "weight_dtype": settings["precision"]["weight_dtype"]}
        fields |= settings["precision"]["quantization"] | measured["model"]
        fields |= settings["generation"] | {f"measurement {name}": value for name, value in settings["measurement"].items()}
        fields |= {"seed": settings["seed"], "batch": settings["batch"], "prompts": settings["prompts_sha256"]}
        fields |= {"emotions": ", ".join(settings["emotions"]), "samples": settings["samples"]}
        for scorer in record.run.study.scorers:
            fields |= {f"{scorer} {name}": value for name, value in (record.manifest(scorer) or {"by": {}})["by"].items()}
        fields |= {
            "judges": ", ".join(judge.name for judge in record.run.study.judges) if record.run.study.judged else None,
            "affq": software["affq"],
            "commit": software["commit"] or "",
        }
        fields |= {"code": software["code_digest"], "python": software["python"], **software["versions"], **hardware}
        run = f"{record.run.model.name} {record.run.precision}"
        known = ((name, str(value)) for name, value in fields.items() if value is not None)
        rows += [{"field": name, "value": value, "run": run} for name, value in known]
    every = len({row["run"] for row in rows})
    shared = pd.DataFrame(rows).groupby(["field", "value"], sort=False)["run"].agg(list).reset_index()
    shared = shared.sort_values("field", key=lambda f: f.map(list(shared["field"]).index), kind="stable")
    shared["runs"] = ["all" if len(ids) == every else ", ".join(ids) for ids in shared.pop("run")]
    return shared
