import json

import pytest
from conftest import ENVIRONMENT, said_of

from affq.errors import InputError
from affq.results import Kind, Series, records, there
from affq.study import load_study

ASKED = {"streams": [1, 2]}


@pytest.fixture
def record(write_study, tmp_path):
    return records(tmp_path / "results", load_study(write_study()))[0]


def row(number, level=0, **differs):
    key = {"prompt_id": "p", "emotion": "joy", "sample": 0}
    place = {"level": level, "repetition": 0, "number": number, "loop": "closed", "streams": level + 1, "rate": None}
    times = {"due_s": 0.0, "sent_s": 0.0, "first_s": 0.5, "end_s": 1.0, "moments_s": [0.5, 1.0], "new_tokens": 2}
    return {**key, **place, **times, "text": "a\x85b\u2028c", "ended": True, "error": None} | differs


def reading(level=0):
    place = {"level": level, "repetition": 0, "loop": "closed", "streams": level + 1, "rate": None}
    return {**place, "seconds": 2.0, "client_busy": 0.1, "lag_s": 0.001}


def series_of(record):
    return Series(record, Kind.LOAD)


def test_series_is_complete_once_it_is_finished_and_gives_its_rows_back(record):
    series = series_of(record)
    assert there(record, Kind.LOAD) is None
    assert series.start(ENVIRONMENT, ASKED) == 0
    series.append([row(0), row(1)], reading())
    assert not series.complete and there(record, Kind.LOAD)
    series.finish()
    assert series.complete and series.rows() == [row(0), row(1)] and series.settings() == ASKED
    assert said_of(record) == ("missing", "not run yet")  # a series is beside a run, and makes none


def test_series_that_was_cut_off_goes_on_behind_its_last_whole_level(record):
    series = series_of(record)
    series.start(ENVIRONMENT, ASKED)
    series.append([row(0)], reading())
    with open(series.folder / "rows.jsonl", "a") as file:
        file.write('{"prompt_id": "p", "em')  # a level that a kill tore
    assert [kept["level"] for kept in series.readings()] == [0] and series.rows() == [row(0)]
    assert series_of(record).start(ENVIRONMENT, ASKED) == 1
    series.append([row(0, level=1)], reading(level=1))
    assert series.rows() == [row(0), row(0, level=1)]


@pytest.mark.parametrize("change", ["what is asked", "the machine", "a complete series"])
def test_series_under_other_conditions_begins_anew_and_keeps_the_former(record, change):
    series = series_of(record)
    series.start(ENVIRONMENT, ASKED)
    series.append([row(0)], reading())
    if change == "a complete series":
        series.finish()
    other = ENVIRONMENT | {"hardware": {**ENVIRONMENT["hardware"], "processor": "another"}}
    environment = other if change == "the machine" else ENVIRONMENT
    assert series.start(environment, {"streams": [4]} if change == "what is asked" else ASKED) == 0
    assert series.rows() == [] and not series.complete
    assert (series.folder / "attempts" / "1" / "rows.jsonl").read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.parametrize("value", [{"end_s": "soon"}, {"due_s": -1.0}, {"loop": "half"}, {"new_tokens": None}])
def test_level_with_a_value_that_is_none_is_not_kept(record, value):
    series = series_of(record)
    series.start(ENVIRONMENT, ASKED)
    series.append([row(0)], reading())
    series.append([row(1, level=1, **value)], reading(level=1))
    assert series.rows() == [row(0)]


def test_changed_row_ends_what_is_believed(record):
    series = series_of(record)
    series.start(ENVIRONMENT, ASKED)
    series.append([row(0)], reading())
    series.finish()
    path = series.folder / "rows.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.4"), encoding="utf-8")
    assert not series.complete and series.rows() == []


def test_series_of_another_run_is_not_this_ones(record):
    series = series_of(record)
    series.start(ENVIRONMENT, ASKED)
    path = series.folder / "about.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run_id": "another"}))
    with pytest.raises(InputError, match="that of another run, 'another'"):
        series.about()
