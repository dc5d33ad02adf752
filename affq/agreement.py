"""Do several judges read the same texts alike? F1 under each, how far they agree, and the order of precisions by each."""

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from affq.tables import KEY, macro_f1


def judgements(records):
    """Give what each judge of a study answered: one row a text that was asked for an emotion, and a judge.

    Columns {model, precision, prompt_id, emotion, sample, judge, judged_emotion, masked_emotion}; empty where no run is scored.
    """
    frames = []
    for record in (r for r in records if r.complete):
        for judge in record.run.study.judges:
            if not (scores := record.scores(judge.name)):
                continue
            frame = pd.DataFrame(scores)[[*KEY, "judged_emotion"]]
            masked = pd.DataFrame(record.scores(f"{judge.name}-masked"), columns=[*KEY, "judged_emotion"])
            frame = frame.merge(masked.rename(columns={"judged_emotion": "masked_emotion"}), on=KEY, how="left")
            frame.insert(0, "model", record.run.model.name)
            frame.insert(1, "precision", record.run.precision)
            frames.append(frame.assign(judge=judge.name)[frame["emotion"].notna()])
    return pd.concat(frames, ignore_index=True)


def by_judge(judgements, emotions):
    """Give F1 under each judge: one row a run and judge.

    Columns {model, precision, judge, texts, emotion_f1, emotion_f1_masked, rank}; rank: of the run among its model's under this
    judge, 1 the highest F1; runs of equal F1 share the better one.
    """
    rows = []
    for (model, precision, judge), of in judgements.groupby(["model", "precision", "judge"], sort=False):
        row = {"model": model, "precision": precision, "judge": judge, "texts": len(of)}
        row["emotion_f1"] = macro_f1(of["emotion"], of["judged_emotion"], emotions)
        known = of["masked_emotion"].notna().all()
        row["emotion_f1_masked"] = macro_f1(of["emotion"], of["masked_emotion"], emotions) if known else np.nan
        rows.append(row)
    frame = pd.DataFrame(rows)
    order = frame.groupby(["model", "judge"], sort=False)["emotion_f1"]
    return frame.assign(rank=order.rank(method="min", ascending=False).astype(int))


def between_judges(judgements):
    """Say how far the judges agree: one row a pair of judges and run, and one a pair over all runs (`all`).

    Columns {model, precision, judges, texts, same, cohen_kappa, krippendorff_alpha}; same: the share of texts with one answer.
    Three judges and more have a row together, without κ. Empty where all answers are one: agreement beyond chance is undefined.
    """
    judges = list(judgements["judge"].unique())
    groups = [*combinations(judges, 2), *([tuple(judges)] if len(judges) > 2 else [])]
    answers = judgements.pivot(index=["model", "precision", *KEY], columns="judge", values="judged_emotion").reset_index()
    runs = [(run, answers[(answers[["model", "precision"]] == list(run)).all(axis=1)]) for run in _runs(judgements)]
    rows = []
    for (model, precision), of in [*runs, (("all", "all"), answers)]:
        for group in groups:
            known = of[list(group)].dropna()
            row = {"model": model, "precision": precision, "judges": " and ".join(group), "texts": len(known)}
            row["same"] = known.nunique(axis=1).eq(1).mean()
            row["cohen_kappa"] = kappa(*known.to_numpy().T) if len(group) == 2 else np.nan
            rows.append({**row, "krippendorff_alpha": alpha(known)})
    return pd.DataFrame(rows, columns="model precision judges texts same cohen_kappa krippendorff_alpha".split())


def _runs(judgements):
    return list(judgements[["model", "precision"]].drop_duplicates().itertuples(index=False, name=None))


def kappa(first, second):
    """Give Cohen's κ (1960, https://doi.org/10.1177/001316446002000104) of two lists of labels; nan where it is undefined."""
    if len(first) == 0 or len({*first, *second}) < 2:
        return np.nan
    return float(cohen_kappa_score(first, second))


def alpha(labels):
    """Give Krippendorff's α for nominal labels; nan where it is undefined.

    labels: frame, one row a text, one column for each who labelled, empty where one did not (Krippendorff 2011,
    https://repository.upenn.edu/handle/20.500.14332/2089).
    """
    import krippendorff

    codes, known = pd.factorize(labels.to_numpy().ravel())
    values = np.where(codes < 0, np.nan, codes).reshape(labels.shape).T
    if len(known) < 2 or (~np.isnan(values)).sum(axis=0).max(initial=0) < 2:
        return np.nan
    return float(krippendorff.alpha(reliability_data=values, level_of_measurement="nominal"))
