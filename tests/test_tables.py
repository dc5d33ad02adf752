"""Tables from records written by hand: every expected figure is worked out beside it."""

import numpy as np
import pandas as pd
import pytest
from conftest import AS_MADE, LOAD, summary_of

from affq import files
from affq.analysis import comparison, costs, quality
from affq.analysis.summary import provenance
from affq.analysis.texts import confusion, emotion_f1, examples, join, side_by_side
from affq.report import charts, words
from affq.report.reading import for_reading
from affq.results import Failure, FailureKind, Status, software
from affq.results import record as records
from affq.study import load_study


def generation(prompt_id, emotion, text, ended=False):
    return {
        "prompt_id": prompt_id,
        "kind": "event",
        "emotion": emotion,
        "sample": 0,
        "prompt": f"<{emotion}>",
        "text": text,
        "new_tokens": 8,
        "ended": ended,
        **AS_MADE,
    }


def judged(generation, emotion):
    """Give the score of a generation that is judged to carry an emotion."""
    key = {name: generation[name] for name in ("prompt_id", "emotion", "sample")}
    return {**key, "judged_emotion": emotion, "probabilities": {"joy": 0.75, "sadness": 0.25}}


def write_run(record, judged, peaks, seconds, scale=1, more="", predicted=None, processes=1, **measured):
    """Write a complete, scored run: judged emotions of (note joy, note sadness, day joy, day sadness, note none, day none).

    measured: texts `alone` {(prompt, emotion): text}, `points` of throughput, `kernels`, `energy` by process.
    """
    texts = [generation(p, e, f"{record.run.precision} {p} {e}{more}") for e in ("joy", "sadness", None) for p in ("note", "day")]
    texts.sort(key=lambda g: (g["emotion"] is None, ["note", "day"].index(g["prompt_id"])))
    key = lambda g: {k: g[k] for k in ("prompt_id", "emotion", "sample")}  # noqa: E731
    hardware = {"device": "cpu", "device_name": "a processor", "threads": 2, "system": "a system"}
    record.start({"hardware": hardware, "weights_sha256": "f00", "predicted": predicted})
    record.append(texts, {"phases": {"decode": {"peak_bytes": peaks[2]}}})
    texts = [
        {"prompt_id": "note", "emotion": "joy", "sample": 0, "round": i, "ttft_s": 0.1 * s, "latency_s": s, "new_tokens": 8}
        for i, s in enumerate(seconds)
    ]
    tokens = [{"prompt_id": "note", "emotion": "joy", "sample": 0, "ttft_s": 0.2, "token_s": [0.1, 0.3]}]
    load = {"before": LOAD, "during": LOAD}
    one = {"warmup_s": [1.0], "steady": True, "rounds": len(seconds), "width": None, "stopped": "cap", "load": load}
    for process in range(1, processes + 1):
        read = {"energy": measured["energy"][process - 1]} if "energy" in measured else {}
        timed = [text | {"token_ids": [1] * 8} for text in texts]
        record.keep_pass(process, {**one, **read, "texts": timed, "tokens": tokens})
    names = ("load", "prefill", "decode", "resource")
    phases = {n: {"peak_bytes": b, "held_bytes": 1100 * scale} for n, b in zip(names, peaks, strict=True)}
    record.finish(
        {
            "model": {
                "class": "M",
                "attention": "sdpa",
                "compute_dtype": "float32",
                "kernels": "torch",
                "chat_template": "x",
                "ends": {},
            },
            "census": [{"role": "weight", "dtype": "x", "parameters": 1, "elements": 10, "bytes": 1000 * scale}],
            "memory": {"kind": "rss", "base_bytes": 7, "cache_bytes": 100, "phases": phases},
            "seconds": {"start_s": 1.0, "load_s": 2.0, "quality_s": 3.0, "resource_s": 4.0},
            "alone": [
                {"prompt_id": p, "emotion": e, "sample": 0, "text": text} for (p, e), text in measured.get("alone", {}).items()
            ],
            "throughput": {"stopped": "memory", "points": measured.get("points", [])},
            "kernels": measured.get("kernels", []),
        }
    )
    for judge in record.run.study.judges:
        record.score(
            judge.name,
            {},
            lambda gs: [
                {**key(g), "judged_emotion": e, "probabilities": {"joy": 0.75, "sadness": 0.25}}
                for g, e in zip(gs, judged, strict=True)
            ],
        )
    record.score(
        "rouge-references", {}, lambda gs: [{**key(g), "rouge1": 0.4, "rouge2": 0.2, "rougeL": 0.3} for g in gs if g["emotion"]]
    )


@pytest.fixture
def study(write_study):
    return load_study(write_study(precisions=["fp32", "bf16", "int8", "nf4"]))


PEAKS = (9000, 4500, 5000, 4000)  # loading, prefill, decode, single prompts
PREDICTED = {"weights_bytes": 4000, "kv_bytes": 300, "activation_bytes": 200, "peak_bytes": 4500}


@pytest.fixture
def runs(study, tmp_path):
    every = records.records(tmp_path / "results", study)
    fp32, bf16, int8, nf4 = every
    write_run(fp32, ["joy", "sadness", "joy", "joy", "joy", "none"], PEAKS, [3.0, 1.0, 2.0], 4, predicted=PREDICTED)
    peaks = (9000, 2000, 2400, 2500)
    write_run(bf16, ["joy", "sadness", "none", "sadness", "joy", "joy"], peaks, [1.0, 1.0, 4.0], scale=2)
    by = {"baseline": fp32.run.id, "generations_sha256": fp32.generations_sha256()}
    bf16.score(
        "rouge-baseline",
        by,
        lambda gs: [
            {"prompt_id": g["prompt_id"], "emotion": g["emotion"], "sample": 0, "rougeL": 0.5 if g["emotion"] else 0.9}
            for g in gs
        ],
    )
    int8.fail(Failure(FailureKind("out_of_memory"), "no room", "try nf4"))
    return every


@pytest.fixture
def summary(runs):
    return summary_of(runs)


def test_summary_has_the_published_columns(summary):
    assert ",".join(summary.columns) == (
        "run_id,study,model,precision,engine,weights,status,device,stored_dtype,compute_dtype,texts,emotion_f1_chance,"
        "emotion_f1,emotion_f1_low,emotion_f1_high,emotion_f1_masked,emotion_f1_masked_low,emotion_f1_masked_high,"
        "names_target,names_target_low,names_target_high,rouge1,rouge1_low,rouge1_high,rouge2,rouge2_low,rouge2_high,"
        "rougeL,rougeL_low,rougeL_high,rougeL_to_baseline,rougeL_to_baseline_low,rougeL_to_baseline_high,"
        "weights_bytes,peak_bytes,peak_kind,ttft_s,token_s,latency_s,latency_low_s,latency_high_s,joules_a_text,"
        "failure,changed,disturbed,stale_scores,note"
    )


def test_failed_and_missing_runs_stay_in_the_table_with_their_reason(summary):
    assert list(summary["status"]) == ["ok", "ok", "failed", "missing"]
    failed = summary.iloc[2]
    assert failed["note"] == "out_of_memory: no room; try nf4" and failed["precision"] == "int8"
    assert summary["failure"].fillna("").tolist() == ["", "", FailureKind.OUT_OF_MEMORY, ""]
    assert summary.iloc[2:][["texts", "emotion_f1", "weights_bytes", "latency_s"]].isna().all(axis=None)


def test_emotion_f1_by_hand_leaves_the_control_out(summary):
    # fp32: joy judged 3 times, 2 right of 2 asked: precision 2/3, recall 1, F1 0.8; sadness judged once, right, of 2: F1 2/3.
    # bf16: joy once, right, of 2: 2/3; sadness twice, right, of 2: 1. A `none` is wrong.
    assert summary["emotion_f1"][0] == pytest.approx((0.8 + 2 / 3) / 2)
    assert summary["emotion_f1"][1] == pytest.approx((2 / 3 + 1) / 2)
    assert list(summary["texts"][:2]) == [4, 4]


def test_f1_with_emotion_words_masked_and_the_share_of_texts_that_name_their_target(runs):
    emotions = iter(["joy"] * 6)
    runs[0].score("minilm-lora-masked", {}, lambda rows: [judged(row, next(emotions)) for row in rows], [*runs[0].generations()])
    summary = summary_of(runs)
    # All judged joy once the words are masked: joy 2/3, sadness 0. Every text here has its emotion's own name in it.
    assert summary["emotion_f1_masked"][0] == pytest.approx(1 / 3) and list(summary["names_target"][:2]) == [1.0, 1.0]
    assert pd.isna(summary["emotion_f1_masked"][1])  # not scored yet


def test_memory_has_what_was_predicted_beside_what_was_measured(runs):
    fp32, bf16 = costs.memory(runs).to_dict("records")
    assert (fp32["weights_bytes"], fp32["decode_peak_bytes"], fp32["base_bytes"]) == (4000, 5000, 7)
    assert {name: fp32[f"predicted_{name}"] for name in PREDICTED} == PREDICTED
    assert pd.isna(bf16["predicted_peak_bytes"])  # its configuration said too little


def test_latencies_are_medians_and_a_further_token_is_what_the_first_leaves(summary):
    # 8 tokens: a text of 2 s whose first token took 0.2 s leaves 1.8 s for 7 tokens.
    row = summary.iloc[0]
    assert (row["latency_s"], row["ttft_s"], row["token_s"]) == pytest.approx((2.0, 0.2, 1.8 / 7))


def test_peak_is_the_highest_while_generating_not_while_loading(summary):
    assert list(summary["peak_bytes"][:2]) == [5000, 2500] and list(summary["weights_bytes"][:2]) == [4000, 2000]


def test_rouge_to_baseline_is_empty_for_the_baseline_and_leaves_the_control_out(summary):
    assert pd.isna(summary["rougeL_to_baseline"][0]) and summary["note"][0] == ""
    assert summary["rougeL_to_baseline"][1] == pytest.approx(0.5) and summary["rougeL"][1] == pytest.approx(0.3)


def test_without_its_baseline_a_run_has_no_paired_figure_and_says_so(runs):
    (runs[0].folder / "done.json").unlink()
    runs[0].fail(Failure(FailureKind("kernel_died"), "gone"))
    row = summary_of(runs).iloc[1]
    assert pd.isna(row["rougeL_to_baseline"]) and row["note"] == "no paired figures: the baseline fp32 is failed"


def test_what_changed_since_a_run_was_made_is_a_column_and_in_the_note(runs):
    about = files.read_json(runs[0].folder / "run.json", "")
    about["software"]["versions"]["torch"] = "2.0"
    files.write_json(runs[0].folder / "run.json", about)
    hashes = {name: files.sha256_of(runs[0].folder / name) for name in records.RECORDS}
    files.write_json(runs[0].folder / "done.json", files.sealed(b"", hashes))
    row = summary_of(runs).iloc[0]
    assert row["status"] == Status.STALE and row["latency_s"] == 2.0
    assert row["changed"] == f"torch 2.0 → {software()['versions']['torch']}" == row["note"]


def test_unscored_run_has_its_measurements_and_says_that_it_is_not_scored(runs):
    import shutil

    shutil.rmtree(runs[0]._scores_folder)
    row = summary_of(runs).iloc[0]
    assert row["note"] == "not scored" and pd.isna(row["emotion_f1"]) and row["latency_s"] == 2.0
    assert set(emotion_f1(join(runs), ["joy", "sadness"])["precision"]) == {"bf16"}


def test_scores_against_an_earlier_baseline_are_not_shown(runs):
    write_run(runs[0], ["joy"] * 6, (1, 1, 1, 1), [1.0], more=" too")
    assert pd.isna(summary_of(runs)["rougeL_to_baseline"][1])


def test_unknown_peaks_are_empty_not_zero_and_leave_the_report_whole(runs):
    for record in runs[:2]:
        write_run(record, ["joy"] * 6, 4 * ("unknown",), [1.0], scale=4)
    summary = summary_of(runs)
    assert summary["peak_bytes"].isna().all() and summary["peak_kind"].isna().all()
    assert summary["note"][0] == "peak unknown: this system reports none that can be reset"
    assert "unknown" in charts.f1_against_cost(summary).get_xlabel()
    memory, parts = costs.memory(runs), costs.memory_parts(runs)
    assert memory["decode_peak_bytes"].isna().all() and "unknown" in [c.cells[0] for c in for_reading(memory, empty="unknown")]
    # What is known is drawn: weights and cache.
    assert [bars[0].get_width() for bars in charts.memory(parts, memory).containers[:2]] == pytest.approx([0.004, 0.0001])
    assert "does not report it" in words.memory(summary)


def test_texts_carry_prompt_judged_emotion_and_scores(runs):
    texts = join(runs)
    assert len(texts) == 12
    control = texts[texts["emotion"].isna()]
    assert list(control["judged_emotion"]) == ["joy", "none", "joy", "joy"] and control["target_probability"].isna().all()
    first = texts.iloc[0]
    assert (first["text"], first["prompt"], first["judged_emotion"]) == ("fp32 note joy", "<joy>", "joy")
    assert (first["target_probability"], first["rouge1"], first["kind"]) == (0.75, 0.4, "event")


def test_confusion_counts_asked_by_judged_with_the_control_last(runs):
    counts = confusion(join(runs), ["joy", "sadness"])
    fp32 = counts[counts["precision"] == "fp32"]
    assert fp32[["asked", "joy", "sadness", "none"]].values.tolist() == [
        ["joy", 2, 0, 0],
        ["sadness", 1, 1, 0],
        ["no emotion", 1, 0, 1],
    ]


def test_side_by_side_puts_precisions_beside_each_other(runs):
    wide = side_by_side(join(runs), "joy")
    assert list(wide.columns) == ["prompt", "fp32", "bf16"]
    assert wide.iloc[1].tolist() == ["day", "[joy] fp32 day joy", "[none] bf16 day joy"]


def test_side_by_side_shows_the_first_of_several_samples(runs):
    texts = join(runs)
    second = texts.assign(sample=1, text="another draw")
    both = pd.concat([texts, second], ignore_index=True).sort_values(["run_id", "prompt_id", "sample"])
    assert "another draw" not in side_by_side(both, "joy").to_string()


def test_scores_of_other_code_are_noted_with_the_scorers_they_are_of(runs, monkeypatch):
    monkeypatch.setattr("affq.results.scores.scoring", lambda: {"versions": {}, "code_digest": "other"})
    notes = summary_of(runs).set_index("precision")["note"]
    why = "scores of other code or versions, which affq score makes again: minilm-lora, minilm-goemotions, rouge-references"
    assert why in notes["bf16"] and "scores of other" not in notes["int8"]


def test_provenance_says_which_runs_share_a_value(runs):
    found = provenance(runs).set_index("field")
    assert found.loc["threads"].tolist() == ["2", "all"] and found.loc["judges", "value"] == "minilm-lora, minilm-goemotions"
    assert list(found.loc[["precision"], "runs"]) == ["smollm2-135m fp32", "smollm2-135m bf16"]
    assert found.loc["rouge-references code_digest", "runs"] == "all" and "cuda" not in found.index


def test_time_spent_adds_up(runs):
    row = costs.time_spent(runs).iloc[0]
    assert row["total_s"] == pytest.approx(1 + 2 + 3 + 4 + row["scoring_s"]) and row["scoring_s"] > 0


def test_for_reading_gives_units_and_leaves_the_empty_empty():
    frame = pd.DataFrame(
        {"peak_bytes": [1_500_000, None], "latency_s": [0.12345, None], "emotion_f1": [0.456, None], "note": ["", "x"]}
    )
    shown = {column.title: column.cells for column in for_reading(frame)}
    assert shown == {"peak (MB)": ["1.5", ""], "latency (s)": ["0.123", ""], "emotion F1": ["0.46", ""], "note": ["", "x"]}
    assert [column.cells[1] for column in for_reading(frame, empty="unknown")] == ["unknown", "unknown", "unknown", "x"]
    seconds = pd.DataFrame({"latency_s": [2.0, 0.00123, 123.4], "tokens_per_s": [1.0, 22.25, 3.0]})
    assert {column.title: column.cells for column in for_reading(seconds)} == {
        "latency (s)": ["2.00", "0.00123", "123"],
        "tokens per s": ["1.00", "22.25", "3.00"],
    }


def test_every_chart_draws_what_the_tables_give(runs, summary, study):
    texts = join(runs)
    bars = charts.f1_by_precision(summary)
    widths = [bar.get_width() for bar in bars.patches]
    assert widths == pytest.approx(list(summary["emotion_f1"][:2]))
    points = charts.f1_against_cost(summary).collections[-1].get_offsets()
    assert points[1].tolist() == pytest.approx([0.005, summary["emotion_f1"][0]])  # by cost: fp32 takes the most
    assert [t.get_text() for t in charts.f1_by_emotion(emotion_f1(texts, study.emotions)).texts] == [
        "0.80",
        "0.67",
        "0.67",
        "1.00",
    ]
    assert [t.get_text() for t in charts.judged_control(texts, study.emotions).texts] == ["50%", "0%", "50%", "100%", "0%", "0%"]
    bars = charts.memory(costs.memory_parts(runs), costs.memory(runs))
    assert "MB" in bars.get_xlabel() and [t.get_text() for t in bars.texts] == ["0", "0"]  # of kilobytes
    assert [bar.get_width() for bar in bars.containers[0]] == pytest.approx([0.004, 0.002])
    assert "8 tokens" in charts.latency(costs.latency(runs), summary).get_xlabel()


def test_words_are_written_from_the_figures(runs, summary, study):
    differences = comparison.differences(comparison.Compared(join(runs), study), np.random.default_rng(0))
    said = words.headline(summary, differences)
    # From fp32 to bf16: 4000 to 2000 bytes, F1 0.73 to 0.83, 2 s to 1 s.
    assert "2 of 4 runs are complete" in said
    assert "no comparison, since nf4 is not complete" in said  # another precision never takes its place
    said = words.headline(summary[:2], differences)
    assert "takes 50% less memory for its weights than at fp32" in said and "0.50 times the time" in said
    # Two prompts are too few for an interval: no points are said.
    assert "runs are complete" not in said and "F1 is 0.83 where fp32 has 0.73; shuffled targets would give 0.42" in said
    assert words.shown(summary, "latency_s", " s") == "latency: fp32 2.00 s, bf16 1.00 s"
    texts = join(runs)
    caveats = words.caveats(study, summary, texts, quality.batch_effect(runs, texts))
    assert (
        "were published as q4_1, 4 bits a weight" in caveats
        and "cut at 8 tokens are judged as they stand: 100% of a run's texts" in caveats
    )
    assert "count as wrong: 0% to 25% of a run's texts" in caveats  # bf16: one `none` of the four that were asked
    assert "resident memory" in words.memory(summary)


def test_thoughts_and_made_up_turns_are_said_where_there_are_any(runs, summary, study):
    texts = join(runs)
    effect = quality.batch_effect(runs, texts)
    without = words.caveats(study, summary, texts, effect)
    assert "thought" not in without and "turn of the user" not in without
    first = (texts["precision"] == "fp32") & texts["emotion"].notna()
    texts.loc[first, "thought_tokens"] = [0, 4, 6, 2]
    texts.loc[texts["emotion"].isna(), ["thought_tokens", "opens_turn"]] = [99, True]  # the control counts nowhere
    texts.loc[texts.index[first][:1], "opens_turn"] = True
    said = words.caveats(study, summary, texts, effect)
    assert "among the 8 tokens that a text may have: 0 to 3 of these on a run's average" in said  # 12 of four texts
    assert "judged as they stand: 0% to 25% of a run's texts" in said


def test_run_keeps_its_rouge_where_some_texts_have_none(runs, study):
    """Two texts without a word have no ROUGE against each other; the mean is over the others."""
    texts = join(runs)
    texts.loc[texts["emotion"].notna(), "rougeL_to_baseline"] = 4 * [0.5] + 4 * [np.nan]
    texts.loc[texts.index[texts["emotion"].notna()][:2], "rougeL_to_baseline"] = [np.nan, 0.8]
    compared = comparison.Compared(texts, study)
    first, second = (run.id for run in compared.runs)
    assert compared.figure(first, "rougeL_to_baseline")[0] == pytest.approx((0.8 + 0.5 + 0.5) / 3)
    assert compared.has(first, "rougeL_to_baseline") and not compared.has(second, "rougeL_to_baseline")


def test_example_texts_are_chosen_by_the_rule(runs):
    texts = join(runs)
    asked = texts["emotion"].notna()
    # Probabilities of the two runs' four texts each; the third request's lie furthest apart: 0.1 and 0.9.
    texts.loc[asked, "target_probability"] = [0.5, 0.6, 0.1, 0.7, 0.5, 0.2, 0.9, 0.4]
    found = examples(texts)
    assert found["why"].tolist() == ["surest", "least sure"] * 2 + ["differs most: highest", "differs most: lowest"]
    assert found["target_probability"].tolist() == [0.7, 0.1, 0.9, 0.2, 0.9, 0.1]
    assert found["precision"].tolist() == ["fp32", "fp32", "bf16", "bf16", "bf16", "fp32"]
    assert found["text"].tolist()[:2] == ["fp32 day sadness", "fp32 day joy"]


def test_how_to_make_it_again_names_no_folder(runs, study):
    said = words.reproduce(study, runs)
    assert "affq run toy.yaml\naffq report toy.yaml" in said and "/" not in said
