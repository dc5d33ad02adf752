"""Every generated text with its scores, and frames that show the texts: by emotion, side by side, as examples."""

from collections.abc import Iterable, Sequence
from operator import itemgetter

import numpy as np
import pandas as pd

from affq.emotions import names_emotion
from affq.errors import InputError
from affq.inference import KEY
from affq.results import Reading
from affq.stats import compare
from affq.study import Run

NAMED = ["model", "precision", "engine"]  # what a run is known by, in every frame
RUN = ["run_id", *NAMED]
EMOTION_F1 = [*NAMED, "emotion", "texts", "recall", "f1"]
EXAMPLES = "why model precision engine prompt asked judged target_probability text".split()
NO_EMOTION = "no emotion"  # what the control's texts were asked for


def join(records: Sequence[Reading]) -> pd.DataFrame:
    """Return every text of the complete runs with its prompt, judged emotion and scores: one row a generation.

    Emotion is None for the control prompts. Scores that were not made are empty. Raises InputError if no run is complete.
    """
    frames, shared = [], {}  # type: list[pd.DataFrame], dict[str | None, str | None]
    for record in complete(records):
        run, generations = record.run, record.generations()
        keys, judge = list(map(itemgetter(*KEY), generations)), run.study.judges[0].name
        frame = pd.DataFrame(generations)
        for place, (name, value) in enumerate({"run_id": run.id, **named(run)}.items()):
            frame.insert(place, name, value)
        judged = in_line(record.scores(judge), keys)
        frame["judged_emotion"] = [row.get("judged_emotion") for row in judged]
        frame["masked_emotion"] = [row.get("judged_emotion") for row in in_line(record.scores(f"{judge}-masked"), keys)]
        frame["names_target"] = [bool(g["emotion"]) and names_emotion(g["text"], g["emotion"]) for g in generations]
        of_target = [row.get("probabilities", {}).get(g["emotion"]) for row, g in zip(judged, generations, strict=True)]
        frame["target_probability"] = np.array(of_target, dtype=float)
        to_references = in_line(record.scores("rouge-references"), keys)
        for name in ("rouge1", "rouge2", "rougeL"):
            frame[name] = np.array([row.get(name) for row in to_references], dtype=float)
        to_baseline = in_line(_paired(record, records), keys)
        frame["rougeL_to_baseline"] = np.array([row.get("rougeL") for row in to_baseline], dtype=float)
        for name in ("prompt_id", "kind", "emotion", "prompt", "judged_emotion", "masked_emotion"):
            frame[name] = [shared.setdefault(value, value) for value in frame[name]]  # one string, whatever the number of runs
        frames.append(frame)
    if not frames:
        raise InputError("no run of this study is complete: there is no text", remedy="affq run makes them")
    return pd.concat(frames, ignore_index=True)


def named(run: Run) -> dict[str, str]:
    """Return what a run is known by: NAMED."""
    return {"model": run.model.name, "precision": run.precision, "engine": run.engine.label}


def complete(records: Iterable[Reading]) -> list[Reading]:
    """Return the records of the complete runs."""
    return [record for record in records if record.complete]


def baseline_of(record: Reading, records: Iterable[Reading]) -> Reading:
    """Return the record of the run that a record's paired figures are taken against."""
    baseline = record.run.study.baseline(record.run).id
    return next(r for r in records if r.run.id == baseline)


def _paired(record: Reading, records: Sequence[Reading]) -> list[dict]:
    """Return the scores against the baseline; none if it is not complete, or is not the one that they were made against."""
    baseline, manifest = baseline_of(record, records), record.manifest("rouge-baseline")
    if not (manifest and baseline.complete and manifest["by"].get("generations_sha256") == baseline.generations_sha256()):
        return []
    return record.scores("rouge-baseline")


def in_line(scores: list[dict], keys: list[tuple]) -> list[dict]:
    """Return scores in the order of the generations' keys, {} where there is none."""
    by_key = dict(zip(map(itemgetter(*KEY), scores), scores, strict=True))
    return [by_key.get(key, {}) for key in keys]


def asked_and_judged(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the texts that were asked for an emotion and are judged."""
    return texts[texts["emotion"].notna() & texts["judged_emotion"].notna()]


def codes(names: Sequence[str], emotions: Sequence[str]) -> np.ndarray:
    """Return the number of each name among the emotions, −1 for another."""
    return pd.Index(emotions).get_indexer(pd.Index(names))


def f1_counts(texts: pd.DataFrame, emotions: Sequence[str]) -> np.ndarray:
    """Return what F1 of judged texts is made of, (3, emotions), as stats.compare.tally gives it."""
    return compare.tally(codes(texts["emotion"], emotions), codes(texts["judged_emotion"], emotions), len(emotions))


def emotion_f1(texts: pd.DataFrame, emotions: Sequence[str]) -> pd.DataFrame:
    """Return F1 by run and emotion, columns EMOTION_F1; a run that is not judged has no row."""
    rows = []
    for (_, *run), judged in asked_and_judged(texts).groupby(RUN, sort=False):
        counts = f1_counts(judged, emotions)
        right, _, asked = counts
        recall = np.divide(right, asked, out=np.full(len(emotions), np.nan), where=asked > 0)
        by_emotion = zip(emotions, asked.tolist(), recall, compare.f1_by_emotion(counts), strict=True)
        rows += [(*run, *figures) for figures in by_emotion]
    return pd.DataFrame(rows, columns=EMOTION_F1)


def confusion(texts: pd.DataFrame, emotions: Sequence[str]) -> pd.DataFrame:
    """Count texts by emotion asked for (rows; NO_EMOTION is the control) and judged emotion (columns), for each run."""
    asked = texts["emotion"].fillna(NO_EMOTION).rename("asked")
    counts = pd.crosstab([*(texts[name] for name in NAMED), asked], texts["judged_emotion"].rename("judged"))
    counts = counts.reindex(columns=[*emotions, *[c for c in counts.columns if c not in emotions]], fill_value=0)
    runs = texts[NAMED].drop_duplicates().itertuples(index=False, name=None)
    order = [(*run, e) for run in runs for e in [*emotions, NO_EMOTION] if (*run, e) in counts.index]
    return counts.reindex(order).rename_axis(columns=None).reset_index()


def run_labels(frame: pd.DataFrame) -> pd.Series:
    """Return the name of each row's run, without what all rows of the frame have in common but for the precision."""
    shown = [name for name in NAMED if name == "precision" or frame[name].nunique() > 1]
    return frame[shown].astype(str).agg(" ".join, axis=1) if len(frame) else pd.Series(dtype=str)


def side_by_side(texts: pd.DataFrame, emotion: str) -> pd.DataFrame:
    """Return the first samples for one emotion: a row a prompt, a column a run, judged emotions in brackets."""
    asked = texts[texts["emotion"] == emotion]
    run = run_labels(asked)
    marked = "[" + asked["judged_emotion"].fillna("not judged") + "] " + asked["text"]
    wide = asked.assign(run=run, marked=marked).pivot_table(
        index="prompt_id", columns="run", values="marked", aggfunc="first", sort=False
    )
    return wide.rename_axis(columns=None).fillna("").reset_index(names="prompt")


def examples(texts: pd.DataFrame) -> pd.DataFrame:
    """Return texts chosen by rule: one row a text, columns EXAMPLES.

    Of each run the text with the highest and the one with the lowest probability of the emotion asked for; of each model of
    several runs the request whose texts' probabilities lie furthest apart, at the runs of the highest and of the lowest.
    """
    known = texts[texts["emotion"].notna() & texts["target_probability"].notna()]
    chosen = []
    for _, run in known.groupby("run_id", sort=False):
        chosen += _ends(run, "surest", "least sure")
    for _, model in known.groupby("model", sort=False):
        by_request = model.groupby(KEY, sort=False)["target_probability"]
        if by_request.size().max() > 1:
            widest = (by_request.max() - by_request.min()).idxmax()
            request = model[(model[KEY] == list(widest)).all(axis=1)]
            chosen += _ends(request, "differs most: highest", "differs most: lowest")
    rows = [
        (why, *(row[name] for name in (*NAMED, "prompt_id", "emotion", "judged_emotion", *EXAMPLES[-2:]))) for why, row in chosen
    ]
    return pd.DataFrame(rows, columns=EXAMPLES)


def _ends(texts: pd.DataFrame, highest: str, lowest: str) -> list[tuple[str, pd.Series]]:
    """Return the texts of the highest and of the lowest probability, each with what it is an example of."""
    probability = texts["target_probability"]
    return [(highest, texts.loc[probability.idxmax()]), (lowest, texts.loc[probability.idxmin()])]
