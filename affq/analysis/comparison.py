"""How sure the figures are: each run's intervals, paired differences, what moves them, what change could be detected.

Every figure says what it is an estimate of (`estimand`): compare.THESE_PROMPTS or compare.PROMPTS_LIKE_THESE.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from affq.analysis import choose
from affq.analysis.texts import NAMED, asked_and_judged, codes, named
from affq.stats import compare, power
from affq.study import Run, Study

ESTIMANDS = (compare.PROMPTS_LIKE_THESE, compare.THESE_PROMPTS)
F1S = {"emotion_f1": "judged_emotion", "emotion_f1_masked": "masked_emotion"}
MEANS = ("names_target", "rouge1", "rouge2", "rougeL", "rougeL_to_baseline")
SWAPS = 1_999  # of two runs' texts, where there are too many to try all
DRAWS = 1_000  # of the prompts
WANTED = 0.05  # the change of F1 for which a reader is told how many prompts it takes
INTERVALS = "model precision engine figure estimand estimate low high standard_error falls_short".split()
DIFFERENCES = (
    "model precision engine against family of estimand estimate_points low_points high_points standard_error_points".split()
)
DIFFERENCES += ["p", "p_holm", "effect_size", "wrong_sign", "falls_short"]
DETECTABLE = (
    "model precision engine against prompts samples between_points within_points detectable_points prompts_needed samples_needed"
).split()
VARIANCE = ["model", "runs", "source", "share"]
BY_PROMPTS = [*NAMED, "prompts", "emotion_f1", "blocks", "lowest", "highest"]
FEWEST = 3  # prompts that an interval for prompts like these takes
SIZES = (5, 10, 20, 40)  # of prompts
Statistic = Callable[[np.ndarray], np.ndarray]  # of summed terms, as in stats.compare


class Compared:
    """The judged texts of a study's complete runs, as arrays of shape (prompts, emotions, samples).

    A run whose texts are not judged is left out. texts: Results.texts. Raises ValueError for a run that has a text twice, or
    lacks one that another has.
    """

    def __init__(self, texts: pd.DataFrame, study: Study) -> None:
        columns = ["run_id", "prompt_id", "kind", "emotion", "sample", *F1S.values(), *MEANS]
        asked = asked_and_judged(texts)[columns]
        self.study, self.greedy = study, study.generation.decoding == "greedy"
        prompts = asked.drop_duplicates("prompt_id")
        self.prompts, self.kinds = list(prompts["prompt_id"]), prompts["kind"].to_numpy()
        self._texts = {run_id: self._sorted(texts, run_id) for run_id, texts in asked.groupby("run_id", sort=False)}
        self.runs = [run for run in study.runs() if run.id in self._texts]

    def _sorted(self, texts: pd.DataFrame, run_id: str) -> pd.DataFrame:
        prompts, emotions, samples = self.prompts, self.study.emotions, self.study.samples
        places = codes(texts["prompt_id"], prompts) * len(emotions) + codes(texts["emotion"], emotions)
        places = places * samples + texts["sample"].to_numpy()
        order = np.argsort(places)
        if not np.array_equal(places[order], np.arange(len(prompts) * len(emotions) * samples)):
            raise ValueError(f"run {run_id} has not every text once, of each prompt, emotion and sample that is compared")
        return texts.iloc[order]

    def values(self, run_id: str, column: str) -> np.ndarray:
        """Return a column of a run's texts, (prompts, emotions, samples); emotions as their index, −1 for another."""
        values = self._texts[run_id][column]
        if column in F1S.values():
            values = pd.Series(codes(values, self.study.emotions))
        return values.to_numpy(dtype=float).reshape(len(self.prompts), len(self.study.emotions), self.study.samples)

    def terms(self, run_id: str, figure: str) -> tuple[np.ndarray, Statistic, str]:
        """Return what compare.interval takes of a figure: terms, statistic, scale."""
        if figure in F1S:
            return compare.counts(self.values(run_id, F1S[figure])), compare.macro_f1, "logit"
        scale = "identity" if figure == "names_target" else "logit"  # a share of texts may be 0 in every prompt but one
        return compare.totals(self.values(run_id, figure)), compare.mean, scale

    def has(self, run_id: str, figure: str = "emotion_f1") -> bool:
        """Return whether each of a run's texts has this figure; of a mean, whether any has: of two texts without a word there is
        no ROUGE.
        """
        known = self._texts[run_id][F1S.get(figure, figure)].notna() if run_id in self._texts else pd.Series([False])
        return bool(known.any() if figure in MEANS else known.all())

    def figure(self, run_id: str, figure: str) -> tuple[float, float, float]:
        """Return (estimate, low, high) of a figure, for prompts like these."""
        terms, statistic, scale = self.terms(run_id, figure)
        interval = self.interval(terms, statistic, compare.PROMPTS_LIKE_THESE, scale)
        return float(interval.estimate), float(interval.low), float(interval.high)

    def chance_f1(self, run_id: str) -> float:
        """Return the macro-F1 that shuffled targets would give."""
        return float(compare.chance_f1(self.terms(run_id, "emotion_f1")[0].sum(axis=(0, 1))))

    def falls_short(self, run_id: str, figure: str = "emotion_f1") -> bool:
        """Return whether too few texts are right, or wrong, for the interval of F1 to cover as often as it says."""
        right, wrong = self._right_and_wrong(run_id, figure)
        return bool(compare.falls_short(right.sum(), wrong.sum(), self.study.samples))

    def emotions_fall_short(self, run_id: str) -> np.ndarray:
        """Return the same for F1 of each emotion: bool (emotions,)."""
        right, wrong = self._right_and_wrong(run_id, "emotion_f1")
        return compare.falls_short(right, wrong, self.study.samples)

    def _right_and_wrong(self, run_id: str, figure: str) -> tuple[np.ndarray, np.ndarray]:
        right, _, asked = self.terms(run_id, figure)[0].sum(axis=(0, 1))
        return right, asked - right

    def interval(self, terms: np.ndarray, statistic: Statistic, of: str, scale: str = "identity") -> compare.Interval:
        """Return the Interval of a statistic as `stats.compare.interval` does; of fewer than FEWEST prompts without ends."""
        interval = compare.interval(terms, statistic, of, scale, self.greedy)
        if of == compare.PROMPTS_LIKE_THESE and len(terms) < FEWEST:
            return replace(interval, low=interval.low * np.nan, high=interval.high * np.nan)
        return interval

    def pairs(self) -> list[tuple[Run, Run]]:
        """Return each run that has its baseline beside it, with that baseline."""
        by_id = {run.id: run for run in self.runs}
        with_baseline = [(run, self.study.baseline(run)) for run in self.runs]
        return [(run, baseline) for run, baseline in with_baseline if baseline.id in by_id and run.id != baseline.id]

    def counts_of(self, run_id: str, other_id: str, figure: str = "emotion_f1") -> np.ndarray:
        """Return the counts of two runs' F1, stacked along a last axis of two, as stats.compare takes a pair."""
        return np.stack([self.terms(run, figure)[0] for run in (run_id, other_id)], axis=-1)

    def f1_difference(self, run_id: str, other_id: str, of: str = compare.PROMPTS_LIKE_THESE) -> compare.Interval:
        """Return the Interval of one run's macro-F1 less another's."""
        return self.interval(self.counts_of(run_id, other_id), compare.difference(compare.macro_f1), of)

    def f1_draws(self, rng: np.random.Generator) -> np.ndarray:
        """Return macro-F1 of every run with the prompts resampled, the same ones for all: (DRAWS, runs)."""
        if not self.runs:
            return np.empty((DRAWS, 0))
        counts = np.stack([self.terms(run.id, "emotion_f1")[0] for run in self.runs], axis=2)
        return compare.resampled(counts, compare.macro_f1, rng, DRAWS)


def intervals(compared: Compared) -> pd.DataFrame:
    """Return the intervals of each run's figures, columns INTERVALS.

    figure: emotion_f1, emotion_f1_masked, `f1 <emotion>`, and means over texts: ROUGE, names_target. Ends are nan where there is
    no spread; under greedy decoding those for these prompts are the estimate, which they would give again. falls_short: an
    interval that covers less often than it says, for want of right or wrong texts (compare.falls_short).
    """
    rows, exact = [], {of: of == compare.THESE_PROMPTS and compared.greedy for of in ESTIMANDS}
    for run in compared.runs:
        about = named(run)
        for figure in filter(lambda figure: compared.has(run.id, figure), (*F1S, *MEANS)):
            terms, statistic, scale = compared.terms(run.id, figure)
            short = compared.falls_short(run.id, figure) if figure in F1S else False
            for of in ESTIMANDS:
                interval = _within(compared.interval(terms, statistic, of, scale))
                row = about | {"figure": figure, "estimand": of} | _ends(interval)
                rows.append(row | {"falls_short": short and not exact[of]})
        counts, shorts = compared.terms(run.id, "emotion_f1")[0], compared.emotions_fall_short(run.id)
        for of in ESTIMANDS:
            interval = compared.interval(counts, compare.f1_by_emotion, of, "logit")
            for number, emotion in enumerate(compared.study.emotions):
                row = about | {"figure": f"f1 {emotion}", "estimand": of} | _ends(interval, number)
                rows.append(row | {"falls_short": bool(shorts[number]) and not exact[of]})
    return pd.DataFrame(rows, columns=INTERVALS)


def _within(interval: compare.Interval) -> compare.Interval:
    """Return the interval of a share with its ends between 0 and 1."""
    return replace(interval, low=np.clip(interval.low, 0, 1), high=np.clip(interval.high, 0, 1))


def _ends(interval: compare.Interval, at: int | tuple[()] = (), scale: int = 1, suffix: str = "") -> dict[str, float]:
    names = ("estimate", "low", "high", "standard_error")
    return {f"{name}{suffix}": scale * float(np.asarray(getattr(interval, name))[at]) for name in names}


def share_interval(values: np.ndarray) -> tuple[float, float]:
    """Return (low, high) of a share, for prompts like these. values: 0 or 1, of shape (prompts, texts a prompt)."""
    terms = compare.totals(values[:, :, None])
    interval = _within(compare.interval(terms, compare.mean, compare.PROMPTS_LIKE_THESE))
    return float(interval.low), float(interval.high)


def differences(compared: Compared, rng: np.random.Generator) -> pd.DataFrame:
    """Return each run's difference of F1 against its baseline, in percentage points, paired by prompt: columns DIFFERENCES.

    One row a run and: `overall`, both estimands, the primary family of tests; `masked`, with emotion words hidden from the judge,
    untested; each `emotion`, a second family; each `kind` of prompt and each `prompt`, without a p-value: ten prompts can give
    none that is small. p: of swapping the two runs' texts by prompt; p_holm: adjusted for the number of tests in the family.
    wrong_sign: the chance that the true difference has the other sign, under a flat prior. effect_size: d_z. falls_short: as in
    intervals, of either run.
    """
    rows = []
    for run, baseline in compared.pairs():
        about = {**named(run), "against": baseline.precision}
        rows += [about | row for row in _differences(compared, run, baseline, rng)]
    frame = pd.DataFrame(rows, columns=DIFFERENCES)
    for _, family in frame[frame["p"].notna()].groupby("family"):
        frame.loc[family.index, "p_holm"] = compare.holm(family["p"])
    return frame.astype({"falls_short": "boolean"})


def _differences(compared: Compared, run: Run, baseline: Run, rng: np.random.Generator) -> Iterable[dict]:
    """Yield the rows of one run against its baseline."""
    counts = compared.counts_of(run.id, baseline.id)
    statistics = (compare.macro_f1, compare.f1_by_emotion)
    overall, by_emotion = map(compare.difference, statistics)
    p_overall, p_by_emotion = (compare.swapped_p(counts, statistic, rng, SWAPS) for statistic in statistics)
    for of in ESTIMANDS:
        interval = compared.interval(counts, overall, of)
        row = _row("overall", "all texts", of, interval)
        if of == compare.PROMPTS_LIKE_THESE:
            row["falls_short"] = any(compared.falls_short(one.id) for one in (run, baseline))
            row |= {"p": float(p_overall), "wrong_sign": float(compare.wrong_sign(interval))}
            row["effect_size"] = float(compare.effect_size(interval, len(compared.prompts)))
        yield row
    if all(compared.has(one.id, "emotion_f1_masked") for one in (run, baseline)):
        masked = compared.counts_of(run.id, baseline.id, "emotion_f1_masked")
        interval = compared.interval(masked, overall, compare.PROMPTS_LIKE_THESE)
        yield _row("masked", "all texts, emotion words masked", compare.PROMPTS_LIKE_THESE, interval)
    interval = compared.interval(counts, by_emotion, compare.PROMPTS_LIKE_THESE)
    for number, emotion in enumerate(compared.study.emotions):
        yield _row("emotion", emotion, compare.PROMPTS_LIKE_THESE, interval, number) | {"p": float(p_by_emotion[number])}
    for kind in dict.fromkeys(compared.kinds):
        interval = compared.interval(counts[compared.kinds == kind], overall, compare.PROMPTS_LIKE_THESE)
        yield _row("kind", kind, compare.PROMPTS_LIKE_THESE, interval)
    # Each prompt by itself: one unit, with the prompts along a further axis.
    interval = compared.interval(np.swapaxes(counts[None], 1, 2), overall, compare.THESE_PROMPTS)
    for number, prompt in enumerate(compared.prompts):
        yield _row("prompt", prompt, compare.THESE_PROMPTS, interval, number)


def _row(family: str, of: str, estimand: str, interval: compare.Interval, at: int | tuple[()] = ()) -> dict:
    """Return a difference in points, its ends between −100 and 100: F1 has no other."""
    points = _ends(interval, at, 100, "_points")
    points |= {name: float(np.clip(points[name], -100, 100)) for name in ("low_points", "high_points")}
    return {"family": family, "of": of, "estimand": estimand} | points


def variance(compared: Compared) -> pd.DataFrame:
    """Return the share of each source in the variance of right and wrong, model by model, columns VARIANCE: see power.shares."""
    rows = []
    for model in dict.fromkeys(run.model.name for run in compared.runs):
        runs = [run for run in compared.runs if run.model.name == model]
        targets = np.arange(len(compared.study.emotions))[:, None]
        correct = np.stack([compared.values(run.id, "judged_emotion") == targets for run in runs])
        rows += [(model, len(runs), source, share) for source, share in power.shares(correct).items()]
    return pd.DataFrame(rows, columns=VARIANCE)


def detectable(compared: Compared) -> pd.DataFrame:
    """Return the change of F1 that each comparison detects with 80 % power, and what a change of WANTED would need.

    Columns DETECTABLE: between_points and within_points are standard deviations of a prompt's part in the difference, and of a
    sample's; prompts_needed and samples_needed are those for a change of WANTED, empty where no number is enough.
    """
    rows, (prompts, samples) = [], (len(compared.prompts), compared.study.samples)
    for run, baseline in compared.pairs():
        like_these, these = (compared.f1_difference(run.id, baseline.id, of) for of in ESTIMANDS)
        components = power.components(like_these, these, prompts, samples)
        rows.append(_detectable(run, baseline, components, prompts, samples))
    return _whole(rows)


def foreseen(study: Study) -> tuple[pd.DataFrame, str]:
    """Return the same for a study without judged texts, from how the packaged default's differences vary, and whose those are.

    No row for a study that is not like it: other emotions, sampled texts, another baseline.
    """
    reference = yaml.safe_load(Path(__file__).with_name("reference_variance.yaml").read_text(encoding="utf-8"))
    most, rows = max(reference["points"].values()), []
    prompts = study.texts_asked // (len(study.emotions) * study.samples)
    alike = len(study.emotions) == reference["emotions"] and study.generation.decoding == reference["decoding"]
    for run in study.runs() if alike else ():
        baseline = study.baseline(run)
        if baseline.precision == reference["against"] != run.precision:
            components = power.Components((reference["points"].get(run.precision, most) / 100) ** 2, np.nan)
            rows.append(_detectable(run, baseline, components, prompts, study.samples))
    return _whole(rows), reference["of"]


def _detectable(run: Run, baseline: Run, components: power.Components, prompts: int, samples: int) -> dict:
    row: dict[str, object] = {**named(run), "against": baseline.precision}
    row |= {"prompts": prompts, "samples": samples}
    row |= {"between_points": 100 * np.sqrt(components.between), "within_points": 100 * np.sqrt(components.within)}
    row["detectable_points"] = 100 * power.detectable_change(components.standard_deviation(samples), prompts)
    row["prompts_needed"] = power.prompts_needed(WANTED, components, samples)
    several = samples > 1 and components.within > 0
    row["samples_needed"] = power.samples_needed(WANTED, components, prompts) if several else None
    return row


def _whole(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=DETECTABLE).astype({"prompts_needed": "Int64", "samples_needed": "Int64"})


def by_prompts(compared: Compared) -> pd.DataFrame:
    """Return each run's F1 at the first SIZES prompts, and how far the choice of as many moves it: see choose.by_prompts."""

    def macro_f1(judged: np.ndarray) -> float:
        return float(compare.macro_f1(compare.counts(judged).sum(axis=(0, 1))))

    frames = [pd.DataFrame(columns=BY_PROMPTS)] if not compared.runs else []
    for run in compared.runs:
        frame = choose.by_prompts(compared.values(run.id, "judged_emotion"), SIZES, macro_f1)
        frames.append(frame.assign(**named(run))[BY_PROMPTS])
    return pd.concat(frames, ignore_index=True)
