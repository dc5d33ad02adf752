"""Drift: the slope of readings over time, with an interval that holds where a reading depends on those before it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from affq.stats.compare import LEVEL

# Slow movements of each stretch that the noise of its slope is read from. With more the interval is narrower, and holds less
# often where readings depend on each other.
TERMS = 4
LEAST = 12  # readings: of fewer there is no slope


class Slope(NamedTuple):
    """What readings rise by in one unit of time, with its interval at LEVEL; nan where there are too few readings."""

    estimate: float
    low: float
    high: float


def slope(at: ArrayLike, values: ArrayLike, stretches: ArrayLike) -> Slope:
    """Return the slope of readings over time, the same in every stretch, each of which has a level of its own.

    at, values, stretches: of each reading its time, its value and the number of its stretch, such as a process. A stretch of
    fewer than TERMS + 2 readings is left out. Least squares; the slope's variance is that of the coefficients of the next
    TERMS polynomials in time, orthogonal to level and slope: movements about as slow as a slope, which contain the dependence
    of neighbours as the slope does (an orthonormal series estimate of the long-run variance: Phillips 2005,
    https://doi.org/10.1017/S0266466605050085; Sun 2013, https://doi.org/10.1111/j.1368-423X.2012.00390.x), by Student's t. It
    holds its level where dependence is short beside a stretch; tests/test_drift.py simulates it.
    """
    at, values, stretches = (np.asarray(array) for array in (at, values, stretches))
    kept = [stretch for stretch in np.unique(stretches) if (stretches == stretch).sum() >= TERMS + 2]
    if sum(np.isin(stretches, kept)) < LEAST:
        return Slope(np.nan, np.nan, np.nan)
    parts = [_movements(at[stretches == stretch], values[stretches == stretch]) for stretch in kept]
    time, movement = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _through_origin(time, movement)


def _movements(at: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients of time and of values on orthonormal polynomials, from the first degree on."""
    scaled = np.interp(at, (at.min(), at.max()), (-1, 1))
    basis = np.linalg.qr(np.polynomial.legendre.legvander(scaled, TERMS + 1)).Q[:, 1:]
    time = np.zeros(TERMS + 1)
    time[0] = basis[:, 0] @ at  # time has no further degree
    return time, basis.T @ (values - values[0])


def _through_origin(time: np.ndarray, movement: np.ndarray) -> Slope:
    """Return the slope of movements over time by least squares, without a level."""
    from scipy.stats import t

    estimate = float(time @ movement / (time @ time))
    degrees = len(time) - 1
    half = t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(((movement - estimate * time) ** 2).sum() / degrees / (time @ time))
    return Slope(estimate, estimate - float(half), estimate + float(half))
