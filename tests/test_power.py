import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from affq.stats import compare, power
from affq.stats.power import Components


def of_means(values):
    """Give the components of means of values (prompts, emotions, samples), from their intervals."""
    terms = compare.totals(values)
    intervals = [compare.interval(terms, compare.mean, of) for of in (compare.PROMPTS_LIKE_THESE, compare.THESE_PROMPTS)]
    return power.components(*intervals, values.shape[0], values.shape[2])


def test_components_of_means_are_those_of_a_one_way_analysis_of_variance():
    # Means of the prompts 1 and 5, samples 2 apart in each: within (1 + 1) / 1 = 2, variance of the means 8, less 2 / 2.
    assert of_means(np.array([[[0.0, 2.0]], [[4.0, 6.0]]])) == Components(pytest.approx(7), pytest.approx(2))


def test_prompts_that_differ_less_than_their_samples_have_no_variance_between():
    # Means 1 and 1.5, variance 0.125; within (2 + 0.5) / 2 = 1.25, of which the means have half.
    assert of_means(np.array([[[0.0, 2.0]], [[1.0, 2.0]]])) == Components(0, pytest.approx(1.25))


def test_components_are_what_made_the_data():
    rng = np.random.default_rng(0)
    found = of_means(rng.normal(0, 0.5, (4000, 1, 1)) + rng.normal(0, 2, (4000, 1, 3)))
    assert found.between == pytest.approx(0.25, abs=0.15) and found.within == pytest.approx(4, abs=0.2)


def test_components_of_one_sample_are_one_and_of_prompts_that_agree_unknown():
    alone = of_means(np.array([[[0.0]], [[2.0]]]))
    assert alone.between == pytest.approx(2) and np.isnan(alone.within)
    assert alone.standard_deviation(1) == alone.standard_deviation(9)
    unknown = of_means(np.ones((5, 1, 1)))
    assert np.isnan(unknown.between) and power.prompts_needed(0.1, unknown, 1) is None


def test_detectable_change_is_what_simulated_t_tests_find_four_times_in_five():
    change = power.detectable_change(0.2, 10)
    differences = np.random.default_rng(0).normal(change, 0.2, (20_000, 10))
    # Monte Carlo error of 20,000 tests: 0.3 percentage points.
    assert np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("prompts", [2, 10, 34, 1000])
def test_power_is_that_of_statsmodels(prompts):
    for change in (0, 0.02, 0.05, 0.1):
        expected = TTestPower().power(change / 0.7, prompts, 0.05)
        assert power.power(change, 0.7, prompts) == pytest.approx(expected)
    assert power.detectable_change(0.7, prompts) == pytest.approx(
        0.7 * TTestPower().solve_power(None, prompts, 0.05, 0.8), rel=1e-4
    )


def test_large_changes_of_two_prompts_have_a_power_too():
    # statsmodels gives nan here. 400,000 simulated tests: 0.708.
    assert power.power(9.5, 1, 2) == pytest.approx(0.708, abs=0.002)
    assert power.power(1000, 1, 2) == pytest.approx(1, abs=1e-3) and power.power(1000, 1, 50) == 1


def test_prompts_needed_for_half_a_standard_deviation_are_34():
    # statsmodels: 33.37 pairs.
    assert power.prompts_needed(0.5, Components(1.0, np.nan), 1) == 34
    assert power.prompts_needed(-0.5, Components(0.75, 2.0), 8) == 34


@given(st.floats(0.05, 20), st.floats(0.01, 1), st.floats(0, 4), st.integers(1, 5))
def test_prompts_needed_are_enough_and_one_fewer_is_not(change, between, within, samples):
    found = Components(between, within)
    prompts = power.prompts_needed(change, found, samples)
    deviation = found.standard_deviation(samples)
    assert power.power(change, deviation, prompts) >= 0.8
    assert prompts == 2 or power.power(change, deviation, prompts - 1) < 0.8
    assert power.detectable_change(deviation, prompts) <= change * (1 + 1e-4)


def test_more_samples_help_until_the_prompts_are_too_few():
    # Ten prompts see a change of 0.996 standard deviations (statsmodels). With 0.75 between, within / samples may be 0.25 and a
    # little more: 8 of 2.0 (0.25) and not 7 (0.286, a deviation of 1.018).
    assert power.samples_needed(1.0, Components(0.75, 2.0), 10) == 8
    assert power.samples_needed(1.0, Components(1.1, 2.0), 10) is None
    assert power.samples_needed(1.0, Components(0.9, 0.0), 10) == 1


def correct(rng, sd, shape=(4, 60, 7, 3)):
    """Draw a balanced table whose sources (precision, prompt, emotion, prompt by emotion, sample) have these deviations."""
    drawn = sd[0] * rng.normal(size=(shape[0], 1, 1, 1)) + sd[1] * rng.normal(size=(1, shape[1], 1, 1))
    drawn = drawn + sd[2] * rng.normal(size=(1, 1, shape[2], 1)) + sd[3] * rng.normal(size=(1, *shape[1:3], 1))
    return drawn + sd[4] * rng.normal(size=shape)


def test_shares_are_what_made_the_data():
    # Means over 60 tables: variances 1, 4, 2.25, 1, 4 of 12.25 together.
    rng = np.random.default_rng(0)
    tables = [power.shares(correct(rng, (1, 2, 1.5, 1, 2), (20, 30, 20, 2))) for _ in range(60)]
    found = [np.mean([table[name] for table in tables]) for name in tables[0]]
    assert found == pytest.approx(np.array([1, 4, 2.25, 1, 4]) / 12.25, abs=0.03)


def test_shares_by_hand_of_a_table_of_prompts_and_emotions():
    # Cells 8 4 / 2 2, samples 1 above and below. Effects: prompts 2, emotions 1, their interaction 1; squares times 8 texts over
    # 1 degree of freedom: 32, 8, 8. Sample 2; interaction (8 - 2) / 2 = 3; prompt (32 - 2 - 2 * 3) / 4 = 6; emotion (8 - 8) / 4.
    table = np.array([[[[7, 9], [3, 5]], [[1, 3], [1, 3]]]])
    expected = {"precision": np.nan, "prompt": 6 / 11, "emotion": 0, "interactions": 3 / 11, "sample": 2 / 11}
    assert power.shares(table) == pytest.approx(expected, nan_ok=True)


def test_shares_by_hand():
    # Two precisions, two prompts, one emotion, two samples: right under the first precision, wrong under the second. All of it is
    # the precision's.
    table = np.array([[[[1, 1]], [[1, 1]]], [[[0, 0]], [[0, 0]]]])
    assert power.shares(table) == pytest.approx(
        {"precision": 1, "prompt": 0, "emotion": np.nan, "interactions": 0, "sample": 0}, nan_ok=True
    )
    # Two precisions, two prompts: right in (1, 1) and (2, 2) alone. One sample: chance, for all one knows. Two that agree: not.
    crossed = np.array([[[[1]], [[0]]], [[[0]], [[1]]]])
    assert power.shares(crossed)["sample"] == 1 and power.shares(crossed)["interactions"] == 0
    assert power.shares(np.repeat(crossed, 2, axis=3))["interactions"] == 1


def test_shares_of_a_single_text_are_unknown():
    assert np.isnan(list(power.shares(np.ones((1, 1, 1, 1))).values())).all()


def test_shares_of_texts_that_are_all_right_are_unknown():
    assert np.isnan(list(power.shares(np.ones((2, 3, 4, 2))).values())).all()
