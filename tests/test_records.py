import hashlib
import json
import os
import shutil
from collections import Counter

import pytest
from conftest import ENVIRONMENT, MEASURED, complete, generations, judgements, said_of, seal, timed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affq import files
from affq.errors import InputError
from affq.results import Failure, FailureKind, reading, score_together
from affq.results import record as records
from affq.results import scores as of_texts
from affq.results.provenance import software
from affq.study import load_study


@pytest.fixture
def record(write_study, tmp_path):
    return records.records(tmp_path / "results", load_study(write_study()))[0]


def test_status_follows_a_run_from_missing_to_ok(record):
    assert said_of(record) == ("missing", "not run yet")
    record.start(ENVIRONMENT)
    texts = generations(record.run.study)
    record.append(texts[:2], {})
    assert said_of(record) == ("partial", "2 of 6 texts kept")
    record.append(texts[2:], {})
    record.keep_pass(1, timed(record.run.study))
    record.finish(MEASURED)
    assert said_of(record) == ("ok", "")


def test_done_holds_the_hashes_of_the_records(record):
    done = json.loads((complete(record).folder / "done.json").read_text())
    assert done.pop("sha256")  # its own
    assert done == {
        name: hashlib.sha256((record.folder / name).read_bytes()).hexdigest()
        for name in ("run.json", "generations.jsonl", "batches.jsonl", "measurements.json")
    }


def test_generations_come_back_as_they_were_even_with_odd_line_separators(record):
    assert complete(record).generations() == generations(record.run.study)


def test_failed_run_says_kind_words_and_remedy_and_starting_again_clears_it(record):
    record.fail(Failure(FailureKind("out_of_memory"), "no room", "a smaller batch"))
    assert said_of(record) == ("failed", "out_of_memory: no room; a smaller batch")
    assert said_of(complete(record)) == ("ok", "")


def test_complete_run_has_not_failed_whatever_comes_after(record):
    complete(record).fail(Failure(FailureKind("interrupted"), "too late"))
    assert said_of(record) == ("ok", "") and not (record.folder / "failed.json").exists()


def test_last_words_are_one_line(record):
    record.fail(Failure(FailureKind("error"), "first\n  second"))
    assert said_of(record) == ("failed", "error: first second")


@pytest.mark.parametrize("there", [[0, 1], [0, 1, 2, 1], [0, 1, 2, 0, 1, 2]])
def test_texts_that_are_not_each_there_once_are_no_complete_run_and_the_next_attempt_mends_it(record, there):
    """As where a cell of the notebook was stopped, or executed again."""
    record.start(ENVIRONMENT)
    batches = in_batches(record)
    for number in there:
        record.append(batches[number], {})
    with pytest.raises(ValueError, match="of 6 texts are there; execute the notebook from its first cell"):
        record.finish(MEASURED)
    assert not record.complete
    for batch in batches[record.start(ENVIRONMENT) :]:
        record.append(batch, {})
    record.keep_pass(1, timed(record.run.study))
    record.finish(MEASURED)
    assert said_of(record) == ("ok", "") and record.generations() == generations(record.run.study)


def test_complete_run_takes_no_more_texts(record):
    with pytest.raises(ValueError, match="this run is complete; execute the notebook from its first cell"):
        complete(record).append([], {})
    assert record.complete


def test_starting_again_sets_a_complete_run_aside_whole(record):
    complete(record).score("judge", {}, lambda _: judgements(record))
    before = {path.name: path.read_bytes() for path in record.folder.iterdir() if path.is_file()}
    assert record.start(ENVIRONMENT) == 0
    assert record.batches() == [] and record.scores("judge") == []
    (kept,) = (record.folder / "attempts").iterdir()
    assert {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()} == before
    assert (kept / "scores" / "judge.jsonl").exists()


def in_batches(record):
    texts = generations(record.run.study)
    return [texts[start : start + 2] for start in (0, 2, 4)]


def begun(record, environment=ENVIRONMENT):
    assert record.start(environment) == 0
    for number, batch in enumerate(in_batches(record)):
        record.append(batch, {"quality_s": number})


def test_whole_batches_are_kept_with_their_readings(record):
    begun(record)
    assert said_of(record) == ("partial", "6 of 6 texts kept")
    assert record.start(ENVIRONMENT) == 3
    assert record.generations() == generations(record.run.study)
    assert [batch["quality_s"] for batch in record.batches()] == [0, 1, 2]
    assert record.about()["texts_kept"] == 6


@given(st.integers(min_value=0), st.sampled_from(records.TEXTS), st.booleans(), st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_wherever_a_file_is_torn_or_changed_only_whole_batches_before_it_are_kept(record, place, name, torn, byte):
    shutil.rmtree(record.folder, ignore_errors=True)
    begun(record)
    path = record.folder / name
    whole = path.read_bytes()
    place %= len(whole)
    path.write_bytes(whole[:place] if torn else whole[:place] + bytes([byte]) + whole[place + 1 :])
    kept = record.start(ENVIRONMENT)
    for batch in in_batches(record)[kept:]:
        record.append(batch, {"quality_s": 0})
    assert record.generations() == generations(record.run.study)  # every text once
    if name == "generations.jsonl":  # what stands before the damage is kept
        end = [batch["end_byte"] for batch in record.batches()]
        unharmed = path.read_bytes() == whole and not torn and whole[place] == byte
        assert kept == (3 if unharmed else sum(at <= place for at in end))


@pytest.mark.parametrize(
    "environment",
    [
        {**ENVIRONMENT, "hardware": {"device": "cuda"}},
        {**ENVIRONMENT, "weights_sha256": "other"},
    ],
)
def test_texts_made_under_other_conditions_are_set_aside_not_mixed(record, environment):
    begun(record)
    texts = (record.folder / "generations.jsonl").read_bytes()
    assert record.start(environment) == 0 and not (record.folder / "generations.jsonl").exists()
    assert (record.folder / "attempts" / "1" / "generations.jsonl").read_bytes() == texts


def test_more_memory_in_the_machine_is_no_other_condition(record):
    begun(record, {**ENVIRONMENT, "hardware": {"device": "cpu", "memory_bytes": 1}})
    assert record.start({**ENVIRONMENT, "hardware": {"device": "cpu", "memory_bytes": 2}}) == 3


def test_texts_of_other_generating_code_are_set_aside(record, monkeypatch):
    begun(record)
    now = software()
    monkeypatch.setattr(records, "software", lambda: {**now, "code_digest": "other"})
    assert record.start(ENVIRONMENT) == 0


def test_failures_of_earlier_attempts_stay_in_the_folder(record):
    for words in ("first", "second"):
        record.start(ENVIRONMENT)
        record.fail(Failure(FailureKind("error"), words))
        (record.folder / "1_generate.log").write_text(words)
        record.set_aside()
    assert said_of(complete(record)) == ("ok", "")
    for number, words in enumerate(("first", "second"), 1):
        folder = record.folder / "attempts" / str(number)
        assert json.loads((folder / "failed.json").read_text())["words"] == words
        assert (folder / "1_generate.log").read_text() == words and (folder / "run.json").exists()


@pytest.mark.parametrize("name", records.RECORDS)
def test_record_that_was_changed_after_the_end_is_noticed_and_named(record, name):
    path = complete(record).folder / name
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    assert said_of(record) == ("failed", f"damaged: {name} was changed after the run had ended") and not record.complete
    path.unlink()
    assert said_of(record) == ("failed", f"damaged: {name} is gone, which was there when the run ended")
    assert record.failure().again


def test_end_that_was_changed_is_named_not_what_it_speaks_of(record):
    path = complete(record).folder / "done.json"
    path.write_text(path.read_text().replace("a", "b"))
    assert said_of(record) == ("failed", "damaged: done.json was changed after the run had ended")


def test_end_that_cannot_be_read_is_no_end(record):
    (complete(record).folder / "done.json").write_text("{}")
    assert said_of(record) == ("failed", "damaged: done.json was changed after the run had ended") and not record.complete


def test_run_of_other_versions_is_stale_and_says_what_changed(record, monkeypatch):
    complete(record)
    now = software()
    monkeypatch.setattr(reading, "software", lambda: {**now, "versions": {**now["versions"], "torch": "99.0"}})
    status, note = said_of(record)
    assert status == "stale" and note == f"torch {now['versions']['torch']} → 99.0"


def test_run_of_other_generating_code_is_stale(record, monkeypatch):
    complete(record)
    now = software()
    monkeypatch.setattr(reading, "software", lambda: {**now, "code_digest": "other", "commit": "other"})
    assert said_of(record) == ("stale", "the generating code changed")


def test_run_on_another_device_than_the_one_asked_for_is_stale(write_study, tmp_path):
    record = records.records(tmp_path, load_study(write_study(device="cpu")))[0]
    record.start({**ENVIRONMENT, "hardware": {"device": "cuda"}})
    record.append(generations(record.run.study), {})
    record.keep_pass(1, timed(record.run.study))
    record.finish(MEASURED)
    assert said_of(record) == ("stale", "device cuda → cpu")


def test_scores_are_made_once_and_again_when_scorer_or_code_changed(record, monkeypatch):
    complete(record)
    made = []

    def make(generations):
        made.append(len(generations))
        return judgements(record, f"number {len(made)}")

    def judged():
        return {row["judged_emotion"] for row in record.scores("judge")}

    record.score("judge", {"v": 1}, make)
    record.score("judge", {"v": 1}, make)
    assert made == [6] and judged() == {"number 1"}
    record.score("judge", {"v": 2}, make)
    assert judged() == {"number 2"}
    with open(record.folder / "generations.jsonl", "a") as file:
        file.write("\n")  # other texts, as far as a hash knows
    record.score("judge", {"v": 2}, make)
    assert made == [6, 6, 6] and len(record.scores("judge")) == 6
    monkeypatch.setattr("affq.results.scores.scoring", lambda: {"versions": {}, "code_digest": "other"})
    record.score("judge", {"v": 2}, make)
    assert made == [6, 6, 6, 6]


def not_here(generations):
    raise InputError("the judge is not here")


def test_scores_stay_where_what_would_make_them_again_is_not_here(record, monkeypatch):
    complete(record).score("judge", {"revision": "a"}, lambda _: judgements(record))
    record.score("judge", {"revision": None}, not_here)  # they are there: nobody is asked
    monkeypatch.setattr("affq.results.scores.scoring", lambda: {"versions": {}, "code_digest": "other"})
    record.score("judge", {"revision": None}, not_here)
    assert record.scores_are_stale("judge") and len(record.scores("judge")) == 6
    with pytest.raises(InputError, match="the judge is not here"):
        record.score("judge", {"revision": "b"}, not_here)  # those that are there are another's
    with pytest.raises(InputError, match="the judge is not here"):
        record.score("another", {"revision": None}, not_here)


def of_each(texts):
    """Return a score a text, whose judged emotion is the number of texts that were scored at once."""
    keys = [{key: row[key] for key in ("prompt_id", "emotion", "sample")} for row in texts]
    return [key | {"judged_emotion": str(len(texts)), "probabilities": {"joy": 1.0}} for key in keys]


def test_several_runs_are_scored_together_and_what_is_there_stays(record, monkeypatch):
    texts = complete(record).generations()
    record.score("there", {"v": 1}, of_each)
    wanted = [(record, name, rows) for name, rows in (("there", texts), ("a", texts), ("b", texts[::-1]), ("c", texts))]
    score_together(wanted, {"v": 1}, of_each)
    assert {name: record.scores(name) for _, name, _ in wanted} == {
        "there": of_each(texts),
        **{name: [row | {"judged_emotion": "18"} for row in of_each(rows)] for _, name, rows in wanted[1:]},
    }
    monkeypatch.setattr("affq.results.scores.TOGETHER", 7)  # so many at least: a and b, then c
    score_together(wanted[1:], {"v": 2}, of_each)
    assert [record.scores(name)[0]["judged_emotion"] for name in "abc"] == ["12", "12", "6"]


def test_scores_of_the_first_texts_are_kept_where_the_next_cannot_be_scored(record, monkeypatch):
    texts = complete(record).generations()
    monkeypatch.setattr("affq.results.scores.TOGETHER", 1)
    made = []

    def make(rows):
        made.append(len(rows))
        return of_each(rows) if len(made) == 1 else not_here(rows)

    with pytest.raises(InputError, match="the judge is not here"):
        score_together([(record, "a", texts), (record, "b", texts)], {"v": 1}, make)
    assert len(record.scores("a")) == 6 and record.scores("b") == []


def test_scores_of_several_runs_stay_where_what_would_make_them_again_is_not_here(record, monkeypatch):
    texts = complete(record).generations()
    score_together([(record, "a", texts), (record, "b", texts)], {"v": 1}, of_each)
    monkeypatch.setattr("affq.results.scores.scoring", lambda: {"versions": {}, "code_digest": "other"})
    score_together([(record, "a", texts), (record, "b", texts)], {"v": 1}, not_here)
    assert len(record.scores("a")) == len(record.scores("b")) == 6
    with pytest.raises(InputError, match="the judge is not here"):
        score_together([(record, "a", texts), (record, "c", texts)], {"v": 1}, not_here)


def test_texts_come_in_the_studys_order_whatever_batches_they_were_made_in(record):
    wanted = generations(record.run.study)
    record.start(ENVIRONMENT)
    for batch in reversed(in_batches(record)):
        record.append(batch[::-1], {})
    assert record.generations() == wanted


def test_scores_without_their_manifest_are_no_scores(record):
    complete(record).score("judge", {}, lambda _: judgements(record))
    (record._scores_folder / "judge.manifest.json").unlink()
    assert record.scores("judge") == []


def damage(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def test_run_of_another_version_is_a_row_that_is_kept(record):
    damage(complete(record).folder / "run.json", lambda found: found.update(format=99))
    seal(record)
    status, note = said_of(record)
    assert status == "failed" and not record.complete and not record.failure().again
    assert note.startswith("other_version: its records are of another version of affq; the version that wrote them reads them")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda found: found.pop("settings"), "run.json is damaged .it has no settings."),
        (lambda found: found["software"].pop("versions"), "run.json is damaged .it has no software → versions"),
        (lambda found: found.update(software="no object"), "run.json is damaged .software: input should be a valid dict"),
    ],
)
def test_record_without_a_field_is_refused_with_its_name(record, change, said):
    damage(complete(record).folder / "run.json", change)
    with pytest.raises(InputError, match=said + ".*; affq run does it again"):
        record.about()


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
    with pytest.raises(InputError, match="generations.jsonl, line 7 is damaged .it has no emotion."):
        record.generations()


@pytest.mark.parametrize("line", [b"{", b'"\xff"', b"[" * 100_000, b"NaN", b"\xef\xbb\xbf{}"])
def test_line_that_is_no_json_is_named_with_its_number_whatever_it_is(record, line):
    complete(record)
    with open(record.folder / "generations.jsonl", "ab") as file:
        file.write(b"\n\n" + line + b"\n")
    with pytest.raises(InputError, match="generations.jsonl, line 9 is damaged .* does it again$"):
        record.generations()


@pytest.mark.parametrize("content", ["", "{", '{"score": 2}\n'])
@pytest.mark.parametrize("name", ["judge.jsonl", "judge.manifest.json"])
def test_scores_that_are_not_as_they_were_written_are_made_again(record, name, content):
    complete(record).score("judge", {}, lambda _: judgements(record))
    (record._scores_folder / name).write_text(content)
    assert record.scores("judge") == []
    record.score("judge", {}, lambda _: judgements(record, "sadness"))
    assert {row["judged_emotion"] for row in record.scores("judge")} == {"sadness"}


def test_last_words_name_no_folder_of_the_user(record):
    from pathlib import Path

    record.fail(Failure(FailureKind("error"), f"cannot open {Path.home()}/secret/x and {Path.cwd()}/y"))
    assert said_of(record) == ("failed", "error: cannot open ~/secret/x and ./y")


def test_progress_follows_the_files_of_this_attempt_alone(record):
    assert record.progress(record.mark()) == ("starting", 0)
    complete(record)
    assert record.progress(None) == ("ending", 6)
    before = record.mark()
    assert record.progress(before) == ("starting", 0)  # what is there is an earlier attempt's
    begun(record)
    record.begin_texts()
    assert record.progress(before) == ("timing", 6)
    before = record.mark()
    first = (record.folder / "batches.jsonl").read_bytes().index(b"\n") + 1
    os.truncate(record.folder / "batches.jsonl", first)
    record.start(ENVIRONMENT)
    assert record.progress(before) == ("loading", 2)  # texts that were kept
    record.begin_texts()
    assert record.progress(before) == ("generating", 2)  # before the first new batch is there
    before = record.mark()
    record.start(ENVIRONMENT, process=2)
    assert record.progress(before) == ("timing", 2)  # a further process does nothing else


def test_passes_of_all_processes_are_kept_until_the_run_is_complete(record):
    record.start(ENVIRONMENT, process=2)
    record.keep_pass(2, timed(record.run.study, rounds=2))
    record.start(ENVIRONMENT)
    record.keep_pass(1, timed(record.run.study))
    record.append(generations(record.run.study), {})
    record.finish(MEASURED)
    assert [(one["process"], one["rounds"]) for one in record.measurements()["passes"]] == [(1, 1), (2, 2)]
    assert not (record.folder / "passes").exists()


def test_pass_made_under_other_conditions_is_left_out(record):
    record.start({**ENVIRONMENT, "weights_sha256": "other"}, process=2)
    record.keep_pass(2, timed(record.run.study))
    record.start(ENVIRONMENT)
    record.keep_pass(1, timed(record.run.study))
    record.append(generations(record.run.study), {})
    record.finish(MEASURED)
    assert [one["process"] for one in record.measurements()["passes"]] == [1]


def test_process_that_begins_again_drops_its_earlier_pass_and_no_others(record):
    for process in (3, 2):
        record.start(ENVIRONMENT, process)
        record.keep_pass(process, timed(record.run.study))
    record.start(ENVIRONMENT, process=2)
    assert record.has_pass(3) and not record.has_pass(2)


def test_timed_texts_without_a_counterpart_are_not_read(record):
    record.start(ENVIRONMENT)
    record.append(generations(record.run.study), {})
    key = {"prompt_id": "note", "sample": 0}
    rows = [{**key, "emotion": "joy", "text": "whole"}, {**key, "emotion": "sadness", "text": None}]
    record.keep_pass(1, timed(record.run.study))
    record.finish({**MEASURED, "alone": rows})
    assert record.alone() == rows[:1]


@pytest.fixture
def snapshot(record):
    complete(record).score("judge", {}, lambda _: judgements(record))
    return reading.snapshots(record.folder.parents[2], record.run.study)[0]


def test_snapshot_hashes_each_file_once_and_reads_it_once_whatever_is_asked_of_it(snapshot, monkeypatch):
    monkeypatch.setattr(reading, "_FAULTS", {})  # what was checked in this process before
    asked = Counter()

    def counted(holder, name):
        read = getattr(holder, name)

        def count(path, *rest):
            asked[f"{name} {path.name}"] += 1
            return read(path, *rest)

        monkeypatch.setattr(holder, name, count)

    for holder, name in ((files, "read_json"), (files, "read_jsonl"), (reading, "sha256_of"), (of_texts, "sha256_of")):
        counted(holder, name)
    for _ in range(2):
        assert snapshot.complete and snapshot.failure() is None and snapshot.state().status == "ok"
        assert snapshot.about()["texts_kept"] == 0 and snapshot.changes() == () and not snapshot.of_another_version()
        assert snapshot.stored_dtype() == snapshot.run.model.stored_dtype and snapshot.alone() == []
        assert len(snapshot.generations_sha256()) == 64 and not snapshot.scores_are_stale("judge")
    # These are large, and not remembered: a study of a thousand runs would take twice the memory.
    assert len(snapshot.generations()) == 6 and len(snapshot.scores("judge")) == 6
    assert asked == Counter(
        [
            *(f"read_json {name}" for name in ("run.json", "done.json", "measurements.json", "judge.manifest.json")),
            *(f"read_jsonl {name}" for name in ("generations.jsonl", "generations.jsonl", "judge.jsonl")),  # checked, and read
            *(f"sha256_of {name}" for name in (*records.RECORDS, "judge.jsonl")),
        ]
    )


def test_snapshot_stays_as_it_was_taken_and_a_record_does_not(snapshot, record):
    assert snapshot.complete
    (record.folder / "done.json").unlink()
    assert snapshot.complete and said_of(snapshot) == ("ok", "")
    assert not record.complete and said_of(record) == ("partial", "6 of 6 texts kept")


def test_snapshot_of_a_partial_run_reads_its_texts_once(record, monkeypatch):
    begun(record)
    snapshot, reads = reading.snapshots(record.folder.parents[2], record.run.study)[0], []
    read = files.Journal.batches
    monkeypatch.setattr(files.Journal, "batches", lambda journal, key: reads.append(1) or read(journal, key))
    assert [said_of(snapshot) for _ in range(2)] == [("partial", "6 of 6 texts kept")] * 2
    assert len(snapshot.batches()) == 3 and len(reads) == 1


def test_progress_does_not_believe_a_clock(record):
    before = record.mark()
    begun(record)
    os.utime(record.folder / "run.json", (0, 0))  # the clock was set back while the run went on
    assert record.progress(before)[1] == 6
