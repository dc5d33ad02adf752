"""Texts to frames of what is sure: intervals of each run's figures, paired differences, what moves them, what could be seen.

Every figure says what it is an estimate of (`estimand`): compare.THESE_PROMPTS or compare.PROMPTS_LIKE_THESE.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from affq.analysis import choose
from affq.stats import compare, power

ESTIMANDS = (compare.PROMPTS_LIKE_THESE, compare.THESE_PROMPTS)
F1S = {"emotion_f1": "judged_emotion", "emotion_f1_masked": "masked_emotion"}
MEANS = ("names_target", "rouge1", "rouge2", "rougeL", "rougeL_to_baseline")
SWAPS = 1_999  # of two runs' texts, where they are too many to look at all
DRAWS = 1_000  # of the prompts
WANTED = 0.05  # the change of F1 that a reader is told the price of
DETECTABLE = (
    "model precision against prompts samples between_points within_points detectable_points prompts_needed samples_needed"
).split()
FEWEST = 3  # prompts that an interval for prompts like these takes
SIZES = (5, 10, 20, 40)  # of prompts


class Compared:
    """The judged texts of a study's complete runs, as arrays of shape (prompts, emotions, samples).

    texts: tables.texts. A run whose texts are not judged is left out. Raises ValueError for a run that has a text twice, or lacks
    one that another has.
    """

    def __init__(self, texts, study):
        columns = ["run_id", "prompt_id", "kind", "emotion", "sample", *F1S.values(), *MEANS]
        asked = texts.loc[texts["emotion"].notna() & texts["judged_emotion"].notna(), columns]
        self.study, self.greedy = study, study.generation.decoding == "greedy"
        every = asked.drop_duplicates("prompt_id")
        self.prompts, self.kinds = list(every["prompt_id"]), every["kind"].to_numpy()
        self._of = {run_id: self._sorted(of, run_id) for run_id, of in asked.groupby("run_id", sort=False)}
        self.runs = [run for run in study.runs() if run.id in self._of]

    def _sorted(self, of, run_id):
        prompts, emotions, samples = self.prompts, self.study.emotions, self.study.samples
        places = pd.Index(prompts).get_indexer(of["prompt_id"]) * len(emotions) + pd.Index(emotions).get_indexer(of["emotion"])
        places = places * samples + of["sample"].to_numpy()
        order = np.argsort(places)
        if not np.array_equal(places[order], np.arange(len(prompts) * len(emotions) * samples)):
            raise ValueError(f"run {run_id} has not every text once, of each prompt, emotion and sample that is compared")
        return of.iloc[order]

    def values(self, run_id, column):
        """Give a column of a run's texts; emotions as their index, −1 for another."""
        column = self._of[run_id][column]
        if column.name in F1S.values():
            column = pd.Series(pd.Index(self.study.emotions).get_indexer(pd.Index(column)))
        return column.to_numpy(dtype=float).reshape(len(self.prompts), len(self.study.emotions), self.study.samples)

    def terms(self, run_id, figure):
        """Give what compare.interval takes of a figure: (terms, statistic, scale)."""
        if figure in F1S:
            return compare.counts(self.values(run_id, F1S[figure])), compare.macro_f1, "logit"
        scale = "identity" if figure == "names_target" else "logit"  # a share of texts may be 0 in every prompt but one
        return compare.totals(self.values(run_id, figure)), compare.mean, scale

    def has(self, run_id, figure="emotion_f1"):
        """Say whether a run's texts have this figure, every one of them."""
        return run_id in self._of and not self._of[run_id][F1S.get(figure, figure)].isna().any()

    def figure(self, run_id, figure):
        """Give (estimate, low, high) of a figure, for prompts like these."""
        terms, statistic, scale = self.terms(run_id, figure)
        found = self.interval(terms, statistic, compare.PROMPTS_LIKE_THESE, scale)
        return float(found.estimate), float(found.low), float(found.high)

    def chance_f1(self, run_id):
        """Give the macro-F1 that shuffled targets would give."""
        return float(compare.chance_f1(self.terms(run_id, "emotion_f1")[0].sum(axis=(0, 1))))

    def falls_short(self, run_id, figure="emotion_f1", by_emotion=False):
        """Say whether too few texts are right, or wrong, for the interval of F1 to cover as often as it says."""
        counts = self.terms(run_id, figure)[0].sum(axis=(0, 1))
        right, judged, asked = counts if by_emotion else counts.sum(axis=-1)
        return compare.falls_short(right, asked - right, self.study.samples)

    def interval(self, terms, statistic, of, scale="identity"):
        found = compare.interval(terms, statistic, of, scale, self.greedy)
        if of == compare.PROMPTS_LIKE_THESE and len(terms) < FEWEST:
            return replace(found, low=found.low * np.nan, high=found.high * np.nan)
        return found

    def pairs(self):
        """List the runs that have their baseline beside them, with it."""
        there = {run.id: run for run in self.runs}
        with_baseline = [(run, self.study.baseline(run.model)) for run in self.runs]
        return [(run, baseline) for run, baseline in with_baseline if baseline.id in there and run is not there[baseline.id]]

    def counts_of(self, run_id, other_id, figure="emotion_f1"):
        """Give the counts of two runs' F1, as compare takes a pair."""
        return np.stack([self.terms(one, figure)[0] for one in (run_id, other_id)], axis=-1)

    def f1_difference(self, run_id, other_id, of=compare.PROMPTS_LIKE_THESE):
        """Give the Interval of one run's macro-F1 less another's."""
        return self.interval(self.counts_of(run_id, other_id), compare.difference(compare.macro_f1), of)

    def f1_draws(self, rng):
        """Give macro-F1 of every run with the prompts resampled, the same ones for all: shape (DRAWS, runs)."""
        if not self.runs:
            return np.empty((DRAWS, 0))
        counts = np.stack([self.terms(run.id, "emotion_f1")[0] for run in self.runs], axis=2)
        return compare.resampled(counts, compare.macro_f1, rng, DRAWS)


def intervals(compared):
    """Give the intervals of each run's figures.

    Columns {model, precision, figure, estimand, estimate, low, high, standard_error, falls_short}. falls_short: an interval that
    covers less often than it says, for want of right or wrong texts (compare.falls_short).
    figure: emotion_f1, emotion_f1_masked, `f1 <emotion>`, and means over texts: ROUGE, names_target. Ends are nan where there is
    no spread to see them by; under greedy decoding those for these prompts are the estimate, which they would give again.
    """
    rows, exact = [], {of: of == compare.THESE_PROMPTS and compared.greedy for of in ESTIMANDS}
    for run in compared.runs:
        about = {"model": run.model.name, "precision": run.precision}
        for figure in filter(lambda figure: compared.has(run.id, figure), (*F1S, *MEANS)):
            terms, statistic, scale = compared.terms(run.id, figure)
            short = bool(compared.falls_short(run.id, figure)) if figure in F1S else False
            for of in ESTIMANDS:
                found = _within(compared.interval(terms, statistic, of, scale))
                row = about | {"figure": figure, "estimand": of} | _ends(found)
                rows.append(row | {"falls_short": short and not exact[of]})
        counts, short = compared.terms(run.id, "emotion_f1")[0], compared.falls_short(run.id, by_emotion=True)
        for of in ESTIMANDS:
            found = compared.interval(counts, compare.f1_by_emotion, of, "logit")
            for number, emotion in enumerate(compared.study.emotions):
                row = about | {"figure": f"f1 {emotion}", "estimand": of} | _ends(found, number)
                rows.append(row | {"falls_short": bool(short[number]) and not exact[of]})
    return pd.DataFrame(rows, columns="model precision figure estimand estimate low high standard_error falls_short".split())


def _within(found):
    """Keep the ends of a share between 0 and 1."""
    return replace(found, low=np.clip(found.low, 0, 1), high=np.clip(found.high, 0, 1))


def _ends(found, at=(), scale=1, suffix=""):
    names = ("estimate", "low", "high", "standard_error")
    return {f"{name}{suffix}": scale * float(np.asarray(getattr(found, name))[at]) for name in names}


def share_interval(values):
    """Give (low, high) of a share, for prompts like these. values: 0 or 1, of shape (prompts, texts a prompt)."""
    found = _within(compare.interval(compare.totals(values[:, :, None]), compare.mean, compare.PROMPTS_LIKE_THESE))
    return float(found.low), float(found.high)


def differences(compared, rng):
    """Give each run's difference of F1 against its baseline, in percentage points, paired by prompt.

    One row a run and: `overall`, both estimands, the primary family of tests; `masked`, with emotion words hidden from the judge,
    untested; each `emotion`, a second family; each `kind` of prompt and each `prompt`, without a p-value: ten prompts can give
    none that is small. Columns {model, precision, against, family, of, estimand, estimate_points, low_points, high_points,
    standard_error_points, p, p_holm, effect_size, wrong_sign, falls_short}. p: of swapping the two runs' texts by prompt; p_holm:
    held against the family's number of tests. wrong_sign: the chance that the true difference has the other sign, under a flat
    prior. effect_size: d_z. falls_short: as in intervals, of either run.
    """
    rows, study = [], compared.study
    for run, baseline in compared.pairs():
        about = {"model": run.model.name, "precision": run.precision, "against": baseline.precision}
        pair = compared.counts_of(run.id, baseline.id)
        statistics = (compare.macro_f1, compare.f1_by_emotion)
        overall, each = map(compare.difference, statistics)
        p_overall, p_each = (compare.swapped_p(pair, statistic, rng, SWAPS) for statistic in statistics)
        for of in ESTIMANDS:
            found, tested = compared.interval(pair, overall, of), of == compare.PROMPTS_LIKE_THESE
            rows.append(about | {"family": "overall", "of": "all texts", "estimand": of} | _points(found))
            if tested:
                rows[-1]["falls_short"] = any(compared.falls_short(one.id) for one in (run, baseline))
                rows[-1] |= {"p": float(p_overall), "wrong_sign": float(compare.wrong_sign(found))}
                rows[-1] |= {"effect_size": float(compare.effect_size(found, len(compared.prompts)))}
        if all(compared.has(one.id, "emotion_f1_masked") for one in (run, baseline)):
            masked = compared.counts_of(run.id, baseline.id, "emotion_f1_masked")
            found = compared.interval(masked, overall, compare.PROMPTS_LIKE_THESE)
            row = about | {"family": "masked", "of": "all texts, emotion words masked", "estimand": compare.PROMPTS_LIKE_THESE}
            rows.append(row | _points(found))
        found = compared.interval(pair, each, compare.PROMPTS_LIKE_THESE)
        for number, emotion in enumerate(study.emotions):
            row = about | {"family": "emotion", "of": emotion, "estimand": compare.PROMPTS_LIKE_THESE} | _points(found, number)
            rows.append(row | {"p": float(p_each[number])})
        for kind in dict.fromkeys(compared.kinds):
            found = compared.interval(pair[compared.kinds == kind], overall, compare.PROMPTS_LIKE_THESE)
            row = about | {"family": "kind", "of": kind, "estimand": compare.PROMPTS_LIKE_THESE}
            rows.append(row | _points(found))
        # Each prompt by itself: one unit, with the prompts along a further axis.
        found = compared.interval(np.swapaxes(pair[None], 1, 2), overall, compare.THESE_PROMPTS)
        for number, prompt in enumerate(compared.prompts):
            row = about | {"family": "prompt", "of": prompt, "estimand": compare.THESE_PROMPTS}
            rows.append(row | _points(found, number))
    columns = "model precision against family of estimand estimate_points low_points high_points standard_error_points".split()
    frame = pd.DataFrame(rows, columns=[*columns, "p", "p_holm", "effect_size", "wrong_sign", "falls_short"])
    for _, family in frame[frame["p"].notna()].groupby("family"):
        frame.loc[family.index, "p_holm"] = compare.holm(family["p"])
    return frame


def _points(found, at=()):
    """Give a difference in points, its ends between −100 and 100: F1 has no other."""
    points = _ends(found, at, 100, "_points")
    return points | {name: float(np.clip(points[name], -100, 100)) for name in ("low_points", "high_points")}


def variance(compared):
    """Split the variance of right and wrong, model by model: {model, precisions, source, share}. See power.shares."""
    rows = []
    for model in dict.fromkeys(run.model.name for run in compared.runs):
        runs = [run for run in compared.runs if run.model.name == model]
        targets = np.arange(len(compared.study.emotions))[:, None]
        correct = np.stack([compared.values(run.id, "judged_emotion") == targets for run in runs])
        found = power.shares(correct)
        rows += [{"model": model, "precisions": len(runs), "source": source, "share": share} for source, share in found.items()]
    return pd.DataFrame(rows, columns=["model", "precisions", "source", "share"])


def detectable(compared):
    """Say what change of F1 each comparison could see at 80 % power, and what a change of WANTED would need.

    Columns DETECTABLE: between_points and within_points are standard deviations of a prompt's part in the difference, and of a
    sample's; prompts_needed and samples_needed are those for a change of WANTED, empty where no number is enough.
    """
    rows, (prompts, samples) = [], (len(compared.prompts), compared.study.samples)
    for run, baseline in compared.pairs():
        found = [compared.f1_difference(run.id, baseline.id, of) for of in ESTIMANDS]
        seen = power.components(*found, prompts, samples)
        rows.append(_seen(run.model.name, run.precision, baseline.precision, seen, prompts, samples))
    return _typed(rows)


def foreseen(study):
    """Say the same of a study without judged texts, from how the packaged default's differences vary: (frame, of what).

    Nothing for a study that is not like it: other emotions, sampled texts, another baseline.
    """
    reference = yaml.safe_load(Path(__file__).with_name("reference_variance.yaml").read_text(encoding="utf-8"))
    most, rows = max(reference["points"].values()), []
    prompts = study.texts_asked // (len(study.emotions) * study.samples)
    alike = len(study.emotions) == reference["emotions"] and study.generation.decoding == reference["decoding"]
    runs = [run for run in study.runs() if alike and study.baseline(run.model).precision == reference["against"]]
    for run in runs:
        if (baseline := study.baseline(run.model)).precision != run.precision:
            seen = power.Components((reference["points"].get(run.precision, most) / 100) ** 2, np.nan)
            rows.append(_seen(run.model.name, run.precision, baseline.precision, seen, prompts, study.samples))
    return _typed(rows), reference["of"]


def _seen(model, precision, against, found, prompts, samples):
    row = {"model": model, "precision": precision, "against": against, "prompts": prompts, "samples": samples}
    row |= {"between_points": 100 * np.sqrt(found.between), "within_points": 100 * np.sqrt(found.within)}
    row["detectable_points"] = 100 * power.detectable_change(found.standard_deviation(samples), prompts)
    row["prompts_needed"] = power.prompts_needed(WANTED, found, samples)
    row["samples_needed"] = power.samples_needed(WANTED, found, prompts) if samples > 1 and found.within > 0 else None
    return row


def _typed(rows):
    return pd.DataFrame(rows, columns=DETECTABLE).astype({"prompts_needed": "Int64", "samples_needed": "Int64"})


def by_prompts(compared):
    """Give each run's F1 at the first SIZES prompts, and how far the choice of as many moves it: see choose.by_prompts."""
    frames = []
    for run in compared.runs:
        judged = compared.values(run.id, "judged_emotion")
        found = choose.by_prompts(judged, SIZES, lambda some: float(compare.macro_f1(compare.counts(some).sum(axis=(0, 1)))))
        frames.append(found.assign(model=run.model.name, precision=run.precision))
    columns = ["model", "precision", "prompts", "emotion_f1", "blocks", "lowest", "highest"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
