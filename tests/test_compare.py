import numpy as np
import pytest
from scipy import stats

from affq import compare
from affq.tables import macro_f1


def accuracy(targets, judged):
    return float(np.mean(np.asarray(targets) == np.asarray(judged)))


def test_shuffled_accuracy_is_what_probability_says():
    # A shuffled target meets a judged emotion as often as the shares say: 0.5 · 0.5 + 0.5 · 0.5.
    targets, judged = ["a"] * 20 + ["b"] * 20, ["a"] * 20 + ["b"] * 20
    assert compare.under_shuffled_targets(accuracy, targets, judged, np.random.default_rng(0), 1000) == pytest.approx(
        0.5, abs=0.02
    )


def test_shuffled_f1_of_a_judge_with_one_answer_does_not_depend_on_the_draw():
    # All judged "a", half asked: precision 1/2, recall 1, F1 2/3 for "a" and 0 for "b", whatever the order: mean 1/3.
    chance = compare.under_shuffled_targets(
        lambda t, j: macro_f1(t, j, ["a", "b"]), ["a", "b"] * 5, ["a"] * 10, np.random.default_rng(0), draws=3
    )
    assert chance == pytest.approx(1 / 3)


def test_same_seed_gives_the_same_chance():
    draws = [
        compare.under_shuffled_targets(accuracy, list("aabbc"), list("abcab"), np.random.default_rng(7), 20) for _ in range(2)
    ]
    assert draws[0] == draws[1]


def test_median_interval_is_between_order_statistics_by_hand():
    # Of ten readings the median lies between the 2nd and the 9th with probability 1 - 2 (1 + 10) / 2**10 = 97.9 %; the 3rd and
    # the 8th would be 1 - 2 (1 + 10 + 45) / 2**10 = 89.1 %.
    readings = [3.0, 1.0, 10.0, 2.0, 9.0, 4.0, 8.0, 5.0, 7.0, 6.0]
    assert compare.median_interval(readings) == (2.0, 9.0)
    assert compare.relative_width(readings, rounds=1) == pytest.approx((9 - 2) / 5.5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_median_of_too_few_readings_has_no_interval(count):
    # Of five, even the least and the greatest hold the median with 1 - 2 / 2**5 = 93.75 % alone.
    assert np.isnan(compare.median_interval(range(count))).all() and compare.relative_width(range(count), 1) == float("inf")


def test_interval_between_processes_is_students():
    # Mean 3, standard deviation sqrt(2.5), t of 4 degrees of freedom 2.776445 (printed tables: 2.776).
    low, high = compare.between_processes([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 2.776445 * np.sqrt(2.5 / 5), 3 + 2.776445 * np.sqrt(2.5 / 5)))


def stopped(draw, texts, rounds, aim):
    """Read rounds as measure.time_texts does, until the interval is narrow or the cap is reached."""
    readings = []
    for _ in range(rounds):
        readings += list(draw(texts))
        if compare.relative_width(readings, rounds) <= aim:
            break
    return readings


# Times as they are on quiet and on busy machines: relative spread, tail, a slow reading now and then; the median of each.
SHAPES = {
    "narrow": (lambda rng, n: rng.lognormal(0, 0.02, n), 1.0),
    "wide": (lambda rng, n: rng.lognormal(0, 0.05, n), 1.0),
    "long tail": (lambda rng, n: 1 + rng.exponential(0.05, n), 1 + 0.05 * np.log(2)),
    "one in ten is slow": (lambda rng, n: rng.normal(1, 0.02, n) + (rng.random(n) < 0.1), stats.norm.ppf(0.5 / 0.9, 1, 0.02)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texts, rounds", [(10, 1), (10, 10), (70, 3)])
def test_median_interval_covers_the_median_also_where_reading_stops_at_a_narrow_one(shape, texts, rounds):
    draw, median = SHAPES[shape]
    rng, trials, covered = np.random.default_rng(0), 400, 0
    for _ in range(trials):
        low, high = compare.median_interval(stopped(lambda n: draw(rng, n), texts, rounds, 0.03), compare.level_of(rounds))
        covered += low <= median <= high
    # 400 trials at 95 % give 372 or more with a probability of 96 %, at 93 % with one of 50 %.
    assert covered >= 0.93 * trials


def test_simulation_would_notice_stopping_that_is_not_paid_for(monkeypatch):
    """The same, without the higher level: some shape is covered too seldom."""
    monkeypatch.setattr(compare, "LEVEL_OF_STOPPED", 0.9)
    draw, median = SHAPES["wide"]
    rng, trials, covered = np.random.default_rng(0), 400, 0
    for _ in range(trials):
        low, high = compare.median_interval(stopped(lambda n: draw(rng, n), 10, 10, 0.03), compare.level_of(10))
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
