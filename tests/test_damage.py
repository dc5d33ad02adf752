"""Records that were changed and sealed again, folders in the place of files, runs under another's name: none is believed."""

import copy
import errno
import json
import random
import shutil

import pytest
from conftest import complete, judgements, said_of, seal
from test_tables import PEAKS, write_run

import affq
from affq import files
from affq.errors import InputError
from affq.report import words
from affq.results import keep_note, kept_notes, reported_before
from affq.results import record as records
from affq.study import load_study

FRAMES = (
    "summary texts intervals differences text_quality batch_effect memory memory_parts census latency_statistics load".split()
)
FRAMES += "kernels throughput ratios time_spent claims by_judge between_judges provenance smallest_change".split()


@pytest.fixture
def runs(write_study, tmp_path):
    study = load_study(write_study(precisions=["fp32", "bf16", "int8"]))
    return records.records(tmp_path / "results", study)


@pytest.fixture
def written(runs):
    """Three complete, scored runs."""
    for record in runs:
        write_run(record, ["joy", "sadness", "joy", "joy", "joy", "none"], PEAKS, [3.0, 1.0, 2.0])
    return runs


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def change_line(path, edit):
    first, *rest = path.read_text().split("\n")
    row = json.loads(first)
    edit(row)
    path.write_text("\n".join([json.dumps(row), *rest]))


@pytest.mark.parametrize(
    "edit, said",
    [
        (lambda row: row.update(emotion=7), "generations.jsonl, line 1 is damaged (emotion: input should be a valid string)"),
        (
            lambda row: row.update(prompt_id=""),
            "generations.jsonl lacks 1 of the texts that the study asks for, and has 1 others",
        ),
        (lambda row: row.update(sample=10**12), "generations.jsonl lacks 1 of the texts"),
        (lambda row: row.update(text=None), "generations.jsonl, line 1 is damaged (text: input should be a valid string)"),
        (lambda row: row.pop("ended"), "generations.jsonl, line 1 is damaged (it has no ended)"),
    ],
)
def test_text_with_a_right_seal_and_wrong_values_is_a_damaged_run(runs, edit, said):
    change_line(complete(runs[0]).folder / "generations.jsonl", edit)
    seal(runs[0])
    status, note = said_of(runs[0])
    assert status == "failed" and note.startswith(f"damaged: {said}") and runs[0].failure().again


@pytest.mark.parametrize(
    "edit, said",
    [
        (lambda m: m["passes"][0]["texts"][0].update(latency_s="long"), "passes → 0 → texts → 0 → latency_s: input should be a"),
        (lambda m: m["passes"][0]["texts"][0].update(latency_s=float("nan")), "latency_s: input should be a finite number"),
        (lambda m: m["passes"][0]["texts"][0].update(latency_s=-1), "latency_s: input should be greater than 0"),
        (lambda m: m["passes"][0]["texts"][0].update(prompt_id="other"), "has timed a text that the study does not ask for"),
        (lambda m: m.update(passes=[]), "passes: list should have at least 1 item"),
        (lambda m: m["memory"]["phases"].pop("decode"), "it has no memory → phases → decode"),
        (lambda m: m["memory"]["phases"]["decode"].update(peak_bytes=[1]), "peak_bytes"),
        (lambda m: m["memory"].update(cache_bytes=10**30), "memory → cache_bytes → constrained-int: input should be less than"),
        (lambda m: m.update(census=[{"bytes": "many"}]), "it has no census → 0 → role"),
    ],
)
def test_reading_with_a_right_seal_and_a_wrong_value_is_a_damaged_run(runs, edit, said):
    change(complete(runs[0]).folder / "measurements.json", edit)
    seal(runs[0])
    status, note = said_of(runs[0])
    assert status == "failed" and note.startswith("damaged: measurements.json") and said in note


@pytest.mark.parametrize("name", ["run.json", "generations.jsonl", "batches.jsonl", "measurements.json", "done.json"])
def test_folder_in_the_place_of_a_record_is_damage_that_the_next_attempt_sets_aside(runs, name):
    (complete(runs[0]).folder / name).unlink()
    (runs[0].folder / name).mkdir()
    status, note = said_of(runs[0])
    assert status == "failed" and note.startswith(f"damaged: {name}")
    runs[0].set_aside(texts=True)
    assert said_of(complete(runs[0])) == ("ok", "")


def test_folder_of_a_failed_run_in_the_place_of_its_failure(runs):
    (runs[0].folder / "failed.json").mkdir(parents=True)
    assert said_of(runs[0]) == ("failed", "damaged: failed.json cannot be read")


def test_run_under_another_runs_name_is_not_that_run(runs):
    fp32, bf16, _ = map(complete, runs)
    other = fp32.folder.with_name("aside")
    fp32.folder.rename(other)
    bf16.folder.rename(fp32.folder)
    other.rename(bf16.folder)
    assert said_of(fp32) == ("failed", f"damaged: run.json is that of another run, {bf16.run.id!r}")
    assert said_of(bf16)[0] == "failed"
    (fp32.folder / "done.json").unlink()
    assert said_of(fp32) == ("partial", "0 of 6 texts kept: its run.json is that of another run")


def test_run_whose_settings_were_changed_under_its_own_name_is_not_that_run(runs):
    change(complete(runs[0]).folder / "run.json", lambda about: about["settings"].update(seed=7))
    seal(runs[0])
    assert said_of(runs[0])[1].startswith("damaged: run.json is that of another run")


@pytest.mark.parametrize(
    "edit",
    [
        lambda row: row.update(judged_emotion=3),
        lambda row: row.update(probabilities={"joy": 2}),
        lambda row: row.update(prompt_id=["note"]),
        lambda row: row.pop("sample"),
        lambda row: row.update(prompt_id="day"),  # twice, and another not at all
    ],
)
def test_scores_with_a_right_hash_and_wrong_rows_are_none_and_made_again(runs, edit):
    complete(runs[0]).score("judge", {}, lambda _: judgements(runs[0]))
    change_line(runs[0]._scores_folder / "judge.jsonl", edit)
    seal(runs[0])
    assert runs[0].manifest("judge") and runs[0].scores("judge") == []
    runs[0].score("judge", {}, lambda _: judgements(runs[0], "sadness"))
    assert {row["judged_emotion"] for row in runs[0].scores("judge")} == {"sadness"}


def test_note_of_another_shape_is_named_with_its_line(runs, tmp_path):
    study = runs[0].run.study
    path = records.study_folder(tmp_path / "results", study) / "notes.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"time": 3}\n')
    with pytest.raises(
        InputError, match="notes.jsonl, line 1 is damaged .time: input should be a valid string.*delete that line"
    ):
        kept_notes(tmp_path / "results", study)


ODD = [None, True, -1, 0, 10**30, 0.5, float("nan"), float("inf"), "", "x", [], {}, [None], {"a": 1}, "unknown", ["a"] * 9]


def mutate(rng, value):
    """Put an odd value somewhere into a record, or leave a part out, or put one in twice."""
    inside = value
    while True:
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        if not keys:
            return
        key = rng.choice(list(keys))
        if isinstance(inside[key], (dict, list)) and inside[key] and rng.random() < 0.8:
            inside = inside[key]
            continue
        kind = rng.random()
        if kind < 0.15:
            del inside[key]
        elif kind < 0.25 and isinstance(inside, list):
            inside.insert(key, copy.deepcopy(inside[key]))
        elif kind < 0.35 and isinstance(inside, dict):
            inside["further"] = rng.choice(ODD)
        else:
            inside[key] = rng.choice(ODD)
        return


def mutate_file(rng, path):
    if path.suffix == ".json":
        change(path, lambda value: mutate(rng, value))
    else:
        lines = path.read_text().removesuffix("\n").split("\n")
        place = rng.randrange(len(lines))
        row = json.loads(lines[place])
        mutate(rng, row)
        lines[place] = json.dumps(row)
        path.write_text("\n".join([*lines, ""]))


def test_whatever_a_sealed_record_says_every_frame_is_made_or_refused_in_a_sentence(written, tmp_path):
    study, whole = written[0].run.study, shutil.copytree(tmp_path / "results", tmp_path / "whole")
    for seed in range(MUTATIONS):
        rng = random.Random(seed)
        shutil.rmtree(tmp_path / "results")
        shutil.copytree(whole, tmp_path / "results")
        record = rng.choice(written)
        paths = (path for path in record.folder.rglob("*.json*") if path.name not in ("done.json", "batches.jsonl"))
        path = rng.choice(sorted(paths))
        mutate_file(rng, path)
        seal(record)
        results = affq.Results(study, tmp_path / "results")
        try:
            for name in FRAMES:
                getattr(results, name)
            words.headline(results.summary, results.differences)
            words.hardware(results.provenance)
        except InputError as error:
            assert "\n" not in str(error), seed
        except Exception as error:
            raise AssertionError(f"seed {seed}: {path.name}") from error


MUTATIONS = 12


def test_full_disk_names_the_file_and_leaves_the_former_one(tmp_path, monkeypatch):
    path = tmp_path / "scores.jsonl"
    files.write(path, "former")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/scores.jsonl'"):
        files.write(path, "new")
    assert path.read_text() == "former" and [*tmp_path.iterdir()] == [path]


def test_links_in_the_place_of_records_are_replaced_and_what_they_lead_to_stays(runs, tmp_path):
    record, elsewhere = complete(runs[0]), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in records.RECORDS:
        (record.folder / name).rename(elsewhere / name)
        (record.folder / name).symlink_to(elsewhere / name)
    (record.folder / "done.json").unlink()
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    assert said_of(complete(record)) == ("ok", "")
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
    assert not any((record.folder / name).is_symlink() for name in records.RECORDS)


def test_notes_behind_a_link_are_copied_before_one_is_added(runs, tmp_path):
    study, results = runs[0].run.study, tmp_path / "results"
    text = {"id": "x", "run_id": "r", "prompt_id": "note", "emotion": "joy", "sample": 0}
    keep_note(results, study, text, "first")
    path = records.study_folder(results, study) / "notes.jsonl"
    path.rename(tmp_path / "mine.jsonl")
    path.symlink_to(tmp_path / "mine.jsonl")
    keep_note(results, study, text, "second")
    assert [note["note"] for note in kept_notes(results, study)] == ["first", "second"]
    assert "second" not in (tmp_path / "mine.jsonl").read_text()


def test_report_of_another_study_file_of_this_name_is_known_while_that_file_is_there(runs, tmp_path):
    study, results, (a, b) = runs[0].run.study, tmp_path / "results", (tmp_path / name / "toy.yaml" for name in "ab")
    (records.study_folder(results, study) / "runs").mkdir(parents=True)
    for path in (a, b):
        path.parent.mkdir()
        path.touch()
    assert reported_before(results, study, a) is None and reported_before(results, study, a) is None
    assert reported_before(results, study, b).samefile(a)
    b.unlink()
    assert reported_before(results, study, a) is None
