"""Broken and odd inputs of every kind, by the fuzzer of tests/bench: each is refused in one sentence, or means what it says."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).with_name("bench")))

import fuzz


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    former = fuzz.weights.cache
    yield fuzz.Bench(tmp_path_factory.mktemp("fuzz"))
    fuzz.weights.cache = former


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_broken_input_is_refused_in_a_sentence_or_means_what_it_says(bench, kind):
    outcomes = [fuzz.try_case(bench, *case) for case in fuzz.cases(60, seed=30) if case[0] == kind]
    assert [outcome for outcome in outcomes if not outcome.well] == []
    assert any(outcome.ended == "refused" for outcome in outcomes)


@pytest.mark.full
def test_two_thousand_broken_inputs_end_in_no_traceback_no_hang_and_no_nonsense():
    outcomes = fuzz.try_all(fuzz.cases(2000, seed=0))
    assert len(outcomes) == 2000
    assert [outcome for outcome in outcomes if not outcome.well] == []
