"""Do several judges read the same texts alike? F1 under each, how far they agree, and the order of precisions by each."""

from itertools import combinations

import numpy as np
import pandas as pd

from affq.analysis import comparison
from affq.inference import KEY
from affq.stats import alpha, kappa

RUN, ANSWERS = ["model", "precision"], ["judged_emotion", "masked_emotion"]
F1 = ("emotion_f1", "emotion_f1_low", "emotion_f1_high")
POINTS = ("difference_points", "low_points", "high_points")
BY_JUDGE = [*RUN, "judge", "texts", *F1, "emotion_f1_masked", *POINTS, "rank"]


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
    columns = [*RUN, *KEY, *ANSWERS, "judge"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def by_judge(judgements, texts, study):
    """Give F1 under each judge, and each run's difference from its baseline: one row a run and judge.

    Columns BY_JUDGE: emotion_f1 with the ends of its interval for prompts like these; difference_points against the baseline with
    its ends, empty for the baseline; rank of the run among its model's under this judge, 1 the highest F1, equals sharing the
    better one. texts: tables.texts.
    """
    rows = []
    for judge, of in judgements.groupby("judge", sort=False):
        answers = of[[*RUN, *KEY, "judged_emotion", "masked_emotion"]]
        compared = comparison.Compared(texts.drop(columns=ANSWERS).merge(answers, on=[*RUN, *KEY]), study)
        against = {run.id: baseline.id for run, baseline in compared.pairs()}
        for run in compared.runs:
            row = {"model": run.model.name, "precision": run.precision, "judge": judge, "texts": study.texts_asked}
            row |= dict(zip(F1, compared.figure(run.id, "emotion_f1"), strict=True))
            known = compared.has(run.id, "emotion_f1_masked")
            row["emotion_f1_masked"] = compared.figure(run.id, "emotion_f1_masked")[0] if known else np.nan
            if run.id in against:
                found = compared.f1_difference(run.id, against[run.id])
                ends = (found.estimate, found.low, found.high)
                row |= {name: 100 * float(end) for name, end in zip(POINTS, ends, strict=True)}
            rows.append(row)
    frame = pd.DataFrame(rows, columns=[name for name in BY_JUDGE if name != "rank"])
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
