"""Percentiles of readings that depend on each other within a repetition, as the waits of requests in one queue do."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from affq.stats.compare import LEVEL


class Percentile(NamedTuple):
    """A percentile with its interval at LEVEL; an end that lies beyond what was read is nan."""

    estimate: float
    low: float
    high: float


def percentile(repetitions: Sequence[ArrayLike], percent: float) -> Percentile:
    """Return a percentile of all readings, and its interval for another such repetition. All is nan of too few readings.

    repetitions: the readings of each. A percentile is known where a reading is expected to lie beyond it.

    The ends are order statistics of all readings, so that no distribution is assumed: those between which independent readings
    hold the percentile (scipy.stats.quantile_test), or further out, where repetitions differ by more than independent readings
    would. How far is Woodruff's (1952, doi 10.1080/01621459.1952.10483443): Student's interval of the share of readings below the
    estimate, repetitions being the independent units, brought back through the ordered readings. One repetition has no interval.
    tests/bench/queues.md says how often it covers, and how seldom order statistics alone do.
    """
    from scipy.stats import quantile_test, t

    groups = [readings for readings in map(np.asarray, repetitions) if len(readings)]
    readings = np.sort(np.concatenate(groups).astype(float)) if groups else np.empty(0)
    count, share, units = len(readings), percent / 100, len(groups)
    if count * min(percent, 100 - percent) < 100:
        return Percentile(np.nan, np.nan, np.nan)
    estimate = float(np.quantile(readings, share))
    if units < 2:
        return Percentile(estimate, np.nan, np.nan)
    below, sizes = (np.array(each) for each in ([np.sum(group <= estimate) for group in groups], [*map(len, groups)]))
    residuals = below - below.sum() / count * sizes  # of a ratio of totals, as repetitions need not be of one size
    half = t.ppf((1 + LEVEL) / 2, units - 1) * np.sqrt(units / (units - 1) * np.sum(residuals**2)) / count
    low_rank, high_rank = int(np.floor(count * (share - half))), int(np.ceil(count * (share + half))) + 1  # from 1
    interval = quantile_test(readings, p=share).confidence_interval(LEVEL)
    low = min(interval.low, readings[low_rank - 1]) if low_rank >= 1 else np.nan  # min(nan, x) is nan
    high = max(interval.high, readings[high_rank - 1]) if high_rank <= count else np.nan
    return Percentile(estimate, float(low), float(high))
