import time
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats
from sklearn.metrics import f1_score

from affq.stats import compare


def summed(targets, judged):
    """Count lists of emotions a, b and c, 0 to 2, as terms summed over all texts."""
    each = [[sum(t == j == e for t, j in zip(targets, judged, strict=True)) for e in range(3)]]
    return np.array([*each, np.bincount(judged, minlength=3), np.bincount(targets, minlength=3)])


def test_chance_f1_of_a_judge_with_one_answer_by_hand():
    # All judged 0, half asked: precision 1/2, recall 1, F1 2/3 for 0 and 0 for 1, whatever the order: over three emotions 2/9.
    assert compare.chance_f1(summed([0, 1] * 5, [0] * 10)) == pytest.approx(2 / 9)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=6))
def test_chance_f1_is_the_mean_over_every_order_of_the_targets(texts):
    targets, judged = zip(*texts, strict=True)
    every = [compare.macro_f1(summed(order, judged)) for order in permutations(targets)]
    assert compare.chance_f1(summed(targets, judged)) == pytest.approx(np.mean(every))


def test_median_interval_is_between_order_statistics_by_hand():
    # Of ten readings the median lies between the 2nd and the 9th with probability 1 - 2 (1 + 10) / 2**10 = 97.9 %; the 3rd and
    # the 8th would be 1 - 2 (1 + 10 + 45) / 2**10 = 89.1 %.
    readings = [3.0, 1.0, 10.0, 2.0, 9.0, 4.0, 8.0, 5.0, 7.0, 6.0]
    assert compare.median_interval(readings) == (2.0, 9.0)
    assert compare.relative_width(readings, stops=False) == pytest.approx((9 - 2) / 5.5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_median_of_too_few_readings_has_no_interval(count):
    # Of five, even the least and the greatest hold the median with 1 - 2 / 2**5 = 93.75 % alone.
    assert np.isnan(compare.median_interval(range(count))).all() and compare.relative_width(range(count), True) == float("inf")


def test_interval_between_processes_is_students():
    # Mean 3, standard deviation sqrt(2.5), t of 4 degrees of freedom 2.776445 (printed tables: 2.776).
    low, high = compare.between_processes([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 2.776445 * np.sqrt(2.5 / 5), 3 + 2.776445 * np.sqrt(2.5 / 5)))


@pytest.mark.parametrize("level", [compare.LEVEL, compare.LEVEL_OF_STOPPED, 0.8])
def test_median_interval_is_scipys(level):
    for count in (2, 5, 6, 7, 10, 31, 70, 211):
        readings = np.random.default_rng(count).lognormal(size=count)
        interval = stats.quantile_test(readings, p=0.5).confidence_interval(confidence_level=level)
        assert compare.median_interval(readings, level) == pytest.approx((interval.low, interval.high), nan_ok=True)


def stopped(draw, most, aim):
    """Read as measure.time_texts does, until the interval is narrow or the cap is reached."""
    drawn = list(draw(most))
    for count in range(1, most + 1):
        if compare.relative_width(drawn[:count], stops=True) <= aim:
            break
    return drawn[:count]


# Times as they are on quiet and on busy machines: relative spread, tail, a slow reading now and then; the median of each.
SHAPES = {
    "narrow": (lambda rng, n: rng.lognormal(0, 0.02, n), 1.0),
    "wide": (lambda rng, n: rng.lognormal(0, 0.05, n), 1.0),
    "long tail": (lambda rng, n: 1 + rng.exponential(0.05, n), 1 + 0.05 * np.log(2)),
    "one in ten is slow": (lambda rng, n: rng.normal(1, 0.02, n) + (rng.random(n) < 0.1), stats.norm.ppf(0.5 / 0.9, 1, 0.02)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most, aim", [(10, 0.05), (60, 0.05), (60, 0.03)])
def test_median_interval_covers_the_median_also_where_reading_stops_at_a_narrow_one(shape, most, aim):
    draw, median = SHAPES[shape]
    rng, trials, covered = np.random.default_rng(0), 400, 0
    for _ in range(trials):
        readings = stopped(lambda n: draw(rng, n), most, aim)
        low, high = compare.median_interval(readings, compare.level_of(stops=True))
        covered += low <= median <= high
    # 400 trials at 95 % give 372 or more with a probability of 96 %, at 93 % with one of 50 %.
    assert covered >= 0.93 * trials


def test_simulation_would_notice_stopping_that_is_not_paid_for(monkeypatch):
    """The same, without the higher level: some shape is covered too seldom."""
    monkeypatch.setattr(compare, "LEVEL_OF_STOPPED", 0.9)
    draw, median = SHAPES["wide"]
    rng, trials, covered = np.random.default_rng(0), 400, 0
    for _ in range(trials):
        low, high = compare.median_interval(stopped(lambda n: draw(rng, n), 60, 0.03), compare.level_of(stops=True))
        covered += low <= median <= high
    assert covered < 0.93 * trials


def test_interval_between_processes_covers_what_an_interval_within_one_misses():
    """Five processes whose own speed differs by 2 %, ten readings each that differ by 0.5 %."""
    rng, trials = np.random.default_rng(0), 400
    within = between = 0
    for _ in range(trials):
        processes = [rng.normal(rng.normal(1, 0.02), 0.005, 10) for _ in range(5)]
        low, high = compare.median_interval(processes[0])
        within += low <= 1 <= high
        low, high = compare.between_processes([np.median(readings) for readings in processes])
        between += low <= 1 <= high
    assert within < 0.5 * trials and between >= 0.93 * trials


def drawn(rng, prompts=6, emotions=3, samples=2):
    return rng.integers(-1, emotions, (prompts, emotions, samples))


judged_arrays = arrays(int, array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=5), elements=st.integers(-1, 1))


@given(judged_arrays)
def test_f1_of_counts_is_scikit_learns(judged):
    prompts, emotions, samples = judged.shape
    targets = np.broadcast_to(np.arange(emotions)[:, None], judged.shape)
    summed = compare.counts(judged).sum(axis=(0, 1))
    expected = f1_score(targets.ravel(), judged.ravel(), labels=range(emotions), average=None, zero_division=0)
    assert compare.f1_by_emotion(summed) == pytest.approx(expected)
    assert compare.macro_f1(summed) == pytest.approx(expected.mean())


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=30))
def test_f1_of_any_texts_is_scikit_learns(texts):
    targets, judged = np.array(texts).T
    tally = compare.tally(targets, judged, 4)
    by_emotion = f1_score(targets, judged, labels=range(4), average=None, zero_division=0)
    assert compare.f1_by_emotion(tally) == pytest.approx(by_emotion)
    assert compare.macro_f1(tally) == pytest.approx(by_emotion.mean())


def test_counts_and_f1_by_hand():
    # Two prompts, two emotions, one sample. Prompt 1: both right. Prompt 2: the first judged as the second, the second as none.
    terms = compare.counts([[[0], [1]], [[1], [-1]]])
    assert terms.tolist() == [[[[1, 1], [1, 1], [1, 1]]], [[[0, 0], [0, 1], [1, 1]]]]
    # Summed: true 1, 1; judged 1, 2; asked 2, 2: F1 2/3 and 2/4, mean 7/12.
    assert compare.macro_f1(terms.sum(axis=(0, 1))) == pytest.approx(7 / 12)


def test_further_axes_are_as_many_runs():
    rng = np.random.default_rng(0)
    runs = [drawn(rng) for _ in range(3)]
    together = compare.counts(np.stack(runs, axis=-1))
    found = compare.interval(together, compare.macro_f1, compare.PROMPTS_LIKE_THESE, "logit")
    for i, run in enumerate(runs):
        alone = compare.interval(compare.counts(run), compare.macro_f1, compare.PROMPTS_LIKE_THESE, "logit")
        assert (found.low[i], found.high[i]) == pytest.approx((alone.low, alone.high))


def test_interval_of_a_mean_is_students_over_prompts():
    values = np.random.default_rng(0).normal(size=(8, 3, 2))
    found = compare.interval(compare.totals(values), compare.mean, compare.PROMPTS_LIKE_THESE)
    expected = stats.ttest_1samp(values.mean(axis=(1, 2)), 0).confidence_interval()
    assert (found.low, found.high, found.degrees) == pytest.approx((expected.low, expected.high, 7))
    assert found.standard_error == pytest.approx(stats.sem(values.mean(axis=(1, 2))))


def test_interval_of_a_difference_of_means_is_the_paired_students_and_so_is_the_chance_of_the_wrong_sign():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.3, size=(9, 3, 2)), rng.normal(size=(9, 3, 2))
    pair = np.stack((compare.totals(one), compare.totals(other)), axis=-1)
    found = compare.interval(pair, compare.difference(compare.mean), compare.PROMPTS_LIKE_THESE)
    test = stats.ttest_rel(one.mean(axis=(1, 2)), other.mean(axis=(1, 2)))
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))
    assert compare.wrong_sign(found) == pytest.approx(test.pvalue / 2)
    by_prompt = (one - other).mean(axis=(1, 2))
    assert compare.effect_size(found, 9) == pytest.approx(by_prompt.mean() / by_prompt.std(ddof=1))


def test_interval_for_these_prompts_sees_the_spread_of_samples_alone():
    # Two prompts far apart, two samples 1 apart in each: variance of a prompt's mean (1/2) / 2, of the mean of two 1/8. Strata of
    # the same variance with 1 degree of freedom each have 2 together.
    values = np.array([[[0.0, 1.0]], [[100.0, 101.0]]])
    found = compare.interval(compare.totals(values), compare.mean, compare.THESE_PROMPTS)
    assert (found.estimate, found.standard_error, found.degrees) == pytest.approx((50.5, np.sqrt(1 / 8), 2))
    assert found.high - found.estimate == pytest.approx(4.302653 * np.sqrt(1 / 8))  # t of 2 degrees, printed tables: 4.303


def test_these_prompts_have_no_interval_with_one_sample_and_are_exact_when_greedy():
    terms = compare.counts(drawn(np.random.default_rng(0), samples=1))
    unknown = compare.interval(terms, compare.macro_f1, compare.THESE_PROMPTS, "logit")
    assert np.isfinite(unknown.estimate) and np.isnan([unknown.low, unknown.high, unknown.standard_error]).all()
    exact = compare.interval(terms, compare.macro_f1, compare.THESE_PROMPTS, "logit", greedy=True)
    assert exact.low == exact.estimate == exact.high == unknown.estimate and exact.standard_error == 0
    new = compare.interval(terms, compare.macro_f1, compare.PROMPTS_LIKE_THESE, "logit", greedy=True)
    assert new.low < new.estimate < new.high


@pytest.mark.parametrize("statistic, scale", [(compare.macro_f1, "logit"), (compare.f1_by_emotion, "identity")])
def test_prompts_that_all_agree_have_no_interval(statistic, scale):
    one = np.array([[0], [1], [1], [3], [-1], [0], [0]])
    found = compare.interval(compare.counts(np.stack([one] * 10)), statistic, compare.PROMPTS_LIKE_THESE, scale)
    assert np.isnan(found.low).all() and np.isnan(found.high).all() and np.all(found.standard_error == 0)
    one_prompt = compare.interval(compare.counts(one[None]), statistic, compare.PROMPTS_LIKE_THESE, scale)
    assert np.isnan(one_prompt.low).all()


@given(judged_arrays, st.sampled_from([compare.PROMPTS_LIKE_THESE, compare.THESE_PROMPTS]))
def test_interval_of_f1_lies_between_0_and_1_and_holds_its_estimate(judged, of):
    found = compare.interval(compare.counts(judged), compare.macro_f1, of, "logit")
    assert np.isnan(found.low) or 0 <= found.low <= found.estimate <= found.high <= 1


def test_interval_of_a_ratio_is_that_of_the_log_ratios_where_prompts_take_nearly_as_long():
    rng = np.random.default_rng(0)
    seconds = rng.lognormal(0, 0.02, (2, 10, 1, 1)) * [[[[2]]], [[[1]]]]
    pair = np.stack([compare.totals(run) for run in seconds], axis=-1)
    found = compare.interval(pair, compare.ratio(compare.mean), compare.PROMPTS_LIKE_THESE, "log")
    expected = stats.ttest_1samp(np.log(seconds[0] / seconds[1]).ravel(), 0).confidence_interval()
    assert (np.log(found.low), np.log(found.high)) == pytest.approx((expected.low, expected.high), rel=1e-3)
    assert found.low * found.high == pytest.approx(found.estimate**2)


def test_swapping_by_prompt_gives_the_p_value_of_scipys_permutation_test():
    rng = np.random.default_rng(1)
    one, other = rng.normal(0.5, size=(7, 3, 2)), rng.normal(size=(7, 3, 2))
    pair = np.stack((compare.totals(one), compare.totals(other)), axis=-1)
    expected = stats.permutation_test(
        (one.mean(axis=(1, 2)), other.mean(axis=(1, 2))), lambda a, b: np.mean(a) - np.mean(b), permutation_type="samples"
    )
    assert compare.swapped_p(pair, compare.mean, None, 0) == pytest.approx(expected.pvalue)


def test_swapping_by_prompt_by_hand():
    # Every one of five prompts is right in one run and wrong in the other: only none or all swapped differ as much, 2 of 32.
    right, wrong = np.tile([[0], [1]], (5, 1, 1)), np.tile([[1], [0]], (5, 1, 1))
    pair = np.stack((compare.counts(right), compare.counts(wrong)), axis=-1)
    assert compare.swapped_p(pair, compare.macro_f1, None, 0) == 2 / 32
    same = np.stack((compare.counts(right), compare.counts(right)), axis=-1)
    assert compare.swapped_p(same, compare.macro_f1, None, 0) == 1


def test_swaps_that_are_drawn_come_near_those_that_are_counted_and_are_never_0(monkeypatch):
    rng = np.random.default_rng(2)
    pair = np.stack([compare.counts(drawn(rng, prompts=10)) for _ in range(2)], axis=-1)
    counted = compare.swapped_p(pair, compare.macro_f1, None, 0)
    monkeypatch.setattr(compare, "EXACT_FLIPS", 2**9)
    drawn_p = [compare.swapped_p(pair, compare.macro_f1, np.random.default_rng(0), 9999) for _ in range(2)]
    assert drawn_p[0] == drawn_p[1] == pytest.approx(counted, abs=4 * 0.5 / np.sqrt(9999))
    apart = np.stack([compare.counts(np.full((60, 2, 1), [[i], [1 - i]])) for i in (0, 1)], axis=-1)
    assert compare.swapped_p(apart, compare.macro_f1, rng, 99) == 1 / 100


def test_five_prompts_are_too_few_to_find_a_difference_by_swapping():
    # Two of the 2**5 swaps, none and all, differ as much whatever the texts: 6.25 %.
    rng = np.random.default_rng(5)
    pairs = [np.stack([compare.counts(drawn(rng, prompts=5)) for _ in range(2)], axis=-1) for _ in range(50)]
    assert min(compare.swapped_p(pair, compare.macro_f1, None, 0) for pair in pairs) >= 2 / 32


def test_interval_of_f1_covers_it_where_prompts_differ():
    """A thousand studies of ten prompts, each right in a share of its texts that is its own: Beta(2, 1), so F1 is near 2/3.

    Wrong texts are judged as the next emotion, so that as many texts are judged each emotion as asked: F1 is the share right.
    """
    rng = np.random.default_rng(6)
    right = rng.random((10, 7, 1, 1000)) < rng.beta(2, 1, (10, 1, 1, 1000))
    emotions = np.arange(7)[:, None, None]
    terms = compare.counts(np.where(right, emotions, (emotions + 1) % 7))
    found = compare.interval(terms, compare.macro_f1, compare.PROMPTS_LIKE_THESE, "logit")
    # At 95 %, 930 or more of a thousand with a probability of 99.8 %.
    assert np.mean((found.low <= 2 / 3) & (2 / 3 <= found.high)) >= 0.93


def test_few_right_or_wrong_texts_fall_short():
    assert compare.falls_short([5, 6, 64, 65], [65, 64, 6, 5], samples=1).tolist() == [True, False, False, True]
    assert compare.falls_short([39, 40], [661, 660], samples=10).tolist() == [True, False]  # four a sample


def test_holm_by_hand_with_a_test_that_was_not_made():
    # Three tests: 0.01 · 3, then 0.02 · 2, then 0.03 · 1, which may not be less than the one before.
    assert compare.holm([0.02, np.nan, 0.01, 0.03]) == pytest.approx([0.04, np.nan, 0.03, 0.04], nan_ok=True)
    assert np.isnan(compare.holm([np.nan])).all()


def test_resampled_runs_share_the_prompts_of_a_draw_and_the_seed_gives_them_again():
    rng = np.random.default_rng(3)
    runs = [drawn(rng, prompts=8) for _ in range(2)]
    terms = compare.counts(np.stack([*runs, runs[0]], axis=-1))
    draws = [compare.resampled(terms, compare.macro_f1, np.random.default_rng(4), 500) for _ in range(2)]
    assert draws[0].shape == (500, 3) and (draws[0] == draws[1]).all() and (draws[0][:, 0] == draws[0][:, 2]).all()
    # One draw by hand: its prompts, as often as they were drawn.
    weights = np.random.default_rng(4).multinomial(8, np.full(8, 1 / 8), 500)[0]
    again = compare.counts(np.repeat(runs[1], weights, axis=0)).sum(axis=(0, 1))
    assert draws[0][0, 1] == pytest.approx(compare.macro_f1(again))


def test_a_thousand_runs_of_a_thousand_texts_are_resampled_within_seconds():
    terms = compare.counts(np.random.default_rng(0).integers(-1, 7, (143, 7, 1, 100)))
    start_s = time.perf_counter()
    compare.resampled(terms, compare.macro_f1, np.random.default_rng(0), 1000)
    assert time.perf_counter() - start_s < 6  # a tenth of the runs, a tenth of a minute
