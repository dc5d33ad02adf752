import json

import pytest

from affq import records
from affq.study import load_study

ENVIRONMENT = {"hardware": {"device": "cpu"}}
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
    record.finish({"latency": []})
    return record


def test_status_follows_a_run_from_missing_to_ok(record):
    assert record.status() == ("missing", "not run yet")
    record.start(ENVIRONMENT)
    record.append([TEXT])
    assert record.status() == ("partial", "it did not end")
    record.finish({"latency": []})
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
        record.finish({})
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
    record.start({"hardware": {"device": "cuda"}})
    record.append([TEXT])
    record.finish({})
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
