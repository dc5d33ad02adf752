"""Comparisons: intervals, paired differences, and what chance alone would give. Statistic and generator are arguments.

A run's texts come as terms that add up: an array (prompts, samples, *of a statistic), made by `counts` or `totals`. A statistic
is a function of terms summed over prompts and samples, whose further axes in front it keeps. Two runs of the same prompts,
emotions and samples are compared as one array, stacked along a last axis of two: np.stack((run, baseline), axis=-1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

Statistic = Callable[[np.ndarray], np.ndarray]
# What a figure is an estimate of: what the same prompts would give again, or what a new set of such prompts would give.
THESE_PROMPTS = "these prompts"
PROMPTS_LIKE_THESE = "prompts like these"
# The scale on which an interval is symmetric: (to it, back, its slope). F1 on logit, ratios on log, differences and means as is.
SCALES: dict[str, tuple[Statistic, Statistic, Statistic]] = {
    "identity": (lambda x: x, lambda x: x, np.ones_like),
    "log": (np.log, np.exp, lambda x: 1 / x),
    "logit": (special.logit, special.expit, lambda x: 1 / (x * (1 - x))),
}
FEW, FEW_A_SAMPLE = 6, 4  # right or wrong texts, below which intervals of F1 hold the truth too seldom: tests/bench/coverage.md
EXACT_FLIPS = 2**12  # up to here every swap of two runs' prompts is tried, beyond it some are drawn

LEVEL = 0.95  # of every interval
# Readings that go on until their interval is narrow tend to stop where it is too narrow by chance. An interval that is computed
# after every reading at this level, at which six have one, covers at about LEVEL (tests/test_compare.py simulates it).
LEVEL_OF_STOPPED = 0.968


def median_interval(readings: Sequence[float] | np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval (low, high) of the median of independent readings; (nan, nan) of too few: under six at 95 %.

    Between order statistics, so that no distribution is assumed (Conover 1999, Practical Nonparametric Statistics, 3.2).
    """
    if not (rank := _median_rank(len(readings), level)):
        return np.nan, np.nan
    ordered = np.sort(np.asarray(readings, dtype=float))
    return float(ordered[rank - 1]), float(ordered[-rank])


@cache
def _median_rank(count: int, level: float) -> int:
    """Return which of so many ordered readings, from either end, is an end of the median's interval; 0 of too few."""
    # How many of them lie below the median is binomial, of 1/2.
    return int(np.sum(special.bdtr(np.arange(count), count, 0.5) <= (1 - level) / 2))


def level_of(stops: bool) -> float:
    """Return the level of an interval of readings; stops: whether they go on until it is narrow."""
    return LEVEL_OF_STOPPED if stops else LEVEL


def relative_width(readings: Sequence[float] | np.ndarray, stops: bool) -> float:
    """Return the width of the median's interval over the median, by which readings stop; inf where there is no interval."""
    low, high = median_interval(readings, level_of(stops))
    return float("inf") if np.isnan(low) else (high - low) / float(np.median(readings))


def between_processes(medians: Sequence[float]) -> tuple[float, float]:
    """Return the interval (low, high) of the mean of several processes' medians, by Student's t; wide for two or three.

    Each process has its own memory layout and threads: no repeat within one shows that part of the variance
    (Kalibera and Jones 2013, Rigorous benchmarking in reasonable time).
    """
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(medians) - 1) * np.std(medians, ddof=1) / np.sqrt(len(medians))
    return float(np.mean(medians) - half), float(np.mean(medians) + half)


def chance_f1(terms: np.ndarray) -> np.ndarray:
    """Return the mean of macro-F1 with the targets shuffled, of summed counts (..., 3, emotions): what texts of no emotion get.

    Shuffling keeps how often each emotion was asked for and how often each was judged, and breaks their pairing: of the texts
    asked for one, it is judged in the share in which it is judged of all (the mean of the hypergeometric distribution).
    """
    _, judged, asked = np.moveaxis(terms, -2, 0)
    texts = asked.sum(axis=-1, keepdims=True)
    return macro_f1(np.stack((asked * judged / texts, judged, asked), axis=-2))


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval at LEVEL: floats, or arrays for a statistic of several numbers.

    low and high are nan where there is no spread: one unit alone, or units that all agree.
    """

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    standard_error: float | np.ndarray  # on the estimate's own scale, whatever the interval's
    degrees: float | np.ndarray  # of freedom of Student's t


def counts(judged: ArrayLike) -> np.ndarray:
    """Count what F1 is made of, in judged emotions (prompts, emotions, samples, ...), -1 for none; axis 1 is the emotion asked.

    Returns (prompts, samples, ..., 3, emotions): true positives, judged, asked.
    """
    judged = np.moveaxis(np.asarray(judged), 1, -1)
    emotions = np.arange(judged.shape[-1])
    of_each = (judged[..., None] == emotions).sum(axis=-2)
    return np.stack((judged == emotions, of_each, np.ones_like(of_each)), axis=-2)


def tally(targets: np.ndarray, judged: np.ndarray, emotions: int) -> np.ndarray:
    """Return what F1 is made of, summed, as `counts` has it: (3, emotions), of any texts.

    targets, judged: (texts,), the number of the emotion asked for and of the one judged; -1 for another.
    """
    return np.stack([np.bincount(of[of >= 0], minlength=emotions) for of in (targets[targets == judged], judged, targets)])


def totals(values: ArrayLike) -> np.ndarray:
    """Sum values (prompts, emotions, samples, ...) over the emotions: (prompts, samples, ..., 2), the sum and how many.

    A value that is nan is left out.
    """
    values = np.asarray(values, dtype=float)
    return np.stack((np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1)), axis=-1)


def f1_by_emotion(terms: np.ndarray) -> np.ndarray:
    """Return the F1 of each emotion, (..., emotions), of summed counts (..., 3, emotions); 0 where it was not asked or judged."""
    true, judged, asked = np.moveaxis(terms, -2, 0)
    return np.divide(2 * true, judged + asked, out=np.zeros(true.shape), where=judged + asked > 0)


def macro_f1(terms: np.ndarray) -> np.ndarray:
    """Return the unweighted mean over emotions of F1, (...), of summed counts (..., 3, emotions)."""
    return f1_by_emotion(terms).mean(axis=-1)


def mean(terms: np.ndarray) -> np.ndarray:
    """Return the mean, (...), of summed totals (..., 2); nan of none."""
    return np.divide(terms[..., 0], terms[..., 1], out=np.full(terms.shape[:-1], np.nan), where=terms[..., 1] > 0)


def difference(statistic: Statistic) -> Statistic:
    """Return the statistic of the first less that of the second of two runs, stacked along the last axis."""
    return lambda pair: statistic(pair[..., 0]) - statistic(pair[..., 1])


def ratio(statistic: Statistic) -> Statistic:
    """Return the statistic of the first over that of the second of two runs, stacked along the last axis."""
    return lambda pair: statistic(pair[..., 0]) / statistic(pair[..., 1])


def interval(terms: np.ndarray, statistic: Statistic, of: str, scale: str = "identity", greedy: bool = False) -> Interval:
    """Return the Interval of a statistic of terms (prompts, samples, *of the statistic).

    `of` PROMPTS_LIKE_THESE: from leaving out one prompt at a time with all its samples, however its texts hang together. `of`
    THESE_PROMPTS: from leaving out one sample of one prompt at a time; nan without a second sample, and the estimate alone with
    greedy decoding, where the same prompts give the same texts again.

    The variance is the stratified jackknife's (Wolter 2007, Introduction to Variance Estimation, chapter 4): prompts in one
    stratum, or samples in a stratum for each prompt. Degrees of freedom are Satterthwaite's (1946): of one stratum its units less
    one. The interval is Student's on the scale, to which the delta method brings the standard error. How often it covers is in
    tests/bench/coverage.md.
    """
    units = {PROMPTS_LIKE_THESE: terms.sum(axis=1)[None], THESE_PROMPTS: terms}[of]
    strata, size = units.shape[:2]
    total = units.sum(axis=(0, 1))
    estimate = statistic(total)
    if greedy and of == THESE_PROMPTS:
        return Interval(estimate, estimate, estimate, np.zeros_like(estimate), np.full_like(estimate, np.inf))
    if size == 1:
        return Interval(estimate, *(np.full_like(estimate, np.nan) for _ in range(4)))
    # The stratum's other units stand for the one left out.
    without = statistic(total + (units.sum(axis=1, keepdims=True) - size * units) / (size - 1))
    by_stratum = (size - 1) / size * ((without - without.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    variance = by_stratum.sum(axis=0)
    variance = np.where(variance > (1e-12 * estimate) ** 2, variance, 0)  # rounding is no spread
    to, back, slope = SCALES[scale]
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread, or the scale's end: nan
        degrees = variance**2 / (by_stratum**2 / (size - 1)).sum(axis=0)
        half = special.stdtrit(degrees, (1 + LEVEL) / 2) * np.sqrt(variance) * slope(estimate)
        low, high = back(to(estimate) - half), back(to(estimate) + half)
    return Interval(estimate, low, high, np.sqrt(variance), degrees)


def falls_short(right: ArrayLike, wrong: ArrayLike, samples: int) -> np.ndarray:
    """Return whether so many right or wrong texts are too few for the interval of their F1; of two runs, those of either.

    Samples of a prompt depend on each other, so that there must also be FEW_A_SAMPLE a sample. Where this is False, 93 % of the
    intervals or more held the truth in every simulation of tests/bench/coverage.md; where True, many do too, but some far fewer.
    """
    return np.minimum(right, wrong) < max(FEW, FEW_A_SAMPLE * samples)


def wrong_sign(interval: Interval) -> np.ndarray:
    """Return the chance of being wrong about the sign of a difference, of its Interval: at most 1/2.

    Student's t around the estimate, the part of it beyond zero; as a posterior it holds under a flat prior.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return special.stdtr(interval.degrees, -np.abs(interval.estimate) / interval.standard_error)


def effect_size(interval: Interval, prompts: int) -> np.ndarray:
    """Return d_z of a difference, of its Interval for PROMPTS_LIKE_THESE: over the spread of its prompts' pseudo-values.

    Cohen's d for pairs, as Lakens 2013 names it (doi 10.3389/fpsyg.2013.00863); for a mean, mean over standard deviation.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return interval.estimate / (interval.standard_error * np.sqrt(prompts))


def swapped_p(pair: np.ndarray, statistic: Statistic, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Return the two-sided p-value that two runs do not differ: how often swapping their texts by prompt differs as much.

    pair: terms (prompts, samples, *of the statistic, 2). All swaps are tried up to EXACT_FLIPS, else `draws` random ones, the
    runs as they are counted among them (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585). Fewer than six prompts cannot reach
    5 %: two swaps of 32, none and all, always differ as much.
    """
    pair = pair.sum(axis=1, dtype=float)
    prompts = len(pair)
    if exact := 2**prompts <= EXACT_FLIPS:
        flips = np.arange(2**prompts)[:, None] >> np.arange(prompts) & 1
    else:
        flips = rng.integers(0, 2, (draws, prompts))
    one, other = np.moveaxis(pair, -1, 0)
    moved = np.tensordot(flips, other - one, axes=1)
    swapped = np.abs(statistic(one.sum(axis=0) + moved) - statistic(other.sum(axis=0) - moved))
    observed = np.abs(statistic(one.sum(axis=0)) - statistic(other.sum(axis=0)))
    as_large = (swapped >= observed * (1 - 1e-9)).sum(axis=0)  # equal but for rounding is as large
    return as_large / len(flips) if exact else (as_large + 1) / (draws + 1)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return p-values adjusted for their number (Holm 1979); nan is no test, and stays."""
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(p_values, dtype=float)
    there = ~np.isnan(adjusted)
    if there.any():
        adjusted[there] = multipletests(adjusted[there], method="holm")[1]
    return adjusted


def resampled(terms: np.ndarray, statistic: Statistic, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Return draws of a statistic, (draws, ...), over prompts drawn with replacement, of terms (prompts, samples, ...).

    Runs along an axis of the terms get the same prompts in a draw: how often one is better than another can be counted.
    """
    weights = rng.multinomial(len(terms), np.full(len(terms), 1 / len(terms)), draws)
    return statistic(np.tensordot(weights, terms.sum(axis=1, dtype=float), axes=1))
