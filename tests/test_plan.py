"""What affq plan says of a run is what affq run does."""

import json

import pytest
from conftest import ENVIRONMENT, complete, generations

from affq.errors import InputError
from affq.results import Failure, FailureKind, reading
from affq.results import record as records
from affq.results.provenance import software
from affq.runner import planning
from affq.runner.planning import Choice, left_over, plan
from affq.study import load_study


@pytest.fixture
def study(write_study):
    """Three runs: a model at three precisions."""
    return load_study(write_study(precisions=["fp32", "bf16", "int8"]))


@pytest.fixture
def planned(study, tmp_path):
    """Plan the runs, as {precision: (status, reason, to_run)}."""

    def look(**choice):
        return {p.precision: (p.status, p.reason, p.to_run) for p in plan(study, tmp_path / "results", Choice(**choice))}

    return look


@pytest.fixture
def record(study, tmp_path):
    return records.records(tmp_path / "results", study)[0]


def test_missing_and_partial_runs_are_to_be_done(planned, record):
    record.start(ENVIRONMENT)
    assert planned()["fp32"] == ("partial", "0 of 6 texts kept", True)
    assert planned()["int8"] == ("missing", "not run yet", True)


def test_what_is_done_stays_unless_it_is_forced(planned, record):
    complete(record)
    assert planned()["fp32"] == ("ok", "", False)
    assert planned(force=True)["fp32"] == ("ok", "", True)


def test_stale_run_says_why_and_stays_unless_asked(planned, record, monkeypatch):
    complete(record)
    now = software()
    monkeypatch.setattr(reading, "software", lambda: {**now, "code_digest": "other"})
    why = "the generating code changed; kept: affq run with --redo-stale does it again"
    assert planned()["fp32"] == ("stale", why, False)
    assert planned(stale=True)["fp32"][2] and not planned(failed=True)["fp32"][2]


@pytest.mark.parametrize("again", [True, False])
def test_failed_run_is_tried_again_where_it_may_end_otherwise(planned, record, again):
    record.start(ENVIRONMENT)
    record.fail(Failure(FailureKind("error"), "no", again=again))
    why = "affq run tries it again" if again else "not tried again but by affq run with --redo-failed"
    assert planned()["fp32"] == ("failed", f"error: no; {why}", again)
    assert planned(failed=True)["fp32"][2]


def test_failed_run_is_tried_again_when_versions_changed(planned, record, monkeypatch):
    record.start(ENVIRONMENT)
    record.fail(Failure(FailureKind("unsupported"), "no such kernel"))
    now = software()
    monkeypatch.setattr(planning, "software", lambda: {**now, "versions": {**now["versions"], "bitsandbytes": "9"}})
    status, reason, to_run = planned()["fp32"]
    assert to_run and reason.endswith(f"affq run tries it again, since bitsandbytes {now['versions']['bitsandbytes']} → 9")


def test_only_chooses_by_id_model_or_precision(planned, record):
    assert list(planned(only=("int8",))) == ["int8"]
    assert list(planned(only=(record.run.id, "b*"))) == ["fp32", "bf16"]
    assert list(planned(only=("smollm2-*",))) == ["fp32", "bf16", "int8"]
    with pytest.raises(InputError, match="--only 'int4' matches no run of study toy; known: fp32, smollm2-135m, "):
        planned(only=("int8", "int4"))


def test_runs_of_other_settings_are_named_and_kept(study, record, write_study, tmp_path):
    complete(record)
    assert left_over(study, tmp_path / "results") == []
    other = load_study(write_study(batch=1))
    assert left_over(other, tmp_path / "results") == [record.run.id]


def test_damaged_run_is_done_again(planned, record):
    complete(record)
    (record.folder / "measurements.json").write_text(json.dumps({}))
    why = "damaged: measurements.json was changed after the run had ended; affq run tries it again"
    assert planned()["fp32"] == ("failed", why, True)


def test_partial_run_whose_texts_will_not_be_kept_says_so(planned, record, monkeypatch):
    record.start(ENVIRONMENT)
    record.append(generations(record.run.study)[:2], {})
    assert planned()["fp32"] == ("partial", "2 of 6 texts kept", True)
    now = software()
    monkeypatch.setattr(reading, "software", lambda: {**now, "code_digest": "other"})
    assert planned()["fp32"] == ("partial", "0 of 6 texts kept: the generating code changed", True)


def test_run_of_another_version_stays_unless_it_is_forced(planned, record, monkeypatch):
    for part in (records, reading):
        monkeypatch.setattr(part, "FORMAT", 99)
    complete(record)
    monkeypatch.undo()
    status, reason, to_run = planned()["fp32"]
    assert status == "failed" and "other_version" in reason and not to_run
    assert planned(force=True)["fp32"][2]
