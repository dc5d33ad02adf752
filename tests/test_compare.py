import numpy as np
import pytest

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
