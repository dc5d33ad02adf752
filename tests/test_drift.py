"""Slopes over time: worked by hand, and their intervals hold their level where readings depend on each other."""

import numpy as np
import pytest
from scipy import signal, stats

from affq.stats import drift

SIMULATIONS = 400  # Monte Carlo error of a coverage of 95 %: 1.1 percentage points


def test_line_without_noise_has_its_slope_and_no_width():
    at = np.array([0, 1, 2, 4, 5, 7, 8, 9, 11, 12, 13, 15.0])
    slope = drift.slope(at, 3 + 2 * at, np.ones(12))
    assert slope == pytest.approx((2, 2, 2))


def test_estimate_in_one_stretch_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    at, values = rng.uniform(0, 3, 30), rng.normal(size=30)
    assert drift.slope(at, values, np.ones(30)).estimate == pytest.approx(stats.linregress(at, values).slope)


def test_level_of_each_stretch_is_its_own():
    at, stretches = np.arange(24.0), np.repeat([1, 2], 12)
    falls_between = 5 * at - 100 * (stretches == 2)  # as memory does, where a process follows another
    assert drift.slope(at, falls_between, stretches) == pytest.approx((5, 5, 5))


@pytest.mark.parametrize("lengths", [[11], [5, 11], [5, 5, 5]])
def test_of_too_few_readings_there_is_no_slope(lengths):
    stretches = np.repeat(range(len(lengths)), lengths)
    assert np.isnan(drift.slope(np.arange(len(stretches)), np.ones(len(stretches)), stretches)).all()


# An autoregression of the first order: each reading keeps so much of the one before.
@pytest.mark.parametrize("keeps, lengths", [(0, [12]), (0, [60]), (0.5, [60]), (0.8, [150]), (0.5, [40, 40]), (0.3, [30] * 5)])
def test_interval_holds_its_level_where_readings_depend_on_each_other(keeps, lengths):
    rng = np.random.default_rng([20261128, int(10 * keeps), *lengths])
    stretches = np.repeat(range(len(lengths)), lengths)
    at = np.arange(len(stretches)) / 60
    noise = signal.lfilter([1], [1, -keeps], rng.normal(size=(SIMULATIONS, 200 + len(at))), axis=1)[:, 200:]
    ends = np.array([drift.slope(at, 0.3 * at + row, stretches) for row in noise])
    holds = (ends[:, 1] <= 0.3) & (0.3 <= ends[:, 2])
    assert holds.mean() == pytest.approx(0.95, abs=0.03)


def test_interval_that_takes_readings_for_independent_does_not_hold():
    rng = np.random.default_rng(1)
    noise = signal.lfilter([1], [1, -0.8], rng.normal(size=(SIMULATIONS, 350)), axis=1)[:, 200:]
    fits = [stats.linregress(np.arange(150), row) for row in noise]
    assert np.mean([abs(fit.slope) < 1.96 * fit.stderr for fit in fits]) < 0.6  # why there is affq.stats.drift
