"""Labels that people give: a sample of a study's texts to read, and what they say beside target and judge. No files.

Whoever labels sees a text and nothing else: neither the emotion that was asked for, nor the judge's, nor the run. A label is an
emotion of the study, or `none`.
"""

import hashlib

import numpy as np
import pandas as pd

from affq.emotions import NONE
from affq.errors import InputError
from affq.inference import KEY
from affq.stats import alpha, by_confusion, by_labels, kappa

COLUMNS = ("id", "text", "label")
AGREEMENT = ["first", "second", "texts", "same", "cohen_kappa", "krippendorff_alpha"]
CORRECTED = (
    "model precision texts labelled judge_alone estimate low high weight labels_alone_estimate labels_alone_low labels_alone_high"
).split()


def identified(texts):
    """Give the texts that were asked for an emotion with an `id` that betrays nothing, and changes with the text."""
    asked = texts[texts["emotion"].notna()].copy()
    whole = asked[["run_id", *KEY, "text"]].astype(str).agg("\0".join, axis=1)
    asked["id"] = [hashlib.sha256(words.encode()).hexdigest()[:12] for words in whole]
    return asked


def sample(texts, count, rng):
    """Draw `count` texts, or all if they are fewer, as many of each run and emotion asked for as can be, in random order.

    texts: tables.texts. Returns a frame {id, text, label}, the label empty, to be filled.
    """
    asked = identified(texts).sample(frac=1, random_state=rng)
    turn = asked.groupby(["run_id", "emotion"]).cumcount()  # one of each stratum, then a second of each, …
    drawn = asked.assign(turn=turn).sort_values("turn", kind="stable").head(count)
    return drawn.sample(frac=1, random_state=rng)[["id", "text"]].assign(label="").reset_index(drop=True)


def check(frame, texts, emotions, place):
    """Give the labels of one person's file: a frame {id, label}, without the texts that have none.

    frame: the file as strings, with its columns; texts: tables.texts. Raises InputError for anything else, with the record: a
    text may hold line breaks, so that the file's lines say little. Records are counted from 1, below the columns' names.
    """
    if missing := [name for name in ("id", "label") if name not in frame]:
        raise InputError(f"{place} has no column {missing[0]}; label a file that affq annotate --out wrote")
    known, choices = set(identified(texts)["id"]), (*emotions, NONE)
    seen = set()
    for number, row in enumerate(frame.to_dict("records"), 1):
        label, record = row["label"].strip().lower(), f"{place}, record {number} (id {row['id']!r})"
        if row["id"] not in known:
            raise InputError(f"{record}: that is no text of the runs that are here; were they done again?")
        if row["id"] in seen:
            raise InputError(f"{record}: the text is there twice; leave one out")
        if label and label not in choices:
            raise InputError(f"{record}: unknown label {row['label']!r}; known: {', '.join(choices)}, or nothing")
        seen.add(row["id"])
    kept = frame.assign(label=frame["label"].str.strip().str.lower())
    if (kept := kept[kept["label"] != ""]).empty:
        raise InputError(f"{place} has no label yet; write one of {', '.join(choices)} beside each text")
    return kept[["id", "label"]].reset_index(drop=True)


def known(labels, texts):
    """Leave out the labels of texts that are there no more, as of a run that was done again, and people who have no other.

    labels: {person: frame {id, label}}; texts: tables.texts. Gives (the labels that are left, how many were left out).
    """
    ids = identified(texts)["id"]
    left = {person: frame[frame["id"].isin(ids)].reset_index(drop=True) for person, frame in labels.items()}
    out = sum(len(frame) for frame in labels.values()) - sum(len(frame) for frame in left.values())
    return {person: frame for person, frame in left.items() if len(frame)}, out


def beside(texts, labels):
    """Put people's labels beside target and judge: the texts that were asked for an emotion, with a column for each person.

    labels: {person: frame {id, label}}. The column of anna is `label of anna`: a person may be called as a column of `texts` is.
    """
    asked = identified(texts)
    for person, frame in labels.items():
        asked = asked.merge(frame.rename(columns={"label": _column(person)}), on="id", how="left")
    return asked


def between_people(labelled, people):
    """Say how far each person agrees with target, judge and the others: one row a pair.

    Columns {first, second, texts, same, cohen_kappa}; several people have a last row together with Krippendorff's α.
    labelled: as `beside` gives it.
    """
    others = {"target": "emotion", "judge": "judged_emotion"}
    pairs = [(person, name, column) for person in people for name, column in others.items()]
    pairs += [(one, two, _column(two)) for number, one in enumerate(people) for two in people[number + 1 :]]
    rows = []
    for first, second, column in pairs:
        both = labelled[[_column(first), column]].dropna()
        one, two = both[_column(first)], both[column]
        same = (one == two).mean() if len(both) else np.nan
        row = {"first": first, "second": second, "texts": len(both), "same": same}
        rows.append({**row, "cohen_kappa": kappa(one.tolist(), two.tolist())})
    frame = pd.DataFrame(rows, columns=AGREEMENT)
    if len(people) > 1:
        every = labelled[[_column(person) for person in people]].dropna(how="all")
        together = {"first": "all people", "second": "", "texts": len(every), "krippendorff_alpha": alpha(every)}
        frame = pd.concat([frame, pd.DataFrame([together])], ignore_index=True)
    return frame


def corrected(labelled, people, emotions):
    """Estimate each run's emotion F1 as people read it: {model, precision} and what correction.by_labels gives.

    Where several people labelled a text, each of their answers counts for its share. Runs without a label are left out.
    """
    rows = []
    for (model, precision), of in labelled.groupby(["model", "precision"], sort=False) if people else ():
        answers = np.stack([_codes(of[_column(person)], emotions) for person in people])
        gave = np.stack([of[_column(person)].notna().to_numpy() for person in people])
        if not gave.any():
            continue
        each = np.eye(len(emotions) + 1)[answers][..., :-1] * gave[..., None]  # none, and no label, are the last
        labels = np.divide(each.sum(0), gave.sum(0)[:, None], out=np.full(each.shape[1:], np.nan), where=gave.sum(0)[:, None] > 0)
        targets, judged = _codes(of["emotion"], emotions), _codes(of["judged_emotion"], emotions)
        rows.append({"model": model, "precision": precision, **by_labels(targets, judged, labels, emotions)})
    return pd.DataFrame(rows, columns=CORRECTED)


def bands(texts, emotions, card, rng):
    """Give each run's band of emotion F1 if the judge erred as on its card: {model, precision, emotion_f1 …, low, high}.

    card: of the study's first judge, whose answers `judged_emotion` are; its other emotions are kept among the answers.
    """
    of_card = card["test"]["confusion"]
    every = list(of_card)
    counts = np.array([[of_card[truth][answer] for answer in every] for truth in every])
    rows = []
    for (model, precision), of in texts[texts["emotion"].notna()].groupby(["model", "precision"], sort=False):
        low, high = by_confusion(_codes(of["emotion"], every), _codes(of["judged_emotion"], every), counts, every, rng)
        rows.append({"model": model, "precision": precision, "texts": len(of), "low": low, "high": high})
    return pd.DataFrame(rows)


def _column(person):
    return f"label of {person}"


def _codes(names, emotions):
    """Give the index of each name among the emotions, −1 for another."""
    return pd.Index(emotions).get_indexer(pd.Index(names))
