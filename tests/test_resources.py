"""Frames of what runs cost, from records written by hand: every expected figure is worked out beside it."""

import numpy as np
import pandas as pd
import pytest
from conftest import summary_of
from test_tables import LOAD, PEAKS, write_run

from affq.analysis import costs, quality
from affq.analysis.texts import join
from affq.inference import kernels
from affq.report import charts, words
from affq.results import record as records
from affq.study import load_study

JUDGED = ["joy", "sadness", "joy", "joy", "joy", "none"]


@pytest.fixture
def study(write_study):
    return load_study(write_study(precisions=["fp32", "int8"]))


@pytest.fixture
def runs(study, tmp_path):
    return records.records(tmp_path / "results", study)


def test_statistics_of_one_process_by_hand(runs):
    # Ten texts of 1 to 10 s: median 5.5, interval from the 2nd to the 9th, 10th percentile 1.9 and 90th 9.1, too few for a 99th.
    write_run(runs[0], JUDGED, PEAKS, [float(s) for s in range(1, 11)])
    found = costs.latency_statistics(runs).set_index("reading")
    row = found.loc["latency_s"]
    assert (row["n"], row["median_s"], row["low_s"], row["high_s"]) == (10, 5.5, 2.0, 9.0)
    assert (row["p10_s"], row["p90_s"]) == pytest.approx((1.9, 9.1)) and pd.isna(row["p99_s"])
    assert (row["interval"], row["stopped"], row["processes"]) == ("within-process", "cap", 1)
    assert found.loc["ttft_s", "median_s"] == pytest.approx(0.55)
    # Two tokens behind the first, 0.1 and 0.3 s: no interval, since tokens of one text are not independent.
    assert found.loc["single_token_s", "median_s"] == pytest.approx(0.2) and pd.isna(found.loc["single_token_s", "low_s"])


def test_several_processes_give_the_mean_of_their_medians_and_an_interval_between_them(runs):
    write_run(runs[0], JUDGED, PEAKS, [1.0, 2.0, 3.0], processes=3)
    row = costs.latency_statistics(runs).set_index("reading").loc["latency_s"]
    assert (row["n"], row["median_s"], row["interval"]) == (9, 2.0, "between processes")
    assert (row["low_s"], row["high_s"]) == (2.0, 2.0)  # three processes that agree to the last digit
    summary = summary_of(runs)
    assert (summary["latency_low_s"][0], summary["latency_high_s"][0]) == (2.0, 2.0)


def test_too_few_texts_have_a_median_and_no_interval(runs):
    write_run(runs[0], JUDGED, PEAKS, [1.0, 2.0])
    row = costs.latency_statistics(runs).set_index("reading").loc["latency_s"]
    assert row["median_s"] == 1.5 and np.isnan(row["low_s"]) and row["interval"] is None
    statistics = costs.latency_statistics(runs)
    assert "fewer than six texts" in words.latency(statistics, 0.03) and "until the interval" in words.latency(statistics, 0.03)
    assert "All texts that the study asks for were timed." in words.latency(statistics, None)


def test_memory_at_decode_is_split_by_hand(runs):
    # Peak 5000: 4000 of weights, 100 of cache; 4400 stay afterwards, so 400 are the rest, and 500 were activations.
    write_run(runs[0], JUDGED, PEAKS, [1.0], scale=4)
    (row,) = costs.memory_parts(runs).to_dict("records")
    assert {name: value for name, value in row.items() if name.endswith("bytes")} == {
        "weights_bytes": 4000, "cache_bytes": 100, "activations_bytes": 500, "rest_bytes": 400, "peak_bytes": 5000
    }  # fmt: skip


def test_rest_of_a_gpu_is_what_the_device_holds_beyond_the_allocators_peak(runs, monkeypatch):
    write_run(runs[0], JUDGED, PEAKS, [1.0], scale=4)
    found = runs[0].measurements()
    found["memory"]["base_device_used_bytes"] = 1000
    found["memory"]["phases"]["decode"] |= {"held_bytes": 4000, "device_used_bytes": 7500}
    monkeypatch.setattr(runs[0], "measurements", lambda: found)
    (row,) = costs.memory_parts(runs[:1]).to_dict("records")
    # The device holds 6500 more than before, 1500 beyond the peak of 5000; of that 4000 are weights, 100 cache.
    assert (row["activations_bytes"], row["rest_bytes"]) == (900, 1500)


def test_keys_and_values_that_an_engine_keeps_are_counted_once(runs, monkeypatch):
    write_run(runs[0], JUDGED, PEAKS, [1.0], scale=4)
    found = runs[0].measurements()
    found["memory"]["phases"]["decode"] |= {"held_bytes": 5000}
    monkeypatch.setattr(runs[0], "measurements", lambda: found)
    (row,) = costs.memory_parts(runs[:1]).to_dict("records")
    # All of the peak stays: 4000 of weights, 100 of cache, and 900 beside them.
    assert (row["activations_bytes"], row["rest_bytes"], row["peak_bytes"]) == (0, 900, 5000)


POINTS = [
    {"batch": 1, "seconds": [2.0, 2.5, 1.0], "new_tokens": 8, "peak_bytes": 100, "held_bytes": 50},
    {"batch": 4, "seconds": [4.0, 4.0, 4.0], "new_tokens": 8, "peak_bytes": "unknown", "held_bytes": 50},
]


def test_throughput_by_hand(runs):
    write_run(runs[0], JUDGED, PEAKS, [1.0], points=POINTS)
    one, four = costs.throughput(runs).to_dict("records")
    assert (one["texts_per_s"], one["tokens_per_s"], one["slowest_s"], one["fastest_s"]) == (0.5, 4.0, 2.5, 1.0)
    assert (four["texts_per_s"], four["tokens_per_s"]) == (1.0, 8.0) and pd.isna(four["peak_bytes"])
    said = words.throughput(costs.throughput(runs))
    assert "8 tokens a second at 4 texts at once (about the largest that memory holds), 2.0 times as many as one by one" in said
    assert [list(line.get_ydata()) for line in charts.throughput(costs.throughput(runs)).lines[:1]] == [[4.0, 8.0]]


def energy_of(joules, why=None):
    """Give the energy of ten texts of 8 tokens in 20 s, by two counters, which take 10 W and 2 W at rest."""
    if why:
        return {"why": str(why), "detail": "", "rest": None, "used": None, "texts": 10, "new_tokens": 80}
    rest, used = ({"seconds": s, "joules": j} for s, j in ((2.0, {"cpu0": 20.0, "dram0": 4.0}), (20.0, joules)))
    return {"why": None, "detail": "", "rest": rest, "used": used, "texts": 10, "new_tokens": 80}


def test_energy_by_hand(runs):
    # 720 + 80 J in 20 s, of which 12 W at rest are 240 J: 560 J for ten texts of 80 tokens together.
    write_run(runs[0], JUDGED, PEAKS, [1.0], energy=[energy_of({"cpu0": 720.0, "dram0": 80.0})])
    (row,) = costs.energy(runs).to_dict("records")
    assert (row["metered"], row["texts"], row["seconds"], row["joules"]) == ("cpu0, dram0", 10, 20.0, 800.0)
    assert (row["rest_watts"], row["joules_a_text"], row["joules_a_token"], row["gross_joules_a_text"]) == (12, 56, 7, 80)
    assert row["interval"] is None and pd.isna(row["joules_a_text_low"]) and row["unknown"] is None
    assert summary_of(runs)["joules_a_text"][0] == 56
    said = words.energy(costs.energy(runs))
    assert said.startswith("Read from the counters of *cpu0, dram0*, while") and said.endswith("It is one reading a run.")


def test_energy_is_a_multiple_of_the_baselines_where_both_are_known(runs):
    write_run(runs[0], JUDGED, PEAKS, [1.0], energy=[energy_of({"cpu0": 720.0, "dram0": 80.0})])  # 56 J a text
    write_run(runs[1], JUDGED, PEAKS, [1.0], energy=[energy_of({"cpu0": 440.0, "dram0": 80.0})])  # 28
    (row,) = costs.ratios(runs).query("figure == 'energy'").to_dict("records")
    assert (row["estimate"], row["estimand"], row["against"]) == (0.5, "one reading", "fp32") and pd.isna(row["low"])


def test_energy_of_several_processes_is_their_mean_with_the_interval_between_them(runs):
    # 50, 56 and 62 J a text: 56, and a standard error of 6 / sqrt(3), times 4.303 (Student's t, two degrees of freedom).
    each = [energy_of({"cpu0": joules, "dram0": 80.0}) for joules in (660.0, 720.0, 780.0)]
    write_run(runs[0], JUDGED, PEAKS, [1.0], processes=3, energy=each)
    (row,) = costs.energy(runs).to_dict("records")
    assert (row["joules_a_text"], row["texts"], row["joules"], row["joules_a_token"]) == (56, 30, 2400, 7)
    assert (row["joules_a_text_low"], row["joules_a_text_high"]) == pytest.approx((41.09, 70.91), abs=0.01)
    assert words.energy(costs.energy(runs)).endswith("Intervals are the spread between fresh processes.")


def test_energy_that_is_not_more_than_at_rest_is_unknown_and_not_below_zero(runs):
    # 12 W at rest are 240 J in 20 s: of three processes one took less.
    each = [energy_of({"cpu0": joules, "dram0": 80.0}) for joules in (660.0, 150.0, 780.0)]
    write_run(runs[0], JUDGED, PEAKS, [1.0], processes=3, energy=each)
    (row,) = costs.energy(runs).to_dict("records")
    assert row["unknown"] == "drowned" and pd.isna(row["joules_a_text"])


def test_energy_that_is_unknown_is_empty_and_says_why(runs):
    write_run(runs[0], JUDGED, PEAKS, [1.0], processes=2, energy=[energy_of({"cpu0": 720.0}), energy_of({}, "no_counter")])
    write_run(runs[1], JUDGED, PEAKS, [1.0])  # by an affq that read none
    found = costs.energy(runs)
    assert list(found["unknown"]) == ["no_counter", "not_read"]
    assert found[["joules_a_text", "joules", "texts", "rest_watts"]].isna().all(axis=None)
    assert summary_of(runs)["joules_a_text"].isna().all()
    assert words.energy(found) == (
        "Energy is unknown in 1 of 2 runs: zeus finds no counter of energy here (a machine that is not virtual has one, in most "
        "cases). Energy is unknown in 1 of 2 runs: the affq that made the run did not read it (affq run --force makes the run "
        "again)."
    )
    assert "energy" not in set(costs.ratios(runs)["figure"])
    assert words.energy(found[:1]).startswith("Energy is unknown: zeus finds no counter")


def test_study_without_throughput_or_profile_has_empty_frames(runs):
    write_run(runs[0], JUDGED, PEAKS, [1.0])
    assert costs.throughput(runs).empty


def test_kernels_have_their_share_of_their_phase(runs):
    profiled = [
        {"phase": "prefill", "group": kernels.PLAIN, "kernel": "a", "calls": 1, "seconds": 3.0},
        {"phase": "decode", "group": kernels.QUANTIZED, "kernel": "b", "calls": 7, "seconds": 1.5},
        {"phase": "decode", "group": kernels.ACTIVATIONS, "kernel": "c", "calls": 7, "seconds": 0.5},
    ]
    write_run(runs[0], JUDGED, PEAKS, [1.0], kernels=profiled)
    found = costs.kernels(runs)
    assert list(found["share"]) == [1.0, 0.75, 0.25]
    assert words.kernels(found).endswith("decode: quantized products 75%, quantizing activations 25%")
    assert list(costs.largest_kernels(found, 1)["kernel"]) == ["a", "b"]
    bars = charts.kernels(found)
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in bars.containers}
    assert widths[kernels.QUANTIZED] == [0.0, 75.0] and widths[kernels.PLAIN] == [100.0, 0.0]


ALONE = {
    ("note", "joy"): "fp32 note joy",
    ("note", "sadness"): "other",
    ("day", "joy"): "fp32 day joy",
    ("day", "sadness"): "else",
}


def test_batch_effect_by_hand_beside_the_precisions(runs):
    fp32, int8 = runs
    write_run(fp32, JUDGED, PEAKS, [1.0], alone=ALONE)
    write_run(int8, JUDGED, PEAKS, [1.0], alone={("note", "joy"): "int8 note joy", ("day", "joy"): None})
    texts = join(runs)
    rows = quality.batch_effect(runs, texts).to_dict("records")
    # fp32: two of four read otherwise. int8: one text was whole, the same as in the batch, and is not the baseline's.
    assert (rows[0]["timed"], rows[0]["asked"], rows[0]["changed"]) == (4, 4, 0.5) and np.isnan(rows[0]["changed_by_precision"])
    assert (rows[1]["timed"], rows[1]["changed"], rows[1]["changed_by_precision"]) == (1, 0.0, 1.0)
    assert np.isnan(rows[1]["f1_alone"])  # not all were timed


def test_f1_alone_is_there_where_all_were_timed_and_a_batch_that_weighs_is_warned_of(runs):
    fp32, int8 = runs
    write_run(fp32, JUDGED, PEAKS, [1.0])
    write_run(int8, ["joy", "sadness", "joy", "sadness", "joy", "joy"], PEAKS, [1.0], alone=ALONE)
    alone = [
        {"prompt_id": p, "emotion": e, "sample": 0, "judged_emotion": judged, "probabilities": {}}
        for (p, e), judged in zip(ALONE, ["joy", "joy", "joy", "joy"], strict=True)
    ]
    int8.score("minilm-lora-alone", {}, lambda rows: alone, int8.alone())
    effect = quality.batch_effect(runs, join(runs))
    row = effect.to_dict("records")[1]
    # Alone, all judged joy: F1 of joy 2/3, of sadness 0. In the batch all are right. The baseline's: (0.8 + 2/3) / 2.
    assert (row["f1_alone"], row["f1"], row["f1_baseline"]) == pytest.approx((1 / 3, 1.0, (0.8 + 2 / 3) / 2))
    # All four texts read otherwise alone, and all four differ from the baseline's: 100 % beside 100 %; F1 0.67 beside 0.27.
    said = list(words.batch(effect))
    assert "of 4 timed prompts of 4, 100% of a run's texts differ between batch 1 and the study's batch of 2" in said[0]
    assert (
        "int8: batching changes the texts about as much as the precision does" in said[1]
        and "the batch changes 100% of these texts, the precision 100%" in said[1]
    )
    assert "F1 is 0.33 alone and 1.00 in the batch; the baseline's is 0.73" in said[1]


def test_batch_that_changes_little_is_not_warned_of(runs):
    fp32, int8 = runs
    write_run(fp32, JUDGED, PEAKS, [1.0])
    same = {(p, e): f"int8 {p} {e}" for p, e in ALONE}
    write_run(int8, JUDGED, PEAKS, [1.0], alone=same)
    said = list(words.batch(quality.batch_effect(runs, join(runs))))
    assert len(said) == 1 and "0% of a run's texts differ" in said[0]


def test_disturbed_measurement_is_said_in_its_row_and_first_of_the_caveats(runs, study, monkeypatch):
    write_run(runs[0], JUDGED, PEAKS, [1.0])
    quiet = runs[0].measurements()
    assert summary_of(runs)["disturbed"][0] == ""
    quiet["passes"][0]["load"] = {"before": LOAD, "during": LOAD | {"other_processors": 0.8}}
    monkeypatch.setattr(runs[0], "measurements", lambda: quiet)
    texts = join(runs)
    summary = summary_of(runs)
    assert summary["disturbed"][0] == "other processes took 0.8 processors during"
    assert summary["note"][0] == "measurement disturbed: other processes took 0.8 processors during"
    caveats = words.caveats(study, summary, texts, quality.batch_effect(runs, texts))
    assert caveats.startswith("- **The measurement of smollm2-135m at fp32 was disturbed**")
    assert caveats.count("was disturbed") == 1  # int8 was not measured
    assert "other processes took 0" in caveats.splitlines()[0]
    assert costs.load(runs)["other_processors"].tolist() == [0.01, 0.8]
