"""Frames of differences, held against figures worked by hand and by scikit-learn, and their sentences."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import summary_of
from sklearn.metrics import f1_score
from test_tables import PEAKS, write_run

from affq.analysis import choose, claims, comparison, costs
from affq.analysis.texts import join
from affq.emotions import EMOTIONS
from affq.report import words
from affq.results import record as records
from affq.stats.compare import PROMPTS_LIKE_THESE, THESE_PROMPTS
from affq.study import load_study
from affq.study.study_file import Budget


@pytest.fixture
def study(write_study):
    return load_study(write_study(precisions=["fp32", "int8"]))


@pytest.fixture
def runs(study, tmp_path):
    fp32, int8 = records.records(tmp_path / "results", study)
    write_run(fp32, ["joy", "sadness", "joy", "joy", "joy", "none"], PEAKS, [3.0, 1.0, 2.0], 4)
    write_run(int8, ["joy", "joy", "none", "sadness", "joy", "joy"], (9000, 2000, 2500, 2500), [1.5, 0.5, 1.0])
    return [fp32, int8]


@pytest.fixture
def compared(runs, study):
    return comparison.Compared(join(runs), study)


def many(prompts, runs, seed=0, right=0.6):
    """Texts of `prompts` prompts, two emotions, judged as asked in a share `right` of them: no files."""
    rng, rows = np.random.default_rng(seed), []
    for run_id in runs:
        for number in range(prompts):
            for emotion, other in (("joy", "sadness"), ("sadness", "joy")):
                judged = emotion if rng.random() < right else other
                rows.append(
                    {"run_id": run_id, "prompt_id": f"p{number}", "kind": "general", "emotion": emotion, "sample": 0}
                    | {"judged_emotion": judged, "masked_emotion": judged, "names_target": True, "rouge1": 0.5, "rouge2": 0.5}
                    | {"rougeL": rng.random(), "rougeL_to_baseline": 0.5}
                )
    return pd.DataFrame(rows)


def test_every_f1_is_that_of_scikit_learn(study):
    texts = many(12, [run.id for run in study.runs()])
    found = comparison.intervals(comparison.Compared(texts, study))
    overall = found[found["figure"].eq("emotion_f1") & found["estimand"].eq(PROMPTS_LIKE_THESE)]
    expected = [f1_score(of["emotion"], of["judged_emotion"], average="macro") for _, of in texts.groupby("run_id", sort=False)]
    assert overall["estimate"].tolist() == pytest.approx(expected)
    assert (overall["low"] < overall["estimate"]).all() and (overall["estimate"] < overall["high"]).all()
    mean = found[found["figure"].eq("rougeL") & found["estimand"].eq(PROMPTS_LIKE_THESE)]["estimate"]
    assert mean.tolist() == pytest.approx(texts.groupby("run_id", sort=False)["rougeL"].mean().tolist())


@pytest.fixture
def sampled_twice(write_study):
    """A study of two samples, and texts of it."""
    study = load_study(
        write_study(samples=2, generation={"decoding": "sampled", "temperature": 1.0}, precisions=["fp32", "int8"])
    )
    drawn = [many(6, [run.id for run in study.runs()], seed).assign(sample=seed) for seed in (0, 1)]
    return study, pd.concat(drawn, ignore_index=True)


def test_order_of_the_texts_changes_nothing(sampled_twice):
    study, texts = sampled_twice
    shuffled = texts.sample(frac=1, random_state=1)
    found = [comparison.intervals(comparison.Compared(of, study)) for of in (texts, shuffled)]
    pd.testing.assert_frame_equal(*found)
    assert found[0]["low"].notna().any()


def test_difference_of_one_prompt_is_that_of_its_samples_by_scikit_learn(sampled_twice):
    study, texts = sampled_twice
    found = comparison.differences(comparison.Compared(texts, study), np.random.default_rng(0))
    found = found[found["family"] == "prompt"].set_index("of")
    fp32, int8 = (run.id for run in study.runs())
    for prompt, of in texts.groupby("prompt_id"):
        one = {run: f1_score(t["emotion"], t["judged_emotion"], average="macro") for run, t in of.groupby("run_id")}
        assert found.loc[prompt, "estimate_points"] == pytest.approx(100 * (one[int8] - one[fp32]))
    assert len(found) == 6 and found["estimate_points"].nunique() > 1


def test_text_that_is_there_twice_or_not_at_all_is_refused(sampled_twice):
    study, texts = sampled_twice
    for wrong in (texts[1:], pd.concat([texts, texts[:1]]), pd.concat([texts[1:], texts[1:2]])):
        with pytest.raises(ValueError, match="has not every text once"):
            comparison.Compared(wrong, study)


def test_intervals_that_rest_on_too_few_right_texts_are_warned_of(write_study):
    study = load_study(write_study(precisions=["fp32", "int8"]))
    ids = [run.id for run in study.runs()]
    texts = many(12, ids[:1], right=0.1), many(12, ids[1:], right=0.5)
    found = comparison.intervals(comparison.Compared(pd.concat(texts), study))
    short = found[found["falls_short"] & found["estimand"].eq(PROMPTS_LIKE_THESE)]
    assert {(row.precision, row.figure) for row in short.itertuples() if row.figure == "emotion_f1"} == {("fp32", "emotion_f1")}
    said = words.shortfalls(found).replace("&#45;", "-")
    assert "The interval of smollm2-135m fp32 may hold the truth less often" in said
    assert words.shortfalls(found[~found["falls_short"]]) == ""


def test_one_interval_of_an_emotion_or_several_are_said_to_fall_short():
    found = pd.DataFrame(
        {
            "figure": ["f1 joy", "f1 fear"],
            "model": "m",
            "precision": "int8",
            "engine": "transformers",
            "estimand": PROMPTS_LIKE_THESE,
        }
    )
    found = found.assign(low=0.1, falls_short=True)
    assert words.shortfalls(found[:1]).startswith("1 interval of a single emotion rests on")
    assert words.shortfalls(found).startswith("2 intervals of single emotions rest on")


def test_choice_of_prompts_is_said_by_the_sets_of_which_there_are_several(write_study):
    study = load_study(write_study(precisions=["fp32"]))
    found = comparison.by_prompts(comparison.Compared(many(12, [study.runs()[0].id]), study))
    assert found["prompts"].tolist() == [5, 10] and found["blocks"].tolist() == [2, 1]
    ends = f"{found['lowest'][0]:.2f} to {found['highest'][0]:.2f} with 5."
    assert words.by_prompts(found).replace("&#45;", "-").endswith(f"- **smollm2-135m fp32**: {ends}")
    assert words.by_prompts(found[1:]) == ""


def test_nothing_is_said_of_the_prompts_of_runs_that_are_not_judged(study):
    nothing = many(5, ["x"]).assign(judged_emotion=None)
    assert words.by_prompts(comparison.by_prompts(comparison.Compared(nothing, study))) == ""


def test_greedy_texts_of_these_prompts_are_exact(compared):
    found = comparison.intervals(compared)
    these = found[found["estimand"] == THESE_PROMPTS]
    assert len(these) and these["low"].equals(these["estimate"]) and these["high"].equals(these["estimate"])


def test_difference_by_hand_in_points_and_by_family(compared):
    found = comparison.differences(compared, np.random.default_rng(0))
    # fp32: joy judged of three, two right of two asked: 0.8; sadness one of two: 2/3. int8: joy judged twice, one right of two:
    # 1/2; sadness judged once, right, of two: 2/3. The difference of the means is (1/2 − 0.8)/2.
    overall = found[found["family"] == "overall"].set_index("estimand")
    assert overall["estimate_points"].tolist() == pytest.approx([-15, -15])
    assert (overall.loc[THESE_PROMPTS, ["low_points", "high_points"]] == overall.loc[THESE_PROMPTS, "estimate_points"]).all()
    # Two prompts can be swapped in four ways: as they are, and all of them, differ by as much; so at least half do.
    assert overall.loc[PROMPTS_LIKE_THESE, "p"] in (0.5, 1.0) and np.isnan(overall.loc[THESE_PROMPTS, "p"])
    emotions = found[found["family"] == "emotion"].set_index("of")["estimate_points"]
    assert emotions.to_dict() == {"joy": pytest.approx(-30), "sadness": pytest.approx(0)}
    without_test = found[found["family"].isin(["kind", "prompt"])]
    assert without_test["p"].isna().all() and set(without_test["of"]) == {"event", "note", "day"}


def test_holm_counts_the_tests_of_a_family(write_study):
    study = load_study(write_study("four", precisions=["fp32", "bf16", "int8", "nf4"]))
    found = comparison.differences(comparison.Compared(many(10, [r.id for r in study.runs()]), study), np.random.default_rng(0))
    overall = found[(found["family"] == "overall") & found["p"].notna()].sort_values("p")
    assert len(overall) == 3 and overall["p_holm"].iloc[0] == pytest.approx(min(3 * overall["p"].iloc[0], 1))
    assert found.loc[found["family"].eq("emotion"), "p_holm"].notna().sum() == 6


def test_sampled_once_is_not_estimable_for_these_prompts(write_study):
    sampled = {"generation": {"decoding": "sampled", "temperature": 0.7, "max_new_tokens": 8}}
    study = load_study(write_study("drawn", precisions=["fp32", "int8"], **sampled))
    compared = comparison.Compared(many(8, [run.id for run in study.runs()]), study)
    found = comparison.differences(compared, np.random.default_rng(0))
    these = found[(found["family"] == "overall") & (found["estimand"] == THESE_PROMPTS)]
    assert these["low_points"].isna().all()
    assert "not estimable: each text was drawn once" in words.differences(found, compared.greedy)
    hardly = found.assign(estimate_points=-0.04, low_points=-3.0, high_points=2.0)
    assert "+0.0 points of F1, 95 % interval -3.0 to +2.0" in words.differences(hardly, compared.greedy)


def test_a_baseline_that_is_not_judged_leaves_no_difference(study):
    texts = many(8, [study.runs()[1].id])
    found = comparison.differences(comparison.Compared(texts, study), np.random.default_rng(0))
    assert found.empty and "no difference to test" in words.differences(found, True)


def test_detectable_change_shrinks_with_prompts_and_names_its_price(write_study):
    study = load_study(write_study(precisions=["fp32", "int8"]))
    few, many_more = (
        comparison.detectable(comparison.Compared(many(prompts, [run.id for run in study.runs()]), study)).iloc[0]
        for prompts in (10, 160)
    )
    assert few["detectable_points"] > 2 * many_more["detectable_points"] > 0
    assert few["prompts_needed"] == pytest.approx(many_more["prompts_needed"], rel=0.6) and pd.isna(few["samples_needed"])
    said = words.detectable(pd.DataFrame([few]))
    assert f"{few['detectable_points']:.1f} points" in said and f"need {few['prompts_needed']} prompts" in said


def test_plan_says_once_what_all_models_have_in_common():
    rows = [("a", "int8", 29.3, 274), ("a", "nf4", 29.3, 274), ("b", "int8", 29.3, 274), ("b", "nf4", 272.0, pd.NA)]
    columns = ["model", "precision", "detectable_points", "prompts_needed"]
    same = {"against": "fp32", "engine": "transformers"}
    head, *lines = words.planned_power(pd.DataFrame(rows, columns=columns).assign(**same), "others")
    assert head.endswith("if prompts vary as in others:") and lines == [
        "each model: int8 against fp32: from 29 points; 5 points need 274 prompts",
        "a: nf4 against fp32: from 29 points; 5 points need 274 prompts",
        "b: nf4 against fp32: none, however large; 5 points need no number of prompts",
    ]


def test_plan_reckons_with_the_packaged_defaults_variance_where_there_are_no_texts(write_study):
    like_default = {"precisions": ["fp32", "int8"], "emotions": list(EMOTIONS), "prompts": "default"}
    found, of = comparison.foreseen(load_study(write_study(**like_default)))
    # 21.0 points between prompts, ten of them: the t test's 80 % power is at 0.996 standard deviations (tables: d = 1.0, n = 10).
    assert found["detectable_points"].tolist() == pytest.approx([21.0 * 0.996], rel=0.01) and "default" in of
    assert "int8 against fp32: from 21 points" in words.planned_power(found, of)[1]
    for other in ({"emotions": ["joy", "fear"]}, {"precisions": ["bf16", "int8"]}):
        unlike = load_study(write_study("unlike", **like_default | other))
        assert comparison.foreseen(unlike)[0].empty  # what varies there is not known


def test_the_packaged_variance_is_that_of_the_published_default():
    root = Path(__file__).parents[1]
    reference = yaml.safe_load((root / "affq" / "analysis" / "reference_variance.yaml").read_text(encoding="utf-8"))
    published = pd.read_csv(root / "reports" / "default" / "tables" / "power.csv").set_index("precision")["between_points"]
    assert published.round(1).to_dict() == reference["points"]


def test_ratios_by_hand(runs):
    found = costs.ratios(runs).set_index(["figure", "estimand"])
    assert found.loc[("weights", "exact"), ["estimate", "low", "high"]].tolist() == [0.25] * 3
    # The summary's peaks, 2500 of 5000: one reading of resident memory, which has no interval.
    assert found.loc[("peak", "one reading"), "estimate"] == pytest.approx(0.5) and np.isnan(
        found.loc[("peak", "one reading"), "low"]
    )
    # One prompt is timed, thrice: 1.5, 0.5 and 1 beside 3, 1 and 2 seconds. Each is half: no prompts to vary, nor rounds.
    latency = found.loc["latency"]
    assert latency["estimate"].tolist() == pytest.approx([0.5, 0.5]) and latency["low"].isna().all()
    assert latency.index.str.endswith("within one process").all()


def test_a_peak_that_the_allocator_counts_is_exact(runs, monkeypatch):
    for record in runs:
        found = record.measurements()
        found["memory"]["kind"] = "vram_allocated"
        monkeypatch.setattr(record, "measurements", lambda found=found: found)
    assert costs.ratios(runs).set_index("figure").loc["peak", ["estimate", "low", "high", "estimand"]].tolist() == [
        0.5,
        0.5,
        0.5,
        "exact",
    ]


def test_verdicts_join_claims_and_figures(runs, compared):
    found = claims.study_verdicts(compared, runs, summary_of(runs)).set_index("claim")
    assert found.loc["C1 weights", "verdict"] == "supported"  # 75 % saved, where 73 to 79 are claimed
    assert found.loc["C1 weights", "estimate"] == 0.75 and found.loc["C2", "verdict"] == "not testable here"
    assert found.loc["C4", ["verdict", "reason"]].tolist() == ["not testable here", "no_interval"]
    said = words.verdicts(found.reset_index())
    assert said.count("\n") == len(found) - 1 and "- **C1 weights: supported.** *int8 saves" in said
    assert "No model in this study has at least 13 B parameters" in said and "has no interval" in said


def test_choice_is_said_within_the_studys_budget_alone(runs):
    summary = summary_of(runs)
    assert words.choice(None, Budget()) == ""
    said = words.choice(choose.within_budget(summary, np.inf, 1.5), Budget(seconds_a_text=1.5))
    assert "take smollm2-135m at int8" in said.replace("&#45;", "-") and "runner" not in said


def test_share_interval_stays_between_0_and_1():
    values = np.zeros((10, 7))
    values[0, :3] = 1
    low, high = comparison.share_interval(values)
    assert low == 0 and 0 < high < 1
