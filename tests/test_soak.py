"""A soak: rounds that go on where they were cut off, drift worked by hand, a leak of a real process, nobody left behind."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ENVIRONMENT, affq

from affq.analysis import concurrency
from affq.analysis import soak as analysis
from affq.inference import soak
from affq.report import words
from affq.results import Kind, Series, records
from affq.runner import kernel
from affq.study import load_study

REQUEST = {"prompt_id": "p", "kind": "event", "emotion": "joy", "sample": 0, "request": "Write."}
FIGURES = ["process memory", "server memory", "latency"]


class Echo:
    """Says what it was given last, in a second a token; an exception it raises."""

    def __init__(self, *texts):
        self.texts_left, self.now = list(texts), 0.0

    def texts(self, batch, at_token=None):
        text = self.texts_left.pop(0)
        self.now += 1
        if isinstance(text, Exception):
            raise text
        at_token()
        self.now += 1
        return [{**batch[0], "text": text, "new_tokens": 2}], 100


def echoed(*texts, soak_s=1e9, requests=(REQUEST,), **before):
    """Soak an Echo for as many rounds as it has texts."""
    echo = Echo(*texts)
    count = len(texts) // len(requests)
    return list(itertools.islice(soak.rounds(echo, requests, soak_s, clock=lambda: echo.now, **before), count))


def test_round_has_each_texts_seconds_and_its_words_where_they_are_new():
    (first,), reading = echoed("a b", "a b", "a c")[0]
    assert {name: first[name] for name in ("start_s", "seconds", "ttft_s", "text", "differs_at")} == {
        **{"start_s": 0, "seconds": 2, "ttft_s": 1, "text": "a b", "differs_at": None}
    }
    assert {name: reading[name] for name in ("round", "process", "start_s", "seconds", "cache_bytes")} == {
        **{"round": 0, "process": 1, "start_s": 0, "seconds": 2, "cache_bytes": 100}
    }
    rest = [(row["start_s"], row["text"], row["differs_at"]) for (row,), _ in echoed("a b", "a b", "a c")[1:]]
    assert rest == [(2, None, None), (4, "a c", 2)]


def test_round_that_was_begun_ends_and_no_further_one_begins():
    assert len(list(soak.rounds(echo := Echo(*"abcdef"), [REQUEST], 5, clock=lambda: echo.now))) == 3  # at 0, 2 and 4 s


def test_next_process_goes_on_with_rounds_seconds_and_the_first_rounds_texts():
    made = echoed("a b", "a b")
    rows, readings = [row for rows, _ in made for row in rows], [reading for _, reading in made]
    (row,), reading = echoed("a d", rows=rows, readings=readings)[0]
    assert (row["round"], row["process"], row["start_s"], row["differs_at"]) == (2, 2, 4, 2)
    assert (reading["round"], reading["process"], reading["start_s"]) == (2, 2, 4)


def test_text_that_fails_is_a_row_and_a_round_of_nothing_else_ends_the_soak():
    two, gone = (REQUEST, REQUEST | {"prompt_id": "q"}), RuntimeError("gone")
    echo = Echo("a", "b", gone, "b", gone, gone)
    rounds = soak.rounds(echo, two, 1e9, clock=lambda: echo.now)
    assert [row["error"] for row in next(rounds)[0]] == [None, None]
    rows, reading = next(rounds)
    assert [(row["error"], row["seconds"], row["text"]) for row in rows] == [("RuntimeError: gone", 1, None), (None, 2, None)]
    assert [row["error"] for row in next(rounds)[0]] == ["RuntimeError: gone"] * 2  # it is kept
    with pytest.raises(RuntimeError, match="gone"):
        next(rounds)


def write_soak(record, rounds=61, grows_bytes=0, slows=0.0, processes=1, minutes=60, round_s=60.0, changed_from=None):
    """Write the soak of a run: rounds of one text, from each to the next so many bytes more, and so much more time."""
    series = Series(record, Kind.SOAK)
    series.start({**ENVIRONMENT, "hardware": {"device": "cpu", "device_name": "a processor"}}, {"minutes": minutes})
    for number in range(rounds):
        process = 1 + number * processes // rounds
        place = {"round": number, "process": process, "start_s": round_s * number, "seconds": round_s}
        changed = changed_from is not None and number >= changed_from
        text = "b" if changed else "a" if number == 0 else None
        row = {"prompt_id": "note", "emotion": "joy", "sample": 0, **place, "number": 0, "ttft_s": 1.0, "new_tokens": 8}
        row |= {"seconds": 10 * (1 + slows * number), "text": text, "differs_at": 0 if changed else None, "error": None}
        held = {"rss_bytes": 10**8 + grows_bytes * number, "server_rss_bytes": 10**7, "allocated_bytes": None}
        series.append([row], {**place, **held, "cache_bytes": 1000})
    if rounds * round_s >= 60 * minutes:
        series.finish()
    return record


@pytest.fixture
def record(write_study, tmp_path):
    return records(tmp_path / "results", load_study(write_study()))[0]


def test_drift_of_memory_and_time_by_hand(record):
    frame = analysis.drifts([write_soak(record, grows_bytes=50_000, slows=0.001)]).set_index("figure")
    # 50,000 bytes a minute are 3 MB an hour, of the median of rounds 1 to 60: 10^8 + 50,000 · 30.5.
    assert frame["percent_per_hour"]["process memory"] == pytest.approx(100 * 3e6 / 101_525_000)
    assert frame["over_soak_bytes"]["process memory"] == 50_000 * 59
    assert frame["percent_per_hour"]["server memory"] == frame["over_soak_bytes"]["server memory"] == 0
    # From 1.001 to 1.06 times the seconds in 59 of 60 minutes, as a growth that is the same each minute.
    assert frame["percent_per_hour"]["latency"] == pytest.approx(100 * ((1.06 / 1.001) ** (60 / 59) - 1), rel=0.02)
    assert frame["verdict"].to_dict() == dict(zip(FIGURES, ["grows", "steady", "grows"], strict=True))


def test_soak_that_was_changed_is_named_and_left_out(record):
    path = write_soak(record).folder / "soak" / "rows.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"seconds": 10.0', '"seconds": 11.0', 1), encoding="utf-8")
    assert analysis.soaks([record]).empty and analysis.rounds([record]).empty and analysis.drifts([record]).empty
    said = words.series(concurrency.series([record]), "soak")
    assert "cannot be used, and is left out (its records were changed after it had ended). `affq soak` makes it again." in said


@pytest.mark.parametrize(
    "soaked, verdict",
    [
        ({"grows_bytes": 15_000}, "steady"),  # 0.9 % an hour
        ({"grows_bytes": -50_000}, "falls"),
        ({"rounds": 12, "grows_bytes": 50_000}, "cannot tell"),  # eleven after the first: of too few there is no slope
        ({"rounds": 61, "round_s": 5}, "cannot tell"),  # all alike, and five minutes are too short
        ({"rounds": 61, "round_s": 5, "grows_bytes": 50_000}, "grows"),
        ({"grows_bytes": 50_000, "processes": 3}, "grows"),
    ],
)
def test_verdict_on_memory(record, soaked, verdict):
    frame = analysis.drifts([write_soak(record, **soaked)]).set_index("figure")
    assert frame["verdict"]["process memory"] == verdict


def test_what_a_soak_shows_in_words(record):
    write_soak(record, grows_bytes=50_000, processes=2, minutes=120, changed_from=59)
    soaks, drifts = analysis.soaks([record]), analysis.drifts([record])
    assert words.soaked(soaks, drifts).splitlines() == [
        "- **smollm2-135m fp32**: 61 minutes in 2 processes, one after the other on a processor, 61 texts; "
        "**process memory grows** (+2.96 to +2.96 % an hour, +3.0 MB in all); "
        "server memory is steady (+0.00 to +0.00 % an hour); latency is steady (+0.00 to +0.00 % an hour); "
        "**2 texts differ from the first round's**, the first in round 60, from "
        "character 1 on; no text failed; it was to take 120 minutes, and ended before.",
        "",
        "A figure *grows* or *falls* where the 95 % interval of its slope leaves out 0, and is *steady* where that lies within "
        "1 % an hour (process memory and server memory), 5 % an hour (latency) on either side.",
    ]


LEAK = """
import itertools, sys, time
from affq.inference import probes, soak
from affq.models.engines.transformers import Transformers
from affq.results import Kind, Series, records
from affq.study import load_study, prompts

class Leaking(Transformers):
    kept = []
    def texts(self, batch, at_token=None):
        self.kept.append(b"1" * 200_000)
        return super().texts(batch, at_token)

record = records(sys.argv[2], load_study(sys.argv[1]))[0]
for kind, rounds in ((Transformers, 40), (Leaking, 30)):
    serving = kind(record.run)
    serving.import_all()
    serving.instruments()
    serving.load()
    requests = record.run.study.requests
    serving.make_ready(requests)
    probes.settle()
    series = Series(record, Kind.SOAK)
    series.start({"hardware": probes.hardware("cpu"), "weights_sha256": kind.__name__}, {"minutes": 1})
    clock = lambda: 300 * time.perf_counter()  # five minutes a second
    for rows, reading in itertools.islice(soak.rounds(serving, prompts.to_time(requests, 2), 1e9, clock=clock), rounds):
        series.append(rows, reading)
"""


def test_leak_of_a_real_process_is_found_and_where_there_is_none_none_is(write_study, tmp_path, tiny_llama):
    path = write_study(models=[str(tiny_llama)], precisions=["fp32"])
    subprocess.run([*kernel.python(LEAK), path, tmp_path / "results"], check=True, capture_output=True)
    record = records(tmp_path / "results", load_study(path))[0]
    leaking = analysis.drifts([record]).set_index("figure")
    sound = Series(record, Kind.SOAK).folder / "attempts" / "1"
    for file in sound.iterdir():
        file.replace(sound.parents[1] / file.name)
    assert leaking["verdict"]["process memory"] == "grows"
    # From the second of 30 rounds to the last: 28 times two texts of 200 kB.
    assert leaking["over_soak_bytes"]["process memory"] == pytest.approx(28 * 2 * 200_000, rel=0.1)
    assert analysis.drifts([record]).set_index("figure")["verdict"]["process memory"] != "grows"


@pytest.fixture
def served(write_study, tmp_path, tiny_llama):
    """A study with one run, by llama.cpp's server, and the command that soaks it for some seconds."""
    pytest.importorskip("xllamacpp")
    import transformers
    from test_llama_cpp import save

    model = save(tmp_path / "small.gguf", transformers.AutoTokenizer.from_pretrained(tiny_llama), "Q4_1")
    engines = [{"engine": "llama.cpp", "precisions": ["stored"]}]
    study = write_study(models=[str(model)], engines=engines, generation={"max_new_tokens": 64})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [Path(sys.executable).with_name("affq"), "soak", study.name, "--minutes", "0.1"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return lambda: subprocess.Popen(command, cwd=study.parent, env=environment, **streams)


def rounds_of(folder):
    """Give the rounds whose readings are there."""
    paths = folder.glob("reports/toy/runs/*/soak/readings.jsonl")
    return [json.loads(line) for path in paths for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def wait_until(true, seconds=300):
    deadline = time.monotonic() + seconds
    while not (answer := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


def end(soaking, target):
    if target == "its server":
        (server,) = [
            child for child in psutil.Process(soaking.pid).children(recursive=True) if "llama_child" in str(child.cmdline())
        ]
        server.kill()
    else:
        soaking.send_signal(signal.SIGKILL if target == "affq" else signal.SIGINT)


@pytest.mark.full
@pytest.mark.parametrize("target", ["affq", "its server", "Ctrl-C"])
def test_soak_that_is_ended_leaves_no_process_and_the_same_command_goes_on(served, tmp_path, target):
    soaking = served()
    assert wait_until(lambda: len(rounds_of(tmp_path)) > 2), soaking.communicate()
    every = psutil.Process(soaking.pid).children(recursive=True)
    assert len(every) >= 2  # the notebook's process, and llama.cpp's
    end(soaking, target)
    said, _ = soaking.communicate(timeout=300)
    assert wait_until(lambda: not [child for child in every if child.is_running()]), every
    assert soaking.returncode == {"affq": -signal.SIGKILL, "its server": 1, "Ctrl-C": 130}[target], said
    assert ("goes on from" in said) == (target != "affq")
    before = rounds_of(tmp_path)
    assert {reading["process"] for reading in before} == {1}
    again = served()
    said, _ = again.communicate(timeout=300)
    after = rounds_of(tmp_path)
    assert again.returncode == 0, said
    whole = before[:-1] if target == "its server" else before  # a round in which all failed may be its last
    assert after[: len(whole)] == whole and after[-1]["process"] == 2
    assert after[-1]["start_s"] < 6 < after[-1]["start_s"] + after[-1]["seconds"] + 1  # of both processes together
    done, _ = served().communicate(timeout=300)
    assert "done before" in done and rounds_of(tmp_path) == after


@pytest.mark.parametrize(
    "options, problem",
    [
        ([], "affq soak takes --hours or --minutes; affq soak default --minutes 30"),
        (["--hours", "1", "--minutes", "5"], "affq soak takes --hours or --minutes; affq soak default --minutes 30"),
        (["--minutes", "0"], "a soak takes more than no time, and a year at most; found 0 minutes"),
        (["--hours", "9000"], "a soak takes more than no time, and a year at most; found 540000 minutes"),
    ],
)
def test_soak_takes_one_length(tmp_path, options, problem):
    said = affq("soak", "default", *options, cwd=tmp_path)
    assert (said.returncode, said.stderr) == (2, f"affq: {problem}\n")
