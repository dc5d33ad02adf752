"""Do several judges read the same texts alike? F1 under each, how far they agree, the order of precisions; how good each is."""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from affq.analysis.comparison import Compared
from affq.analysis.texts import NAMED, asked_and_judged, complete, named
from affq.inference import KEY
from affq.results import Reading
from affq.scoring import Judge
from affq.stats import alpha, kappa
from affq.study import Study

ANSWERS = ["judged_emotion", "masked_emotion"]
F1 = ("emotion_f1", "emotion_f1_low", "emotion_f1_high")
POINTS = ("difference_points", "low_points", "high_points")
BY_JUDGE = [*NAMED, "judge", "texts", *F1, "emotion_f1_masked", *POINTS, "rank"]
BETWEEN_JUDGES = [*NAMED, "judges", "texts", "same", "cohen_kappa", "krippendorff_alpha"]
CARD = ("precision", "recall", "f1")


def judgements(records: Sequence[Reading], texts: pd.DataFrame) -> pd.DataFrame:
    """Return what each judge answered: one row a text that was asked for an emotion, and a judge: NAMED, KEY, ANSWERS, judge.

    texts: Results.texts, which have the first judge's answers.
    """
    first, *others = records[0].run.study.judges
    frames = [asked_and_judged(texts)[[*NAMED, *KEY, *ANSWERS]].assign(judge=first.name)]
    for judge in others:
        for record in complete(records):
            if not (scores := record.scores(judge.name)):
                continue
            frame = pd.DataFrame(scores)[[*KEY, "judged_emotion"]].dropna(subset="emotion")
            masked = pd.DataFrame(record.scores(f"{judge.name}-masked"), columns=[*KEY, "judged_emotion"])
            frame = frame.merge(masked.rename(columns={"judged_emotion": "masked_emotion"}), on=KEY, how="left")
            frames.append(frame.assign(**named(record.run), judge=judge.name)[[*NAMED, *KEY, *ANSWERS, "judge"]])
    return pd.concat(frames, ignore_index=True)


def by_judge(judgements: pd.DataFrame, texts: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return F1 under each judge, and each run's difference from its baseline: one row a run and judge.

    Columns BY_JUDGE: emotion_f1 with the ends of its interval for prompts like these; difference_points against the baseline with
    its ends, empty for the baseline; rank of the run among all of its model under this judge, 1 the highest F1, equals sharing
    the better one. texts: Results.texts.
    """
    rows = []
    for judge, by_one in judgements.groupby("judge", sort=False):
        answers = by_one[[*NAMED, *KEY, *ANSWERS]]
        compared = Compared(texts.drop(columns=ANSWERS).merge(answers, on=[*NAMED, *KEY]), study)
        against = {run.id: baseline.id for run, baseline in compared.pairs()}
        for run in compared.runs:
            row = {**named(run), "judge": judge, "texts": study.texts_asked}
            row |= dict(zip(F1, compared.figure(run.id, "emotion_f1"), strict=True))
            known = compared.has(run.id, "emotion_f1_masked")
            row["emotion_f1_masked"] = compared.figure(run.id, "emotion_f1_masked")[0] if known else np.nan
            if run.id in against:
                difference = compared.f1_difference(run.id, against[run.id])
                ends = (difference.estimate, difference.low, difference.high)
                row |= {name: 100 * float(end) for name, end in zip(POINTS, ends, strict=True)}
            rows.append(row)
    frame = pd.DataFrame(rows, columns=[name for name in BY_JUDGE if name != "rank"])
    order = frame.groupby(["model", "judge"], sort=False)["emotion_f1"]
    return frame.assign(rank=order.rank(method="min", ascending=False).astype(int))


def between_judges(judgements: pd.DataFrame) -> pd.DataFrame:
    """Return how far the judges agree: one row a pair of judges and run, and one a pair over all runs (`all`).

    Columns BETWEEN_JUDGES; same: the share of texts with one answer.
    Three judges and more have a row together, without κ. Empty where all answers are one: agreement beyond chance is undefined.
    """
    judges = list(judgements["judge"].unique())
    groups = [*combinations(judges, 2), *([tuple(judges)] if len(judges) > 2 else [])]
    answers = judgements.pivot(index=[*NAMED, *KEY], columns="judge", values="judged_emotion").reset_index()
    by_run = dict(list(answers.groupby(NAMED, sort=False)))
    runs = judgements[NAMED].drop_duplicates().itertuples(index=False, name=None)
    rows = []
    for run, texts in [*((run, by_run[run]) for run in runs), (("all",) * len(NAMED), answers)]:
        for group in groups:
            known = texts[list(group)].dropna()
            row = {**dict(zip(NAMED, run, strict=True)), "judges": " and ".join(group), "texts": len(known)}
            row["same"] = known.nunique(axis=1).eq(1).mean()
            row["cohen_kappa"] = kappa(*known.to_numpy().T) if len(group) == 2 else np.nan
            rows.append({**row, "krippendorff_alpha": alpha(known)})
    return pd.DataFrame(rows, columns=BETWEEN_JUDGES)


def judge_quality(judges: Iterable[Judge]) -> pd.DataFrame:
    """Return precision, recall and F1 (CARD) by emotion of each judge that has a card, on its test file."""
    tests = {judge.name: judge.card["test"] for judge in judges if judge.card}
    rows = [(name, emotion, *(test[kind][emotion] for kind in CARD)) for name, test in tests.items() for emotion in test["f1"]]
    return pd.DataFrame(rows, columns=["judge", "emotion", *CARD])
