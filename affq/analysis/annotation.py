"""Labels that people give: a sample of a study's texts to read, and their agreement with target and judge. No files.

Whoever labels sees a text and nothing else: neither the emotion that was asked for, nor the judge's, nor the run. A label is an
emotion of the study, or `none`.
"""

import hashlib
import os
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from affq.analysis.texts import NAMED, codes
from affq.emotions import NONE, folded
from affq.errors import InputError
from affq.inference import KEY
from affq.stats import alpha, by_confusion, by_labels, kappa

COLUMNS = ("id", "text", "label")
AGREEMENT = ["first", "second", "texts", "same", "cohen_kappa", "krippendorff_alpha"]
CORRECTED = [*NAMED, *"texts labelled judge_alone estimate low high weight".split()]
CORRECTED += ["labels_alone_estimate", "labels_alone_low", "labels_alone_high"]

BAND = [*NAMED, "texts", "low", "high"]
Labels = dict[str, pd.DataFrame]  # of each person, {id, label}
# No spreadsheet takes letters alone for a number or a date. Ids that were given before, of letters and digits, become the same.
LETTERS = str.maketrans("0123456789", "ghijklmnop")


def identified(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the texts that were asked for an emotion with an `id` that betrays nothing, and changes with the text.

    An id is twelve letters.
    """
    asked = texts[texts["emotion"].notna()].copy()
    whole = asked[["run_id", *KEY, "text"]].astype(str).agg("\0".join, axis=1)
    asked["id"] = [hashlib.sha256(words.encode()).hexdigest()[:12].translate(LETTERS) for words in whole]
    return asked


def as_letters(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with an `id` of texts, each as `identified` gives it: those that were given before had digits."""
    return frame.assign(id=frame["id"].str.strip().str.translate(LETTERS))


def sample(texts: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw `count` texts, or all if they are fewer, as many of each run and emotion asked for as can be, in random order.

    texts: Results.texts. Returns a frame of COLUMNS, the label empty, to be filled.
    """
    asked = identified(texts).sample(frac=1, random_state=rng)
    turn = asked.groupby(["run_id", "emotion"]).cumcount()  # one of each stratum, then a second of each, …
    drawn = asked.assign(turn=turn).sort_values("turn", kind="stable").head(count)
    return drawn.sample(frac=1, random_state=rng)[["id", "text"]].assign(label="").reset_index(drop=True)


def check(frame: pd.DataFrame, texts: pd.DataFrame, emotions: Sequence[str], place: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the labels of one person's file: a frame {id, label}, without the texts that have none.

    frame: the file as strings, with its columns; texts: Results.texts. Raises InputError for anything else, with the record: a
    text may hold line breaks, so that the file's lines say little. Records are counted from 1, below the columns' names.
    """
    if missing := [name for name in ("id", "label") if name not in frame]:
        remedy = "label a file that affq annotate --out wrote"
        raise InputError(f"{{place}} has no column {missing[0]}", place=place, remedy=remedy)
    known, choices = set(identified(texts)["id"]), (*emotions, NONE)
    seen = set()
    given = as_letters(frame).assign(label=frame["label"].map(folded))
    for number, row in enumerate(given.to_dict("records"), 1):
        label, record = row["label"], f"{place}, record {number} (id {frame['id'].iloc[number - 1]!r})"
        if row["id"] not in known:
            problem = "{place}: that is no text of the runs that are here"
            raise InputError(
                problem, value=row["id"], place=record, remedy="were they done again, or did a spreadsheet change it?"
            )
        if row["id"] in seen:
            raise InputError("{place}: the text is there twice", value=row["id"], place=record, remedy="leave one out")
        if label and label not in choices:
            problem = f"{{place}}: unknown label {frame['label'].iloc[number - 1]!r}"
            raise InputError(problem, value=label, place=record, choices=(*choices, "or nothing"))
        seen.add(row["id"])
    labels = given.loc[given["label"] != "", ["id", "label"]].reset_index(drop=True)
    if labels.empty:
        raise InputError("{place} has no label yet", place=place, remedy=f"write one of {', '.join(choices)} beside each text")
    return labels


def known(labels: Labels, texts: pd.DataFrame) -> tuple[Labels, int]:
    """Return the labels without those of texts that are not here any more, and how many of those there are.

    A run that was done again has other texts. People who have no other label are left out. texts: Results.texts.
    """
    ids = identified(texts)["id"]
    named = {person: as_letters(frame) for person, frame in labels.items()}
    present = {person: frame[frame["id"].isin(ids)].reset_index(drop=True) for person, frame in named.items()}
    former = sum(len(frame) for frame in labels.values()) - sum(len(frame) for frame in present.values())
    return {person: frame for person, frame in present.items() if len(frame)}, former


def beside(texts: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Return the texts that were asked for an emotion, with a column of labels for each person.

    The column of anna is `label of anna`: a person may have the name of a column of `texts`.
    """
    asked = identified(texts)
    for person, frame in labels.items():
        asked = asked.merge(frame.rename(columns={"label": _column(person)}), on="id", how="left")
    return asked


def between_people(labelled: pd.DataFrame, people: Sequence[str]) -> pd.DataFrame:
    """Return how far each person agrees with target, judge and the others: one row a pair, columns AGREEMENT.

    Several people have a last row together with Krippendorff's α. labelled: as `beside` returns it.
    """
    others = {"target": "emotion", "judge": "judged_emotion"}
    pairs = [(person, name, column) for person in people for name, column in others.items()]
    pairs += [(first, second, _column(second)) for first, second in combinations(people, 2)]
    rows = []
    for first, second, column in pairs:
        both = labelled[[_column(first), column]].dropna()
        own, other = both[_column(first)], both[column]
        same = (own == other).mean() if len(both) else np.nan
        row = {"first": first, "second": second, "texts": len(both), "same": same}
        rows.append({**row, "cohen_kappa": kappa(own.tolist(), other.tolist())})
    frame = pd.DataFrame(rows, columns=AGREEMENT)
    if len(people) > 1:
        every = labelled[[_column(person) for person in people]].dropna(how="all")
        together = {"first": "all people", "second": "", "texts": len(every), "krippendorff_alpha": alpha(every)}
        frame = pd.concat([frame, pd.DataFrame([together])], ignore_index=True)
    return frame


def corrected(labelled: pd.DataFrame, people: Sequence[str], emotions: Sequence[str]) -> pd.DataFrame:
    """Estimate each run's emotion F1 as people read it, columns CORRECTED: see stats.by_labels.

    Where several people labelled a text, each of their answers counts for its share. Runs without a label are left out.
    """
    rows = []
    for run, texts in labelled.groupby(NAMED, sort=False) if people else ():
        answers = np.stack([codes(texts[_column(person)], emotions) for person in people])
        given = np.stack([texts[_column(person)].notna().to_numpy() for person in people])
        if not given.any():
            continue
        each = np.eye(len(emotions) + 1)[answers][..., :-1] * given[..., None]  # none, and no label, are the last
        people_of_text = given.sum(axis=0)[:, None]
        labels = np.divide(each.sum(axis=0), people_of_text, out=np.full(each.shape[1:], np.nan), where=people_of_text > 0)
        targets, judged = codes(texts["emotion"], emotions), codes(texts["judged_emotion"], emotions)
        rows.append({**dict(zip(NAMED, run, strict=True)), **by_labels(targets, judged, labels, emotions)})
    return pd.DataFrame(rows, columns=CORRECTED)


def bands(texts: pd.DataFrame, card: dict, rng: np.random.Generator) -> pd.DataFrame:
    """Return each run's band of emotion F1 if the judge errs as on its card, columns BAND.

    card: of the study's first judge, whose answers `judged_emotion` are; its other emotions are kept among the answers.
    """
    confusion = card["test"]["confusion"]
    emotions = list(confusion)
    counts = np.array([[confusion[truth][answer] for answer in emotions] for truth in emotions])
    rows = []
    for run, asked in texts[texts["emotion"].notna()].groupby(NAMED, sort=False):
        targets, judged = codes(asked["emotion"], emotions), codes(asked["judged_emotion"], emotions)
        rows.append((*run, len(asked), *by_confusion(targets, judged, counts, emotions, rng)))
    return pd.DataFrame(rows, columns=BAND)


def _column(person: str) -> str:
    return f"label of {person}"
