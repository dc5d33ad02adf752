import csv
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from affq.analysis import choose
from affq.errors import InputError
from affq.models import TRANSFORMERS
from affq.report import words
from affq.results.provenance import PACKAGE
from affq.stats.frontier import on_frontier
from affq.study import load_study
from affq.study.prompts import read_prompts

COLUMNS = ["run_id", "model", "precision", "engine", "peak_kind", "peak_bytes", "latency_s", "emotion_f1"]
RUNS = pd.DataFrame(
    [
        ("a", "m", "fp32", "transformers", "rss", 4_000_000_000, 2.0, 0.50),
        ("b", "m", "bf16", "transformers", "rss", 2_000_000_000, 1.0, 0.50),  # as good as a for less
        ("c", "m", "int8", "transformers", "rss", 1_900_000_000, 3.0, 0.55),
        ("d", "m", "nf4", "transformers", "rss", 1_000_000_000, 1.5, 0.30),
        ("e", "m", "fp4", "transformers", "rss", None, None, None),  # failed
    ],
    columns=COLUMNS,
).convert_dtypes()


def test_frontier_by_hand():
    by_memory = choose.frontier(RUNS, "peak_bytes")
    assert by_memory["on_frontier"].tolist() == [False, False, True, True, False]  # c beats a and b, with less
    assert by_memory["in_draws"].isna().all() and by_memory["run_id"].tolist() == list("abcde")
    # By time b is the fastest, and only c is better: d is beaten by b, a by b.
    assert choose.frontier(RUNS, "latency_s")["on_frontier"].tolist() == [False, True, True, False, False]


def test_equal_runs_are_on_the_frontier_together_and_equal_f1_for_less_beats():
    assert on_frontier([0.5, 0.5, 0.5, 0.4], [2, 2, 3, 2]).tolist() == [True, True, False, False]


def test_frontier_in_draws_is_the_share_of_draws_by_hand():
    # Costs 4, 2, 1.9, 1. Draw 1 as it stands: c, d. Draw 2: a best, then b, then d; c equals d for more. Of 2 draws: a 1/2, …
    draws = np.array([[0.5, 0.5, 0.55, 0.3, np.nan], [0.9, 0.6, 0.3, 0.3, np.nan]])
    assert choose.frontier(RUNS, "peak_bytes", draws)["in_draws"].tolist() == [0.5, 0.5, 0.5, 1.0, 0.0]


FIGURES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=8)  # few values: many ties


@given(FIGURES)
def test_frontier_agrees_with_brute_force(figures):
    def dominated(f1, cost):
        return any(g >= f1 and c <= cost and (g, c) != (f1, cost) for g, c in figures)

    f1, cost = np.array(figures, dtype=float).T
    assert on_frontier(f1, cost).tolist() == [not dominated(*one) for one in figures]


@given(FIGURES, st.integers(1, 4), st.integers(1, 4))
def test_choice_agrees_with_brute_force(figures, memory, seconds):
    rows = [(str(i), "m", "bf16", "transformers", "rss", c, c % 3 + 1, f / 4) for i, (f, c) in enumerate(figures)]
    taken = choose.within_budget(pd.DataFrame(rows, columns=COLUMNS), memory, seconds)
    # Highest F1, then less memory, then less time, then the earlier row.
    ranked = sorted(
        (i for i, row in enumerate(rows) if row[5] <= memory and row[6] <= seconds),
        key=lambda i: (-rows[i][7], rows[i][5], rows[i][6], i),
    )
    if ranked:
        assert taken["run_id"].tolist() == [str(i) for i in ranked[:2]]
    else:
        over = [max(row[5] / memory, row[6] / seconds) for row in rows]
        assert taken["role"].tolist() == ["nearest"] and taken["run_id"][0] == str(np.argmin(over))


def test_budget_takes_the_highest_f1_that_fits_and_a_tie_goes_to_less_memory():
    taken = choose.within_budget(RUNS, 4e9, 2.5)  # c is too slow; a and b are equal
    assert taken[["role", "run_id"]].to_numpy().tolist() == [["choice", "b"], ["runner-up", "a"]]
    assert choose.within_budget(RUNS, 1e9, math.inf)["run_id"].tolist() == ["d"]


def test_wins_over_draws_follow_the_same_rule_by_hand():
    # Within 4 GB and 2.5 s are a, b, d. Draws: tie of a and b, to b; a; d; b. c is best in all, and does not fit.
    draws = np.array([[0.5, 0.5, 0.9, 0.3], [0.6, 0.5, 0.9, 0.3], [0.2, 0.2, 0.9, 0.3], [0.4, 0.5, 0.9, 0.3]])
    draws = np.column_stack([draws, np.full(4, np.nan)])
    taken = choose.within_budget(RUNS, 4e9, 2.5, draws)
    assert taken[["run_id", "in_draws"]].to_numpy().tolist() == [["b", 0.5], ["a", 0.25]]
    assert words.advice(taken, 4e9, 2.5) == (
        "Within 4.00 GB and 2.50 s a text, take m at bf16 (emotion F1 0.50, 2.00 GB, 1.00 s a text), which is taken in 50% of "
        "the draws of prompts. The runner-up is m at fp32 (emotion F1 0.50, 4.00 GB, 2.00 s a text), which is taken in 25% of "
        "the draws of prompts."
    )


def test_where_no_run_fits_the_nearest_is_said():
    # Over 0.8 GB and 1.2 s: b 2.5 and 0.83 times, d 1.25 and 1.25, a 5, c 2.5.
    taken = choose.within_budget(RUNS, 0.8e9, 1.2)
    assert (taken["role"][0], taken["run_id"][0], taken["over"][0]) == ("nearest", "d", pytest.approx(1.25))
    assert words.advice(taken, 0.8e9, 1.2) == (
        "No run fits 0.80 GB and 1.20 s a text. The nearest is m at nf4 (emotion F1 0.30, 1.00 GB, 1.50 s a text): 1.25 times "
        "the budget."
    )


def test_unlimited_budget_is_said_as_such():
    said = words.advice(choose.within_budget(RUNS, math.inf, math.inf), math.inf, math.inf)
    assert said.startswith(
        "Within any budget, take m at int8 (emotion F1 0.55, 1.90 GB, 3.00 s a text). The runner-up is m at bf16"
    )
    assert words.advice(choose.within_budget(RUNS, math.inf, 2), math.inf, 2).startswith("Within 2.00 s a text, take m at bf16")


@pytest.mark.parametrize("budget, said", [((0, 1), "peak_bytes must be above 0; found 0"), ((1, math.nan), "latency_s must be")])
def test_budget_must_be_above_zero(budget, said):
    with pytest.raises(InputError, match=said):
        choose.within_budget(RUNS, *budget)


def test_runs_without_figures_leave_nothing_to_choose():
    with pytest.raises(InputError, match="no run has an emotion F1 and peak_bytes and latency_s to choose by"):
        choose.within_budget(RUNS.tail(1), 1e9, 1)


def test_similar_peaks_are_pairs_within_a_share_of_the_larger():
    # 1.9 of 2 GB is 5 % less; 1 of 1.9 is 47 % less. Within half, b and c with d (50 %, 47 %), and a with b (50 %).
    pairs = choose.similar_peaks(RUNS)
    assert pairs[["run_id", "other_run_id", "emotion_f1", "other_emotion_f1"]].to_numpy().tolist() == [["b", "c", 0.50, 0.55]]
    assert pairs[["peak_bytes", "other_peak_bytes"]].to_numpy().tolist() == [[2_000_000_000, 1_900_000_000]]
    assert choose.similar_peaks(RUNS, 0.5)[["run_id", "other_run_id"]].sum(axis=1).tolist() == ["ab", "bc", "bd", "cd"]
    edge = RUNS.assign(peak_bytes=[850, 1000, 849, None, None])
    assert choose.similar_peaks(edge)[["run_id", "other_run_id"]].sum(axis=1).tolist() == ["ab", "ac"]


def test_peaks_of_different_kinds_are_no_pair():
    assert choose.similar_peaks(RUNS.assign(peak_kind=["rss", "rss", "vram_allocated", "rss", None])).empty


def test_price_is_of_texts_one_at_a_time():
    # 2 s a text at 1.80 an hour: 1,000 texts take 2,000 s, 0.5556 h, 1.00.
    priced = choose.prices(RUNS, 1.8)
    assert priced["price_of_1000_texts_one_at_a_time"].head(4).tolist() == pytest.approx([1.0, 0.5, 1.5, 0.75])
    assert priced["price_of_1000_texts_one_at_a_time"].isna().tolist() == [False] * 4 + [True]
    with pytest.raises(InputError, match="price per hour must be a number above 0; found -1"):
        choose.prices(RUNS, -1)


def test_price_of_energy_is_that_of_its_kilowatt_hours_and_unknown_with_it():
    # 60 J a text: 1,000 texts take 60 kJ, a 60th of a kWh, at 0.30 each: 0.005.
    runs = RUNS.assign(joules_a_text=[60.0, 120.0, None, 30.0, None])
    priced = choose.prices(runs, price_per_kwh=0.3)
    assert list(priced.columns) == [*RUNS.columns[:4], "joules_a_text", "price_of_the_energy_of_1000_texts"]
    cost = priced["price_of_the_energy_of_1000_texts"]
    assert cost.dropna().tolist() == pytest.approx([0.005, 0.01, 0.0025]) and cost.isna().tolist() == [0, 0, 1, 0, 1]
    assert len(choose.prices(runs, 1.8, 0.3).columns) == 8
    with pytest.raises(InputError, match="price per kWh must be a number above 0; found 0"):
        choose.prices(runs, price_per_kwh=0)


def test_f1_by_prompts_is_that_of_the_first_and_its_spread_that_of_blocks_without_a_shared_prompt():
    # Four prompts, two emotions, one sample; right are 2, 1, 0 and 2 of two: shares 1, 1/2, 0, 1.
    judged = np.array([[["joy"], ["fear"]], [["joy"], ["joy"]], [["fear"], ["joy"]], [["joy"], ["fear"]]])
    targets = np.array([["joy"], ["fear"]])
    found = choose.by_prompts(judged, (1, 2, 3, 4, 8), lambda some: float((some == targets).mean()))
    assert found.drop(columns=["lowest", "highest"]).to_numpy().tolist() == [
        [1, 1.0, 4],
        [2, 0.75, 2],
        [3, 0.5, 1],
        [4, 0.625, 1],
    ]
    assert found["lowest"].tolist()[:2] == [0.0, 0.5] and found["highest"].tolist()[:2] == [1.0, 0.75]  # of 1 and 1/2; of 0 and 1
    assert found[["lowest", "highest"]][2:].isna().all(axis=None)  # one block says nothing of others


def test_f1_at_all_prompts_is_the_f1_of_the_tables():
    emotions = ["anger", "joy", "shame"]
    judged = np.random.default_rng(0).choice([*emotions, "none"], size=(40, 3, 2))

    def statistic(some):
        targets = np.broadcast_to(np.array(emotions)[:, None], some.shape).ravel()
        return f1_score(targets, some.ravel(), labels=emotions, average="macro", zero_division=0)

    found = choose.by_prompts(judged, (5, 10, 20, 40), statistic)
    assert found["blocks"].tolist() == [8, 4, 2, 1] and found["emotion_f1"].iloc[-1] == statistic(judged)
    several = found[found["blocks"] > 1]
    assert (several["lowest"] <= several["emotion_f1"]).all() and (several["emotion_f1"] <= several["highest"]).all()


def test_forty_prompts_begin_with_the_defaults_and_are_in_balance():
    folder = PACKAGE / "study" / "prompt_sets"
    assert (folder / "forty.csv").read_bytes().startswith((folder / "default.csv").read_bytes())
    rows = read_prompts(folder / "forty.csv")
    assert len(rows) == 40 and len({row["text"] for row in rows}) == len({row["text_without_emotion"] for row in rows}) == 40
    for start in (0, 10, 20, 30):
        assert [row["kind"] for row in rows[start : start + 10]].count("event") == 5
    # Spreadsheets and diffs read a line a prompt.
    assert len(list(csv.reader((folder / "forty.csv").read_text(encoding="utf-8").splitlines()))) == 41


def test_study_default_40_is_the_default_but_for_its_prompts():
    forty, default = load_study("default-40"), load_study("default")
    others = [run for run in default.runs() if run.engine.name == TRANSFORMERS]
    changed = {
        key
        for run, other in zip(forty.runs(), others, strict=True)
        for key in run.settings
        if run.settings[key] != other.settings[key]
    }
    assert changed == {"prompts_sha256"} and forty.texts_asked == 280
