"""F1 corrected for the judge's errors: simulations with a known truth, and cases that can be worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from affq.stats import correction

EMOTIONS = tuple("abcdefg")
COUNT = len(EMOTIONS)


def draw(rng, texts, people_follow, judge_right, follows_target):
    """Draw a study's texts: targets, the judge's answers, and how people read them.

    People read the target in a share `people_follow` of texts, else any emotion. The judge reads as people do in a share
    `judge_right`; else it falls for the target's words (`follows_target`), for its own favourite, or for any emotion: a shift
    between the texts that it learnt from and these.
    """
    targets = np.repeat(np.arange(COUNT), texts // COUNT)
    any_emotion = rng.integers(0, COUNT, (3, len(targets)))
    read = np.where(rng.random(len(targets)) < people_follow, targets, any_emotion[0])
    favourite = np.where(rng.random(len(targets)) < 0.5, 4, any_emotion[1])
    wrong = np.where(rng.random(len(targets)) < follows_target, targets, favourite)
    return targets, np.where(rng.random(len(targets)) < judge_right, read, wrong), read


def label(rng, targets, read, each):
    """Let people label so many texts of each emotion."""
    labels = np.full((len(targets), COUNT), np.nan)
    for emotion in range(COUNT):
        chosen = rng.choice(np.flatnonzero(targets == emotion), each, replace=False)
        labels[chosen] = np.eye(COUNT)[read[chosen]]
    return labels


def true_f1(targets, read):
    return f1_score(targets, read, average="macro", labels=range(COUNT), zero_division=0)  # −1 is none of them


@pytest.mark.parametrize("follows_target, bias", [(0.0, -0.1), (1.0, 0.05)])
def test_interval_covers_the_truth_where_the_judge_alone_is_biased(follows_target, bias):
    rng = np.random.default_rng(1)
    covered, widths, alone = [], [], []
    for _ in range(120):
        targets, judged, read = draw(rng, 70, 0.6, 0.7, follows_target)
        truth = true_f1(targets, read)
        found = correction.by_labels(targets, judged, label(rng, targets, read, 5), EMOTIONS)
        covered.append(found["low"] <= truth <= found["high"])
        widths.append([found["high"] - found["low"], found["labels_alone_high"] - found["labels_alone_low"]])
        alone.append(found["judge_alone"] - truth)
    # Of 120 intervals that cover 95 %, fewer than 106 do in one of two thousand executions.
    assert sum(covered) >= 106
    assert np.mean(alone) < bias if bias < 0 else np.mean(alone) > bias
    assert np.mean(widths, axis=0)[0] < 0.9 * np.mean(widths, axis=0)[1]  # the judge is worth labels


def test_labels_of_all_texts_give_their_f1_exactly():
    rng = np.random.default_rng(0)
    targets, judged, read = draw(rng, 70, 0.6, 0.5, 0.5)
    found = correction.by_labels(targets, judged, np.eye(COUNT)[read], EMOTIONS)
    assert (found["estimate"], found["low"], found["high"]) == (pytest.approx(true_f1(targets, read)),) * 3
    assert found["judge_alone"] == pytest.approx(true_f1(targets, judged))


def test_a_judge_that_reads_as_people_do_weighs_fully_and_leaves_less_doubt():
    rng = np.random.default_rng(0)
    targets, _, read = draw(rng, 700, 0.6, 1, 0)
    found = correction.by_labels(targets, read, label(rng, targets, read, 5), EMOTIONS)
    assert found["weight"] == pytest.approx(1) and found["estimate"] == pytest.approx(true_f1(targets, read))
    # That they never differed among 35 labels does not say that they never will.
    assert 0 < found["high"] - found["low"] < found["labels_alone_high"] - found["labels_alone_low"]


def test_two_emotions_by_hand():
    # Six texts asked for each of a and b, all labelled but one of each; the judge answers a to everything. People read the target
    # but for one text asked for b, read as a. Sums by labels alone: a right 6, answered 6 + 6·(1/5), b right 6·(4/5): F1 of a
    # 2·6/(7.2 + 6), of b 2·4.8/(4.8 + 6).
    targets = np.repeat([0, 1], 6)
    labels = np.eye(2)[[0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1]]
    labels[[5, 11]] = np.nan
    found = correction.by_labels(targets, np.zeros(12, dtype=int), labels, "ab")
    assert found["labels_alone_estimate"] == pytest.approx((12 / 13.2 + 9.6 / 10.8) / 2)
    assert found["labelled"] == 10 and found["judge_alone"] == pytest.approx((12 / 18 + 0) / 2)
    assert found["estimate"] == found["labels_alone_estimate"] and found["weight"] == 0  # one answer to all tells nothing


def test_too_few_labels_have_no_interval():
    targets = np.repeat(np.arange(COUNT), 2)
    labels = np.full((14, COUNT), np.nan)
    labels[0] = np.eye(COUNT)[0]
    found = correction.by_labels(targets, targets, labels, EMOTIONS)
    assert np.isnan([found["low"], found["high"]]).all() and found["labelled"] == 1


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(0, 2), st.booleans()), min_size=12, max_size=30))
def test_any_labels_give_an_estimate_within_its_interval(rows):
    rows = [(e, 0, 0, True) for e in range(3)] + rows  # each emotion is asked for, and somebody labelled
    targets, judged, read, known = (np.array(column) for column in zip(*rows, strict=True))
    labels = np.where(known[:, None], np.eye(3)[read], np.nan)
    found = correction.by_labels(targets, judged, labels, "abc")
    assert 0 <= found["weight"] <= 1 and 0 <= found["judge_alone"] <= 1
    assert np.isnan(found["low"]) or found["low"] - 1e-9 <= np.clip(found["estimate"], 0, 1) <= found["high"] + 1e-9


def test_band_holds_the_truth_where_the_judge_errs_as_on_its_card():
    rng = np.random.default_rng(3)
    errors = np.where(np.eye(COUNT) > 0, 0.7, 0.05)
    confusion = np.stack([rng.multinomial(140, row) for row in errors])
    inside = []
    for _ in range(40):
        targets = np.repeat(np.arange(COUNT), 10)
        read = np.where(rng.random(70) < 0.7, targets, rng.integers(0, COUNT, 70))
        judged = np.array([rng.choice(COUNT, p=errors[emotion]) for emotion in read])
        low, high = correction.by_confusion(targets, judged, confusion, EMOTIONS, rng)
        inside.append(low <= true_f1(targets, read) <= high)
    assert sum(inside) >= 36


def test_band_of_a_judge_that_never_errs_is_its_f1():
    targets = np.repeat(np.arange(COUNT), 50)
    judged = np.where(np.arange(350) % 5 == 0, (targets + 1) % COUNT, targets)
    low, high = correction.by_confusion(targets, judged, 10**7 * np.eye(COUNT), EMOTIONS, np.random.default_rng(0))
    assert low < true_f1(targets, judged) < high and high - low < 0.12  # the texts' own chance is left


def test_band_lies_between_0_and_1_whatever_the_judge_and_its_answers():
    rng, targets = np.random.default_rng(0), np.repeat(np.arange(COUNT), 10)
    for confusion in (np.ones((COUNT, COUNT)), 20 * np.eye(COUNT) + 1):
        for judged in (targets, (targets + 1) % COUNT, np.full(70, 3), np.full(70, -1)):
            low, high = correction.by_confusion(targets, judged, confusion, EMOTIONS, rng)
            assert 0 <= low <= high <= 1
