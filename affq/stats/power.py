"""What change a study detects: where its variance comes from, and how many prompts and samples a wanted change needs."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from affq.stats.compare import Interval

SIGNIFICANCE = 0.05  # two-sided
POWER = 0.8
MOST = 1_000_000  # prompts or samples that are tried


@dataclass(frozen=True)
class Components:
    """The variance of one prompt's part in a difference of two runs: between + within / samples."""

    between: float
    within: float  # nan of one sample a prompt, which cannot tell it from between: there it is in between

    def standard_deviation(self, samples: int) -> float:
        """Return the standard deviation between prompts of so many samples each."""
        within = 0 if np.isnan(self.within) else self.within / samples
        return float(np.sqrt(self.between + within))


def components(like_these: Interval, these: Interval, prompts: int, samples: int) -> Components:
    """Return the Components of a difference from its two Intervals, for prompts like these and for these prompts.

    The variance of the one is (between + within / samples) / prompts, of the other within / (samples · prompts): for a mean, what
    a one-way analysis of variance gives. A negative between is 0. Where no prompt differs from another, nothing is known: nan.
    """
    per_prompt = prompts * float(like_these.standard_error) ** 2 or np.nan
    if samples == 1:
        return Components(per_prompt, np.nan)
    within = prompts * samples * float(these.standard_error) ** 2
    return Components(float(np.maximum(per_prompt - within / samples, 0)), within)


def power(change: float, standard_deviation: float, prompts: int) -> float:
    """Return the chance that a paired t test of so many prompts detects a change, given its standard deviation by prompt.

    t squared is F, noncentral by the change: what statsmodels computes, without its gaps at large changes of two prompts.
    """
    if not standard_deviation > 0:
        return np.nan
    noncentrality = prompts * (change / standard_deviation) ** 2
    beyond = special.stdtrit(prompts - 1, 1 - SIGNIFICANCE / 2) ** 2
    chance = 1 - special.ncfdtr(1, prompts - 1, noncentrality, beyond)
    return 1.0 if np.isnan(chance) else float(chance)  # far beyond, where the chance is 1 to the last digit, scipy gives nan


def detectable_change(standard_deviation: float, prompts: int) -> float:
    """Return the smallest change that so many prompts detect with POWER, by a paired t test at SIGNIFICANCE; nan if unknown."""
    if prompts < 2 or not standard_deviation > 0:
        return np.nan
    return standard_deviation * float(optimize.brentq(lambda change: power(change, 1, prompts) - POWER, 0, 100))


def prompts_needed(change: float, components: Components, samples: int) -> int | None:
    """Return the least number of prompts, of so many samples each, that detect the change; None if MOST do not, or unknown."""
    deviation = components.standard_deviation(samples)
    return _least(range(2, MOST), lambda prompts: power(change, deviation, prompts))


def samples_needed(change: float, components: Components, prompts: int) -> int | None:
    """Return the least number of samples, of each of so many prompts, that detect the change; None if no number does."""
    return _least(range(1, MOST), lambda samples: power(change, components.standard_deviation(samples), prompts))


def _least(numbers: range, chance: Callable[[int], float]) -> int | None:
    place = bisect_left(numbers, POWER, key=lambda number: np.nan_to_num(chance(number)))
    return numbers[place] if place < len(numbers) else None


def shares(correct: ArrayLike) -> dict[str, float]:
    """Split the variance of correct, 0 or 1 of shape (precisions, prompts, emotions, samples), into the share of each source.

    Returns {precision, prompt, emotion, interactions, sample}, the sum 1. Crossed random effects with all their interactions, by
    expected mean squares (Searle, Casella and McCulloch 1992, Variance Components, chapter 4); a negative component is 0. A
    source of one level is nan, and so is each of a single text. sample is the residual (text-level) variance; with one sample
    the highest interaction is in it too.
    """
    correct = np.asarray(correct, dtype=float)
    *levels, samples = correct.shape
    crossed = [axis for axis, count in enumerate(levels) if count > 1]
    effects = [effect for size in range(len(crossed), 0, -1) for effect in combinations(crossed, size)]
    square = {effect: _mean_square(correct, effect) for effect in effects}
    sample = correct.var(axis=-1, ddof=1).mean() if samples > 1 else square.get(tuple(crossed), np.nan)
    repeats = {effect: correct.size / np.prod([levels[axis] for axis in effect]) for effect in effects}
    variances: dict[tuple[int, ...], float] = {}
    for effect in effects:  # from the highest interaction down: those that contain an effect are in its mean square
        above = sum(repeats[wider] * variances[wider] for wider in variances if set(effect) < set(wider))
        variances[effect] = max((square[effect] - sample - above) / repeats[effect], 0)
    parts = {name: variances.get((axis,), np.nan) for axis, name in enumerate(("precision", "prompt", "emotion"))}
    parts["interactions"] = sum(variances[effect] for effect in effects if len(effect) > 1)
    parts["sample"] = sample
    whole = np.nansum(list(parts.values()))
    return {name: float(part / whole) if whole else np.nan for name, part in parts.items()}


def _mean_square(correct: np.ndarray, effect: tuple[int, ...]) -> float:
    effects = correct.mean(axis=-1)
    for axis in range(3):
        mean = effects.mean(axis=axis, keepdims=True)
        effects = effects - mean if axis in effect else mean
    return (effects**2).sum() * correct.size / effects.size / np.prod([correct.shape[axis] - 1 for axis in effect])
