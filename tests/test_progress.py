"""How a study that runs is shown: speeds and times left by hand, and the real command over a tiny model."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from conftest import affq

from affq.errors import printable
from affq.results import Stage, Status
from affq.runner.progress import Pace, Progress, RunEnded, RunGoesOn, StudyBegins, StudyEnded, details, reporter, sentence
from affq.study import load_study

AFFQ = Path(sys.executable).with_name("affq")


@pytest.fixture
def pace(write_study):
    # Batches of 2 texts of 8 tokens; 2 timed texts of 8 tokens, 2 of 8 token by token, three warm-ups of 1: 35 tokens.
    return Pace(load_study(write_study()), estimate_s=40)


def test_before_the_second_batch_the_time_left_is_the_estimates(pace):
    assert pace.at(5, Stage.LOADING, 0).left_s == 35
    first = pace.at(10, Stage.GENERATING, 2)
    assert (first.texts_per_s, first.left_s) == (None, 30)
    assert pace.at(50, Stage.GENERATING, 2).left_s == 0  # an estimate that was too short never goes below nothing


def test_from_the_second_batch_the_time_left_follows_the_speed(pace):
    pace.at(10, Stage.GENERATING, 2)
    second = pace.at(12, Stage.GENERATING, 4)
    # 2 texts in 2 s; 2 texts to go; then 35 tokens at a batch's pace, 8 tokens in 2 s: 8.75 s.
    assert (second.texts_per_s, second.left_s) == (1, 2 + 8.75)
    assert pace.at(13, Stage.GENERATING, 4).left_s == 1 + 8.75
    assert pace.at(14, Stage.TIMING, 6).left_s == 8.75
    assert pace.at(16, Stage.TIMING, 6).left_s == 6.75
    assert pace.at(17, Stage.ENDING, 6).left_s == 0


def test_further_processes_time_before_the_texts_and_do_not_count_as_the_first_ones_timing(pace):
    assert pace.at(5, Stage.TIMING, 0).left_s == 35  # the estimate's
    pace.at(10, Stage.GENERATING, 2)
    pace.at(12, Stage.GENERATING, 4)
    assert pace.at(14, Stage.TIMING, 6).left_s == 8.75


def test_without_an_estimate_nothing_is_made_up(write_study):
    assert Pace(load_study(write_study()), None).at(5, Stage.LOADING, 0).left_s is None


RUN = {"number": 1, "runs": 2, "run_id": "m--int8--0", "model": "m\x1b[31m", "precision": "int8", "engine": "transformers"}


def test_events_are_said_in_one_line_each():
    begins = StudyBegins(study="toy", runs=4, study_runs=4, to_run=3, estimate_s=300.0)
    assert sentence(begins) == "Study toy: 3 of 4 runs are to be done: about 5 min, roughly."
    assert "not known yet on this device" in sentence(replace(begins, estimate_s=None))
    assert sentence(replace(begins, to_run=0)) == "Study toy: every run is there."
    ended = RunEnded(**RUN, status=Status.OK, note="", executed=True, elapsed_s=12.3, log="x/1_generate.log")
    assert sentence(ended).endswith("int8: ok, 12 s")
    failed = sentence(replace(ended, status=Status.FAILED, note="load_failed: no\nway"))
    assert failed.endswith("failed, 12 s (load_failed: no\nway; log: x/1_generate.log)")
    assert printable(failed).startswith(r"[1/2] m\x1b[31m int8: failed") and "\n" not in printable(failed)


def test_runs_that_were_not_chosen_are_said_to_be_there():
    begins = StudyBegins(study="toy", runs=1, study_runs=6, to_run=1, estimate_s=300.0)
    assert sentence(begins) == "Study toy: 1 of 1 chosen runs is to be done: about 5 min, roughly; the study has 6."
    assert sentence(replace(begins, to_run=0)) == "Study toy: every chosen run is there; the study has 6."
    ended = StudyEnded(study="toy", ok=1, runs=1, study_runs=6, elapsed_s=12.3)
    assert sentence(ended) == "1 of 1 chosen runs is done, 12 s; the study has 6"
    assert sentence(replace(ended, ok=2, runs=2)) == "2 of 2 chosen runs are done, 12 s; the study has 6"


def test_events_for_programs_keep_their_names(capsys):
    went_on = RunGoesOn(**RUN, **asdict(KNOWN), study_left_s=None)
    with reporter(as_json=True, quiet=False) as tell:
        tell(went_on)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"event": "run", **RUN, **asdict(KNOWN), "study_left_s": None}
    fields = "stage texts texts_wanted texts_per_s left_s elapsed_s memory_bytes study_left_s"
    assert list(json.loads(line)) == f"event number runs run_id model precision engine {fields}".split()


KNOWN = Progress(Stage.GENERATING, 14, 80, texts_per_s=4.0, left_s=30, elapsed_s=3.5, memory_bytes=1_200_000_000)


def test_details_say_what_is_known_and_nothing_else():
    assert details(KNOWN) == ["14 of 80 texts", "4 texts/s", "under a minute left", "1.2 GB resident"]
    assert details(Progress(Stage.LOADING, 0, 80, texts_per_s=None, left_s=None, elapsed_s=3.5, memory_bytes=None)) == []


def test_no_character_commands_the_terminal():
    assert printable("a\x1b[2J\r\n\x9b\u202eb é 日本 😀") == r"a\x1b[2J\r\n\x9b\u202eb é 日本 😀"


@pytest.fixture
def small(write_study, tiny_llama):
    return write_study(models=[str(tiny_llama)], precisions=["fp32"])


def test_events_for_programs_tell_a_run_from_beginning_to_end(small):
    done = subprocess.run([AFFQ, "run", small.name, "--json"], cwd=small.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]  # nothing else is on standard output
    kinds = [event["event"] for event in events]
    assert kinds[0] == "study_begins" and kinds[-2:] == ["run_ended", "study_ended"] and set(kinds[1:-2]) == {"run"}
    assert events[0]["to_run"] == 1 and events[0]["estimate_s"] > 0
    stages = list(dict.fromkeys(event["stage"] for event in events if event["event"] == "run"))
    # A small model may load, or generate, between two looks.
    assert stages[0] == "starting" and {"loading", "generating", "timing", "ending"} & set(stages)
    assert events[-2]["status"] == "ok" and events[-1]["ok"] == events[-1]["runs"] == 1
    assert (small.parent / events[-2]["log"]).is_file()
    again = affq("run", small.name, "--quiet", cwd=small.parent)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def begin_and_interrupt(small, **streams):
    """Begin a run, press Ctrl-C once its process is at work, and give the process and the children that it had."""
    process = subprocess.Popen([AFFQ, "run", small.name], cwd=small.parent, **streams)
    log = small.parent / "reports"
    while not list(log.glob("*/runs/*/run.json")):
        assert process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    return process, children


def test_interruption_ends_cleanly_and_says_how_to_go_on(small):
    process, children = begin_and_interrupt(small, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "affq: stopped. What is done is kept; the same command goes on from there.\n", out + err
    assert children and not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    plan = affq("plan", small.name, cwd=small.parent)
    assert plan.stdout.splitlines()[1].startswith("failed") and "interrupted: stopped by the user" in plan.stdout


@pytest.mark.full
def test_terminal_shows_a_line_a_run_and_the_total(small):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [AFFQ, "run", small.name], cwd=small.parent, stdout=slave, stderr=slave, env=os.environ | {"COLUMNS": "100"}
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:  # its end, on Linux
            break
    assert process.wait() == 0
    lines = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode().replace("\r", "\n").splitlines()
    assert any(re.match(r"\[1/1\] tiny-llama fp32 +(loading|generating|timing|ending)", line) for line in lines)
    assert any(re.match(r"\[1/1\] tiny-llama fp32 +ok +\d+ s", line) for line in lines)
    assert any(re.match(r"1 of 1 runs is done, \d+ s", line) for line in lines)
