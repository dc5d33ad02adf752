import judge_card
import numpy as np
import pytest
from sklearn.metrics import f1_score

from affq.emotions import EMOTIONS
from affq.report import charts


def test_calibration_by_hand():
    # Answers of 0.9 (right), 0.9 (wrong) and 0.6 (right), so two bins: 2/3 · |1/2 - 0.9| + 1/3 · |1 - 0.6|.
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    error, bins = judge_card.calibration(np.array([0, 1, 1]), chances)
    assert error == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.4, abs=1e-4)
    assert bins == [{"texts": 1, "confidence": 0.6, "accuracy": 1.0}, {"texts": 2, "confidence": 0.9, "accuracy": 0.5}]


def test_certain_answers_have_a_bin():
    assert judge_card.calibration(np.array([0]), np.array([[1.0, 0.0]])) == (
        0,
        [{"texts": 1, "confidence": 1.0, "accuracy": 1.0}],
    )


def test_temperature_undoes_what_was_multiplied():
    """Labels drawn from softmax(z) and logits of 2.5 z: the temperature of the greatest likelihood is about 2.5."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 3))
    chances = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    truth = (chances.cumsum(1) < rng.random((len(z), 1))).sum(1)
    assert judge_card.fit_temperature(truth, 2.5 * z) == pytest.approx(2.5, rel=0.05)


def test_quality_by_hand_with_intervals_that_hold_it():
    # Truth a a b b, answers a b b b: precision 1 and 2/3, recall 1/2 and 1, F1 2/3 and 4/5; macro-F1 11/15.
    truth, answers = np.tile([0, 0, 1, 1], 25), np.tile([0, 1, 1, 1], 25)
    found = judge_card.quality(truth, np.eye(2)[answers], ("a", "b"), np.random.default_rng(0))
    assert found["precision"] == {"a": 1.0, "b": 0.6667} and found["recall"] == {"a": 0.5, "b": 1.0}
    assert found["f1"] == {"a": 0.6667, "b": 0.8} and found["macro_f1"] == 0.7333
    assert found["confusion"] == {"a": {"a": 25, "b": 25}, "b": {"a": 0, "b": 50}}
    low, high = found["macro_f1_interval"]
    assert 0.6 < low < 0.7333 < high < 0.85
    assert found == judge_card.quality(truth, np.eye(2)[answers], ("a", "b"), np.random.default_rng(0))
    # The interval of a share of 25 in 50 is about 1.96 · sqrt(1/2 · 1/2 / 50) = 0.139 on either side.
    assert found["intervals"]["recall"]["a"] == pytest.approx([0.5 - 0.139, 0.5 + 0.139], abs=0.03)


def test_macro_f1_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth, chances = rng.integers(0, 7, 100), rng.random((100, 7))
    assert judge_card.macro_f1(truth, chances) == pytest.approx(f1_score(truth, chances.argmax(1), average="macro"), abs=1e-4)


def test_probes_by_hand():
    probes = [
        {"kind": "negation", "names": "joy"},  # judged joy: wrong
        {"kind": "negation", "names": "fear"},  # judged joy: right
        {"kind": "mention", "names": "joy"},  # asserts joy: wrong
        {"kind": "neutral"},  # asserts nothing: right
    ]
    sure, unsure = np.full(7, 0.05), np.full(7, 1 / 7)
    sure[EMOTIONS.index("joy")] = 0.7
    found = judge_card.probe(probes, np.array([sure, sure, sure, unsure]), EMOTIONS)
    assert {kind: (n["right"], n["texts"]) for kind, n in found.items()} == {
        "negation": (1, 2),
        "mention": (0, 1),
        "neutral": (1, 1),
    }


def test_packaged_probes_are_as_many_for_each_emotion():
    probes = judge_card.read_probes()
    for kind in ("negation", "mention"):
        assert {e: sum(p.get("names") == e and p["kind"] == kind for p in probes) for e in EMOTIONS} == dict.fromkeys(EMOTIONS, 4)
    assert sum(p["kind"] == "neutral" for p in probes) == 24 and len({p["text"] for p in probes}) == len(probes)


def test_reliability_chart_shows_every_bin():
    axes = charts.reliability(
        [{"texts": 3, "confidence": 0.4, "accuracy": 0.5}, {"texts": 9, "confidence": 0.8, "accuracy": 0.7}]
    )
    assert axes.lines[1].get_xydata().tolist() == [[0.4, 0.5], [0.8, 0.7]]
    assert [text.get_text() for text in axes.texts] == ["3", "9"]
