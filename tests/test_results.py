"""A study's results as frames: made once, of records that are read once."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from bench.reads import FRAMES, counted
from test_tables import PEAKS, write_run

import affq
from affq.results import record as records

PROFILE = [{"phase": "decode", "group": "elsewhere", "kernel": "a", "calls": 1, "seconds": 3.0}]
POINTS = [{"batch": 1, "seconds": [2.0, 2.5, 1.0], "new_tokens": 8, "peak_bytes": 100, "held_bytes": 50}]


@pytest.fixture
def study(write_study):
    return affq.load_study(write_study(precisions=["fp32", "int8", "nf4"]))


@pytest.fixture
def folder(study, tmp_path):
    """Results of two complete runs, and of one that is missing."""
    fp32, int8, _ = records.records(tmp_path / "results", study)
    more = {"points": POINTS, "kernels": PROFILE}
    write_run(fp32, ["joy", "sadness", "joy", "joy", "joy", "none"], PEAKS, [3.0, 1.0, 2.0], 4, **more)
    write_run(int8, ["joy", "joy", "none", "sadness", "joy", "joy"], PEAKS, [1.5, 0.5, 1.0], **more)
    return tmp_path / "results"


def test_each_frame_is_made_once(study, folder):
    results = affq.Results(study, folder)
    assert {"texts", "summary", "differences", "claims", "provenance"} < set(FRAMES)
    assert all(getattr(results, name) is getattr(results, name) for name in FRAMES)
    assert results.draws.shape == (1000, len(results.judged)) == (1000, 2)
    assert results.frontier("latency_s")["in_draws"].between(0, 1).all()
    assert results.choice is None and results.prices is None and results.labels == {} and results.former_labels == 0
    assert list(results.side_by_side("joy")) == ["prompt", "fp32", "int8"]


def test_each_record_is_hashed_once_and_read_once(study, folder):
    with counted(folder) as (hashes, reads):
        results = affq.Results(study, folder)
        for name in FRAMES:
            getattr(results, name)
    records = {"run.json", "generations.jsonl", "measurements.json", "done.json", "minilm-lora.jsonl"}
    assert records <= {Path(path).name for path in reads}
    twice = (
        "generations.jsonl",
        "run.json",
    )  # checked before they are believed; and looked through for what is like a missing run
    assert max(count for path, count in reads.items() if Path(path).name in twice) <= 2
    assert {count for path, count in reads.items() if Path(path).name not in twice} == {0, 1}  # batches.jsonl is hashed alone
    assert {Path(path).name for path in hashes} > records - {"done.json"} and set(hashes.values()) == {1}


def test_study_is_given_by_file_or_as_it_is(study, folder, write_study):
    path = write_study(precisions=["fp32", "int8", "nf4"])
    by_file, as_it_is = (affq.Results(given, folder).summary for given in (path, study))
    pd.testing.assert_frame_equal(by_file, as_it_is)


def test_differences_and_draws_are_the_same_whichever_is_asked_for_first(study, folder):
    first, second = affq.Results(study, folder), affq.Results(study, folder)
    draws = second.draws
    pd.testing.assert_frame_equal(first.differences, second.differences)
    assert (first.draws == draws).all()


def test_importing_affq_loads_no_torch_pandas_or_pydantic():
    code = "import affq, sys; affq.InputError; sys.exit(bool({'torch', 'pandas', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
