"""Real papermill and real kernels over small broken notebooks: however a run ends, it ends as a row."""

import json
import os
from dataclasses import replace

import nbformat
import pytest
from conftest import ENVIRONMENT, MEASURED, complete, generations, said_of, timed

from affq.errors import InputError
from affq.results import locks
from affq.results import record as records
from affq.runner import endings, execute
from affq.runner.planning import Choice
from affq.runner.progress import RunEnded
from affq.study import load_study

GOES_ON = "the same command goes on from the texts that are there"


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Put a notebook that runs `source` in the place of 1_generate."""

    def put(source, name="1_generate"):
        folder = tmp_path / "broken"
        folder.mkdir(exist_ok=True)
        parameters = nbformat.v4.new_code_cell(
            "study = ''\nmodel = ''\nprecision = ''\nengine = ''\nresults = ''\nprocess = 1", metadata={"tags": ["parameters"]}
        )
        node = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(source)])
        node.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        nbformat.write(node, folder / f"{name}.ipynb")
        monkeypatch.setattr(execute, "NOTEBOOKS", folder)

    return put


@pytest.fixture
def record(write_study, tmp_path, tiny_llama):
    study = load_study(write_study(models=[str(tiny_llama)], precisions=["fp32"]))
    return records.records(tmp_path / "results {odd}", study)[0]


@pytest.mark.parametrize(
    "source, said",
    [
        ("import sys; sys.exit(0)", "error: the notebook ended without completing the run"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "kernel_died: the process of this run died without an error message; its log may say why; affq run with "
            "--redo-failed goes on from the texts that are there",
        ),
        ("1 / 0", "error: ZeroDivisionError: division by zero"),
        ("from affq.models.loading import LoadError\nraise LoadError('no such weights')", "load_failed: no such weights"),
        (
            "import torch\nraise torch.OutOfMemoryError('2 GiB')",
            "out_of_memory: 2 GiB; its weights alone need about 0.0 GB: try bf16, or once it is loaded, batch 1 takes less",
        ),
    ],
)
def test_every_end_is_recorded_with_its_kind(broken, record, source, said):
    broken(source)
    execute.execute_run(record, record.folder.parents[2])
    assert said_of(record) == ("failed", said)
    assert (record.folder / "1_generate.ipynb").exists() and (record.folder / "1_generate.log").exists()


def test_what_a_run_prints_is_in_its_log(broken, record):
    broken("print('so far so good'); 1 / 0")
    execute.execute_run(record, record.folder.parents[2])
    assert "so far so good" in (record.folder / "1_generate.log").read_text()


def test_notebook_cannot_reach_a_hub(broken, record):
    broken("from huggingface_hub import constants\nprint('offline', constants.HF_HUB_OFFLINE)")
    execute.execute_run(record, record.folder.parents[2])
    assert "offline True" in (record.folder / "1_generate.log").read_text()


def test_kernel_that_does_not_start_is_a_row(broken, record, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Kernel didn't respond in 120 seconds")

    monkeypatch.setattr(execute.papermill, "execute_notebook", refuse)
    broken("pass")
    execute.execute_run(record, record.folder.parents[2])
    assert said_of(record) == ("failed", "error: RuntimeError: Kernel didn't respond in 120 seconds")


def test_interrupted_run_is_recorded_and_the_interruption_goes_on(broken, record, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute.papermill, "execute_notebook", interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute.execute_run(record, record.folder.parents[2])
    assert said_of(record) == (
        "failed",
        f"interrupted: stopped by the user; {GOES_ON}",
    )


def test_parameter_that_the_template_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="2_score.ipynb has no parameter precison"):
        execute.execute("2_score", tmp_path / "out.ipynb", {"study": "default", "precison": "int8"})


@pytest.mark.parametrize(
    "source, said",
    [
        ("1 / 0", "3_summary.ipynb ended with ZeroDivisionError: division by zero; where it ended is in"),
        ("from affq import InputError\nraise InputError('a record is damaged')", "^a record is damaged$"),
        (
            "raise OSError(28, 'No space left on device')",
            r"cannot read or write \(.*No space left on device\) in .*; mend the disk",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "process of 3_summary.ipynb died without an error message"),
    ],
)
def test_summary_that_fails_is_one_sentence(broken, record, source, said):
    broken(source, "3_summary")
    complete(record)
    with pytest.raises(InputError, match=said):
        execute.summarize_study(record.run.study, record.folder.parents[2])


@pytest.mark.parametrize("source, left", [("1 / 0", True), ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", False)])
def test_summary_that_fails_leaves_its_own_notebook_or_none(broken, record, source, left):
    broken(source, "3_summary")
    notebook = complete(record).folder.parent / "3_summary.ipynb"
    notebook.write_text("the former one")
    with pytest.raises(InputError):
        execute.summarize_study(record.run.study, record.folder.parents[2])
    assert notebook.exists() == left and (not left or "ZeroDivisionError" in notebook.read_text())


def test_nothing_complete_is_refused_so_that_no_report_is_blanked(write_study, tmp_path):
    study = load_study(write_study())
    for action in (execute.score_study, execute.summarize_study):
        with pytest.raises(InputError, match="no run of study toy in .* is complete; affq run"):
            action(study, tmp_path / "results")


def limited(record, **limits):
    """Give the record of the same run in a study with other limits."""
    study = replace(record.run.study, limits=record.run.study.limits.model_copy(update=limits))
    return records.Record(record.folder.parents[2], replace(record.run, study=study))


@pytest.mark.parametrize("limit, what", [("cell_s", "cell"), ("run_s", "run")])
def test_kernel_that_hangs_is_ended_with_its_children(broken, record, limit, what):
    """It holds the interpreter's lock, so that it hears no request; its child has left its process group."""
    broken(
        "import ctypes, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "ctypes.PyDLL(None).sleep(600)"
    )
    record = limited(record, **{limit: 4})
    execute.execute_run(record, record.folder.parents[2])
    status, note = said_of(record)
    assert status == "failed" and note.startswith(
        f"timeout: a {what} took longer than the study's 4 s, and was ended; raise limits"
    )
    assert not record.failure().again
    assert locks.end_processes(execute._mark(record.folder.parent)) == []


DIES_TWICE = """
from pathlib import Path
import os, signal
count = Path({counter!r})
count.write_text(count.read_text() + "x" if count.exists() else "x")
if len(count.read_text()) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
raise ValueError("the third time")
"""


def test_dead_kernel_is_begun_again_and_the_history_stays(broken, record, tmp_path):
    broken(DIES_TWICE.format(counter=str(tmp_path / "counter")))
    execute.execute_run(record, record.folder.parents[2])
    assert said_of(record) == ("failed", "error: ValueError: the third time")
    earlier = [json.loads((record.folder / "attempts" / n / "failed.json").read_text()) for n in "12"]
    assert [failed["kind"] for failed in earlier] == ["kernel_died"] * 2


def test_kernel_that_always_dies_is_not_begun_for_ever(broken, record):
    broken("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    execute.execute_run(record, record.folder.parents[2])
    assert len(list((record.folder / "attempts").iterdir())) == execute.KERNEL_ATTEMPTS - 1
    assert not record.failure().again


@pytest.fixture
def four(broken, write_study, tiny_llama):
    """A study of four runs, each of which fails."""
    broken("raise ValueError('no')")
    return load_study(write_study(models=[str(tiny_llama)], precisions=["fp32", "bf16", "int8", "nf4"]))


def executed(study, results, choice, **options):
    events = []
    failed = execute.run_study(study, results, events.append, choice, **options)
    return failed, [event.precision for event in events if isinstance(event, RunEnded) and event.executed]


def test_failed_run_leaves_the_others_going_or_stops_them(four, tmp_path):
    failed, ran = executed(four, tmp_path / "results", Choice(only=("fp32", "bf16")), fail_fast=True)
    assert ran == ["fp32"] and len(failed) == 1
    failed, ran = executed(four, tmp_path / "results", Choice(only=("fp32", "bf16"), failed=True))
    assert ran == ["fp32", "bf16"] and len(failed) == 2


def test_second_run_on_the_same_results_says_who_holds_them(four, tmp_path):
    (tmp_path / "results" / "toy" / "runs").mkdir(parents=True)
    with locks.held(tmp_path / "results" / "toy" / "runs", "lock", print):
        with pytest.raises(InputError, match=rf"is held by process {os.getpid()} on .* since 20\d\d-"):
            executed(four, tmp_path / "results", Choice())
    assert len(executed(four, tmp_path / "results", Choice(only=("nf4",)))[0]) == 1


@pytest.mark.parametrize(
    "name, words, kind",
    [
        ("LoadError", "cannot load m: RuntimeError: DefaultCPUAllocator: can't allocate memory", "out_of_memory"),
        ("RuntimeError", "CUDA error: out of memory", "out_of_memory"),
        ("PrecisionError", "nf4 cannot be computed on cpu", "unsupported"),
        ("OSError", "[Errno 28] No space left on device", "error"),
    ],
)
def test_kind_of_an_error_follows_from_its_name_and_words(record, name, words, kind):
    ending = endings.of_error(record.run, 11_900_000_000, name, words)
    assert ending.kind == kind and ending.again == (name == "OSError")
    assert ("11.9 were free" in str(ending.remedy)) == (name == "LoadError")  # the host's memory, not the GPU's


def test_fail_fast_gets_past_what_failed_before_and_is_not_tried_again(four, tmp_path):
    executed(four, tmp_path / "results", Choice(only=("fp32",)))
    failed, ran = executed(four, tmp_path / "results", Choice(only=("fp32", "bf16", "int8")), fail_fast=True)
    assert ran == ["bf16"] and len(failed) == 2


@pytest.fixture
def three_processes(write_study, tmp_path, tiny_llama, monkeypatch):
    """A study of two runs in three processes, records written in the notebook's place; what was executed, in order."""
    measurement = {"texts": 1, "new_tokens": 2, "processes": 3}
    study = load_study(write_study(models=[str(tiny_llama)], precisions=["fp32", "bf16"], measurement=measurement))
    every, done, fails = records.records(tmp_path / "results", study), [], set()

    def in_its_place(name, output, parameters, cell_s, mark, without):
        key = (parameters["precision"], parameters["process"])
        done.append((*key, *without))
        record = next(record for record in every if record.run.precision == key[0])
        record.start(ENVIRONMENT, key[1])
        if key in fails:
            raise RuntimeError("no more")
        record.keep_pass(key[1], timed(study))
        if key[1] == 1:
            record.append(generations(study), {})
            record.finish(MEASURED)

    monkeypatch.setattr(execute, "execute", in_its_place)
    return lambda: execute.run_study(study, tmp_path / "results", lambda event: None, Choice()), every, done, fails


def test_processes_of_a_run_are_spread_over_the_study_and_the_first_has_the_texts(three_processes):
    run, every, done, _ = three_processes
    assert run() == [] and [record.state().status for record in every] == ["ok", "ok"]
    again = [(precision, process, "first process") for process in (3, 2) for precision in ("fp32", "bf16")]
    assert done == [*again, ("fp32", 1), ("bf16", 1)]
    assert [[one["process"] for one in record.measurements()["passes"]] for record in every] == [[1, 2, 3], [1, 2, 3]]


def test_run_whose_further_process_fails_goes_no_further_and_leaves_the_others_going(three_processes):
    run, every, done, fails = three_processes
    fails.add(("fp32", 3))
    assert run() == [every[0].run.id] and [record.state().status for record in every] == ["failed", "ok"]
    assert [key[:2] for key in done] == [("fp32", 3), ("bf16", 3), ("bf16", 2), ("bf16", 1)]
