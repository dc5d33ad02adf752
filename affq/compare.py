"""Comparisons: intervals, and what chance alone would give. Statistic and generator are arguments."""

import numpy as np

LEVEL = 0.95  # of every interval
# Readings that go on until their interval is narrow stop, more often than chance would have it, where it is too narrow: looked
# at after every round, the interval is taken at this level, and covers at LEVEL (tests/test_compare.py simulates it).
LEVEL_OF_STOPPED = 0.97


def median_interval(readings, level=LEVEL):
    """Give the interval (low, high) of the median of independent readings; (nan, nan) where they are too few: under six at 95 %.

    Between order statistics, so that no distribution is assumed (Conover 1999, Practical Nonparametric Statistics, 3.2).
    """
    from scipy.stats import quantile_test

    if len(readings) < 2:
        return np.nan, np.nan
    found = quantile_test(np.asarray(readings, dtype=float), p=0.5).confidence_interval(confidence_level=level)
    return float(found.low), float(found.high)


def level_of(rounds):
    """Give the level at which an interval is taken of readings that stop, at the latest, after so many rounds."""
    return LEVEL if rounds == 1 else LEVEL_OF_STOPPED


def relative_width(readings, rounds):
    """Give what optional stopping looks at: the width of the median's interval over the median, inf where there is none."""
    low, high = median_interval(readings, level_of(rounds))
    return float("inf") if np.isnan(low) else (high - low) / float(np.median(readings))


def between_processes(medians):
    """Give the interval (low, high) of the mean of several processes' medians, by Student's t; wide for two or three.

    Each process has its own memory layout and threads: their spread is the part of the doubt that no repeat within one shows
    (Kalibera and Jones 2013, Rigorous benchmarking in reasonable time).
    """
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(medians) - 1) * np.std(medians, ddof=1) / np.sqrt(len(medians))
    return float(np.mean(medians) - half), float(np.mean(medians) + half)


def under_shuffled_targets(statistic, targets, judged, rng, draws):
    """Give the mean of statistic(targets, judged) with the targets shuffled: the floor that needs no emotion in the texts.

    Shuffling keeps how often each emotion was asked for and how often each was judged, and breaks only their pairing.
    """
    targets = np.asarray(targets)
    return float(np.mean([statistic(rng.permutation(targets), judged) for _ in range(draws)]))
