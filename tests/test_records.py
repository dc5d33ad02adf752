import json

import pytest

from affq import InputError, records
from affq.study import load_study

ENVIRONMENT = {"hardware": {"device": "cpu"}, "weights_sha256": "f00"}
MEASURED = {
    "model": {"compute_dtype": "float32", "chat_template": "none"},
    "census": [],
    "memory": {"kind": "rss", "phases": {}},
    "latency": [],
    "seconds": {},
}
TEXT = {
    "prompt_id": "note",
    "kind": "general",
    "emotion": "joy",
    "sample": 0,
    "prompt": "p",
    "text": "one\u2028two",
    "new_tokens": 2,
    "ended": True,
}


@pytest.fixture
def record(write_study, tmp_path):
    return records.records(tmp_path / "results", load_study(write_study()))[0]


def complete(record):
    record.start(ENVIRONMENT)
    record.append([TEXT])
    record.finish(MEASURED)
    return record


def test_status_follows_a_run_from_missing_to_ok(record):
    assert record.status() == ("missing", "not run yet")
    record.start(ENVIRONMENT)
    record.append([TEXT])
    assert record.status() == ("partial", "it did not end")
    record.finish(MEASURED)
    assert record.status() == ("ok", "")


def test_done_holds_the_hashes_of_the_three_records(record):
    import hashlib

    done = json.loads((complete(record).folder / "done.json").read_text())
    assert done == {
        name: hashlib.sha256((record.folder / name).read_bytes()).hexdigest()
        for name in ("run.json", "generations.jsonl", "measurements.json")
    }


def test_generations_come_back_as_they_were_even_with_odd_line_separators(record):
    assert complete(record).generations() == [TEXT]


def test_failed_run_says_kind_words_and_remedy_and_starting_again_clears_it(record):
    record.fail("out_of_memory", "no room", "a smaller batch")
    assert record.status() == ("failed", "out_of_memory: no room; a smaller batch")
    assert complete(record).status() == ("ok", "")


def test_complete_run_has_not_failed_whatever_comes_after(record):
    complete(record).fail("interrupted", "too late")
    assert record.status() == ("ok", "") and not (record.folder / "failed.json").exists()


def test_last_words_are_one_line(record):
    record.fail("error", "first\n  second")
    assert record.status() == ("failed", "error: first second")


def test_generation_that_is_there_twice_is_no_complete_run(record):
    record.start(ENVIRONMENT)
    record.append([TEXT])
    record.append([TEXT])
    with pytest.raises(ValueError, match="holds a generation twice"):
        record.finish(MEASURED)
    assert not record.complete


def test_starting_again_drops_texts_and_scores_of_the_earlier_attempt(record):
    complete(record).score("judge", {}, lambda generations: [{"n": len(generations)}])
    record.start(ENVIRONMENT)
    record.append([TEXT])
    assert len(record.generations()) == 1 and record.scores("judge") == []


def test_run_of_other_versions_is_stale_and_says_what_changed(record, monkeypatch):
    complete(record)
    now = records.software()
    monkeypatch.setattr(records, "software", lambda: {**now, "versions": {**now["versions"], "torch": "99.0"}})
    status, note = record.status()
    assert status == "stale" and note == f"torch {now['versions']['torch']} → 99.0"


def test_run_of_other_generating_code_is_stale(record, monkeypatch):
    complete(record)
    now = records.software()
    monkeypatch.setattr(records, "software", lambda: {**now, "code_digest": "other", "commit": "other"})
    assert record.status() == ("stale", "the generating code changed")


def test_run_on_another_device_than_the_one_asked_for_is_stale(write_study, tmp_path):
    record = records.records(tmp_path, load_study(write_study(device="cpu")))[0]
    record.start({**ENVIRONMENT, "hardware": {"device": "cuda"}})
    record.append([TEXT])
    record.finish(MEASURED)
    assert record.status() == ("stale", "device cuda → cpu")


def test_scores_are_made_once_and_again_when_text_scorer_or_code_changed(record, monkeypatch):
    complete(record)
    made = []

    def make(generations):
        made.append(len(generations))
        return [{"score": len(made)}]

    record.score("judge", {"v": 1}, make)
    record.score("judge", {"v": 1}, make)
    assert made == [1] and record.scores("judge") == [{"score": 1}]
    record.score("judge", {"v": 2}, make)
    assert record.scores("judge") == [{"score": 2}]
    record.append([TEXT])
    record.score("judge", {"v": 2}, make)
    assert made == [1, 1, 2] and record.manifest("judge")["rows"] == 1
    monkeypatch.setattr(records, "SCORING", ("study.py",))  # the scoring code changed
    record.score("judge", {"v": 2}, make)
    assert made == [1, 1, 2, 2]


def test_scores_without_their_manifest_are_no_scores(record):
    complete(record).score("judge", {}, lambda _: [{"score": 1}])
    (record.scores_folder / "judge.manifest.json").unlink()
    assert record.scores("judge") == []


def damage(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def test_record_of_another_version_is_refused_with_both_formats(record):
    damage(complete(record).folder / "run.json", lambda found: found.update(format=99))
    with pytest.raises(InputError, match=r"records of format 99, this one reads 1\); move the folder away"):
        record.status()


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("run.json", lambda found: found.pop("settings"), "run.json is damaged .it has no settings."),
        (
            "run.json",
            lambda found: found["software"].pop("versions"),
            "run.json is damaged .it has no software → versions",
        ),
        (
            "run.json",
            lambda found: found.update(software="no object"),
            "run.json is damaged .it has no software → versions",
        ),
    ],
)
def test_record_without_a_field_is_refused_with_its_name(record, name, change, said):
    damage(complete(record).folder / name, change)
    with pytest.raises(InputError, match=said + ".*; remove the run's folder to have it done again"):
        record.status()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 5000])
def test_records_that_are_no_json_are_refused_in_one_sentence(record, content):
    complete(record)
    for name, read in (("measurements.json", record.measurements), ("run.json", record.about)):
        (record.folder / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is damaged") as error:
            read()
        assert "\n" not in str(error.value)


def test_damaged_generation_is_named_with_its_line(record):
    complete(record)
    with open(record.folder / "generations.jsonl", "a") as file:
        file.write('{"prompt_id": "note"}\n')
    with pytest.raises(InputError, match="generations.jsonl, line 2 is damaged .it has no kind."):
        record.generations()


def test_damaged_scores_cost_only_the_scores(record):
    complete(record).score("judge", {}, lambda _: [{"score": 1}])
    (record.scores_folder / "judge.jsonl").write_text("{")
    with pytest.raises(InputError, match="judge.jsonl, line 1 is damaged .*; remove that folder to have the texts scored again"):
        record.scores("judge")


def test_last_words_name_no_folder_of_the_user(record):
    from pathlib import Path

    record.fail("error", f"cannot open {Path.home()}/secret/x and {Path.cwd()}/y")
    assert record.status() == ("failed", "error: cannot open ~/secret/x and ./y")


def test_progress_follows_the_files_of_this_attempt_alone(record):
    complete(record)
    assert record.progress(since_s=4e9, texts_wanted=2) == ("starting", 0)  # what is there is an earlier attempt's
    assert record.progress(since_s=0, texts_wanted=2) == ("ending", 1)
    record.start(ENVIRONMENT)
    assert record.progress(since_s=0, texts_wanted=2) == ("loading", 0)
    record.append([TEXT])
    assert record.progress(since_s=0, texts_wanted=2) == ("generating", 1)
    assert record.progress(since_s=0, texts_wanted=1) == ("timing", 1)
