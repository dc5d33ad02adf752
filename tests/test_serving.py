"""Real servers under load, and affq load: what is kept, what goes on, and what is left when anything is killed."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import affq
from servers import llama_server, proxy, save_as_gguf

from affq.errors import InputError
from affq.inference import ServerError, load
from affq.models import fetch, serving_engine_of
from affq.models.engines import server
from affq.results import Kind, Record, Series, locks
from affq.study import load_study

pytest.importorskip("xllamacpp", reason="llama.cpp's server is not here: pip install 'affq[llama.cpp]'")
LLAMA_CPP = [{"engine": "llama.cpp", "precisions": ["stored"]}]
LOAD = {"streams": [1, 3], "rates": [20], "texts": 6, "repetitions": 2, "ttft_s": 0.5}


@pytest.fixture(scope="module")
def tiny_file(tiny_llama, tmp_path_factory):
    return save_as_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of this file's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def serving(write_study):
    """Give the engine of a run, serving three at once; it ends with the test."""
    begun = []

    def give(file, engines=LLAMA_CPP, **values):
        study = load_study(write_study(models=[str(file)], engines=engines, **values))
        (run,) = study.runs()
        fetch(run.model, run.precision, run.engine, lambda words: None)
        engine = serving_engine_of(run)
        begun.append(engine)
        engine.about()
        engine.import_all()
        engine.serve(3)
        return engine

    yield give
    for engine in begun:
        engine.close()


def measured(serving, level, texts):
    return load.measure(serving, serving.run.study.requests, level, texts, seed=0)


def by_key(rows):
    return {(row["prompt_id"], row["emotion"]): (row["text"], row["new_tokens"], row["ended"]) for row in rows}


def test_llama_cpp_gives_texts_under_load_as_it_does_in_a_batch_of_one(serving, tiny_file):
    engine = serving(tiny_file, generation={"max_new_tokens": 12})
    alone, _ = measured(engine, load.Level(0, streams=1), 12)
    at_once, _ = measured(engine, load.Level(1, streams=3), 12)
    open_loop, _ = measured(engine, load.Level(2, rate=50.0), 6)
    assert not any(row["error"] for row in (*alone, *at_once, *open_loop)) and len(by_key(alone)) == 6
    # float32 on one processor: the batch changes no text of this model.
    requests = engine.run.study.requests
    expected = by_key([engine.texts([request])[0][0] for request in requests])
    assert by_key(alone) == by_key(at_once) == by_key(open_loop) == expected
    for row in alone:
        assert row["sent_s"] <= row["first_s"] == row["moments_s"][0] and row["moments_s"][-1] <= row["end_s"]
        assert 0 < len(row["moments_s"]) <= row["new_tokens"] + row["ended"]


def test_openai_server_gives_the_texts_that_it_gives_one_by_one_and_its_own_count(serving, tiny_file):
    with llama_server(tiny_file) as (address, _):
        named = [{"openai": address, "model": str(tiny_file), "name": "local"}]
        engine = serving(tiny_file, named, precisions=["stored"])
        rows, reading = measured(engine, load.Level(0, streams=3), 6)
        expected = by_key([engine.texts([request])[0][0] for request in engine.run.study.requests])
        assert by_key(rows) == expected and not any(row["error"] for row in rows)
        assert engine.about()["tokens_by"] == "usage" and reading["client_busy"] > 0


def test_prompt_is_computed_anew_each_time_and_the_key_is_in_no_error(serving, tiny_file, monkeypatch):
    monkeypatch.setenv(server.KEY, "sk-nobody-may-read-this")
    with llama_server(tiny_file) as (address, _), proxy(address) as before:
        named = [{"openai": before.address, "model": str(tiny_file), "name": "local"}]
        engine = serving(tiny_file, named, precisions=["stored"])
        before.asked.clear()
        measured(engine, load.Level(0, streams=2), 6)
        assert len({body["cache_salt"] for body in before.asked}) == 6
        refusal = 429, {}, {"error": {"message": "too many for sk-nobody-may-read-this"}}
        before.answer = lambda path, body: refusal if body else None
        rows, _ = measured(engine, load.Level(0, streams=2), 2)
        assert [row["error"] for row in rows] == [f"the server answers 429: too many for {server.KEY}"] * 2


@pytest.mark.parametrize("kind", ["llama.cpp", "an address"])
def test_server_that_is_killed_ends_the_level(serving, tiny_file, kind, monkeypatch):
    monkeypatch.setattr(server, "FIRST_WAIT_S", 0.01)
    with llama_server(tiny_file) as (address, process):
        named = [{"openai": address, "model": str(tiny_file), "name": "local"}]
        long = {"max_new_tokens": 200}
        engine = serving(tiny_file, named if kind == "an address" else LLAMA_CPP, precisions=["stored"], generation=long)
        pid = process.pid if kind == "an address" else engine._server.pid
        threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(ServerError, match="llama.cpp is gone: .* status -9|does not answer"):
            measured(engine, load.Level(0, streams=3), 100_000)


def test_engine_that_does_not_serve_is_refused(write_study, tiny_llama):
    (run,) = load_study(write_study(models=[str(tiny_llama)], precisions=["fp32"])).runs()
    with pytest.raises(InputError, match="the engine transformers serves nobody"):
        serving_engine_of(run)


def series_of(path, results):
    (run,) = (run for run in load_study(path).runs() if run.engine.name == "llama.cpp")
    return Series(Record(results, run), Kind.LOAD)


def test_affq_load_keeps_every_level_and_what_is_done_stays(write_study, tiny_file):
    engines = ["transformers", *LLAMA_CPP]
    path = write_study(models=[str(tiny_file)], precisions=["fp32"], engines=engines, load=LOAD)
    done = affq("load", path.name, cwd=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "transformers cannot be asked by several at once: its runs are left out" in done.stdout
    assert "3 streams, repetition 2: 6 texts in" in done.stdout and "20 texts a second, repetition 1" in done.stdout
    series = series_of(path, path.parent / "reports")
    rows, readings = series.rows(), series.readings()
    assert series.complete and series.settings() == {name: LOAD[name] for name in ("streams", "rates", "texts", "repetitions")}
    assert [(reading["repetition"], reading["level"]) for reading in readings] == [(r, n) for r in range(2) for n in range(3)]
    assert len(rows) == 36 and not any(row["error"] for row in rows)
    assert all(0 <= reading["client_busy"] and 0 <= reading["lag_s"] for reading in readings)
    again = affq("load", path.name, cwd=path.parent)
    assert again.returncode == 0 and "done before" in again.stdout and series.rows() == rows


def test_study_without_load_says_how_to_ask_for_it(write_study, tiny_llama):
    path = write_study(models=[str(tiny_llama)], precisions=["fp32"])
    refused = affq("load", path.name, cwd=path.parent)
    assert refused.returncode == 2 and "give it a line such as: load: {streams: [1, 2, 4, 8, 16], texts: 6}" in refused.stderr
    path = write_study(models=[str(tiny_llama)], precisions=["fp32"], load=LOAD)
    refused = affq("load", path.name, cwd=path.parent)
    assert refused.returncode == 2 and "transformers cannot be asked by several at once" in refused.stderr


def left(path):
    """Return the processes that work on a study's results, and llama.cpp's sockets."""
    mark = str((path.parent / "reports" / path.stem / "runs").resolve())
    marked = [process for process in psutil.process_iter() if locks._marked(process, mark)]
    return marked, list(Path(tempfile.gettempdir()).glob("affq-llama-*/*.sock"))


@pytest.mark.full
@pytest.mark.parametrize("end", ["kill -9 of affq", "kill -9 of the kernel", "kill -9 of the server", "Ctrl-C", "SIGTERM"])
def test_whatever_ends_it_no_process_is_left_and_the_same_command_goes_on(write_study, tiny_file, end, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    asked = {"streams": [1], "rates": [2], "texts": 12, "repetitions": 1}  # the open loop takes about six seconds
    path = write_study(models=[str(tiny_file)], engines=LLAMA_CPP, precisions=["stored"], load=asked)
    command = [sys.executable, "-c", "from affq.start import entry; entry()", "load", path.name]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": path.parent}
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(command, env=here, **pipes)
    next(line for line in running.stdout if "1 stream, repetition 1" in line)
    marked, sockets = left(path)
    children = [process for process in marked if "llama_child.py" in " ".join(process.cmdline())]
    assert len(children) == len(sockets) == 1 and len(marked) == 2
    (kernel,) = set(marked) - set(children)
    victims = {"kill -9 of the kernel": kernel, "kill -9 of the server": children[0]}
    number = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}.get(end, signal.SIGKILL)
    os.kill(victims[end].pid if end in victims else running.pid, number)
    out, err = running.communicate(timeout=60)
    if end == "kill -9 of affq":
        deadline = time.monotonic() + 20
        while left(path)[0] and time.monotonic() < deadline:
            time.sleep(0.1)
    elif end == "kill -9 of the server":
        assert running.returncode == 1 and "server_failed: llama.cpp is gone: its process ended with status -9" in out
    elif end == "kill -9 of the kernel":
        assert running.returncode == 1 and "died without an error message" in out
    else:
        assert running.returncode == 130 and "the same command goes on from there" in err
    assert left(path)[0] == [] and (end == "kill -9 of the server" or left(path)[1] == [])
    series = series_of(path, path.parent / "reports")
    assert not series.complete and len(series.readings()) == 1
    first = series.rows()
    done = affq("load", path.name, cwd=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert series.complete and series.rows()[: len(first)] == first and len(series.rows()) == 24
    assert not list(series.folder.glob("attempts/*"))
