"""Drive papermill over a study: each run in a process of its own, what is done skipped, what fails a row."""

import logging
import os
import sys
import threading
import time
from contextlib import contextmanager

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from affq.errors import InputError
from affq.inference import probes
from affq.results import NOTEBOOKS, FailureKind, Status, labels, locks, records, study_folder
from affq.runner import endings, estimate
from affq.runner.planning import plan
from affq.runner.progress import watched

KERNEL = "python3"
START_TIMEOUT_S = 120  # of a kernel, on a busy machine
KERNEL_ATTEMPTS = 3  # of a run whose kernel dies without a word


def run_study(study, results, tell, choice, fail_fast=False):
    """Execute the runs that `plan` says are to be; return the names of the chosen runs that failed.

    A run that fails leaves the others going, unless `fail_fast`. Weights are fetched first: no run reaches the network.
    tell(event) is told what goes on; `progress` lists the events. Raises InputError if another process holds the results.
    """
    check_kernel()
    wanted = {planned.model for planned in plan(study, results, choice) if planned.to_run}
    folder = study_folder(results, study) / "runs"
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is said before a download
    for model in study.models:
        if model.name in wanted:
            model.fetch(lambda words: tell({"event": "fetching", "words": words}))
    with locks.held(folder, "lock", lambda words: tell({"event": "fetching", "words": words})):
        # A kernel whose affq was killed may live on, and write.
        locks.end_processes(_mark(folder))
        return _run_all(study, plan(study, results, choice), results, tell, fail_fast)


def _run_all(study, every, results, tell, fail_fast):
    began_s = time.monotonic()
    to_run = [planned.record for planned in every if planned.to_run]
    guesses = _guess_s(study, to_run)
    known_s = None if None in guesses.values() else sum(guesses.values())
    tell({"event": "study_begins", "study": study.name, "runs": len(every), "to_run": len(to_run), "estimate_s": known_s})
    failed, ok = [], 0
    spread = study.measurement.processes > 1
    if spread:
        _time_again(study, every, results, tell)
    for number, planned in enumerate(every, 1):
        record, status, note, start_s = planned.record, planned.status, planned.reason, time.monotonic()
        about = _about(number, every)
        if planned.to_run:
            guess_s, known_s = guesses[planned.run_id], known_s and known_s - guesses[planned.run_id]

            def look(event, about=about, later_s=known_s):
                left_s = event["left_s"]
                later = {"study_left_s": None if None in (left_s, later_s) else left_s + later_s}
                tell({"event": "run", **about, **event, **later})

            if not spread or record.failure() is None:
                with watched(record, guess_s, look):
                    execute_run(record, results, planned.keeps_texts)
            state = record.state()
            status, note = state.status, state.note
        took = {"executed": planned.to_run, "elapsed_s": time.monotonic() - start_s, "log": str(record.folder / "1_generate.log")}
        tell({"event": "run_ended", **about, "status": status, "note": note, **took})
        ok += status.has_figures
        if status == Status.FAILED:
            failed.append(planned.run_id)
            if fail_fast and planned.to_run:
                break
    elapsed_s = time.monotonic() - began_s
    tell({"event": "study_ended", "study": study.name, "ok": ok, "runs": len(every), "elapsed_s": elapsed_s})
    return failed


def _about(number, every):
    planned = every[number - 1]
    about = {"number": number, "runs": len(every), "run_id": planned.run_id}
    return about | {"model": planned.model, "precision": planned.precision}


def _time_again(study, every, results, tell):
    """Execute the further processes of all runs, the first processes coming later: each process over all runs in turn.

    So the processes of a run are spread over the study, and a machine that is slower for some minutes is so for all runs.
    """
    for process in range(study.measurement.processes, 1, -1):
        for number, planned in enumerate(every, 1):
            about = {"event": "run", **_about(number, every), "study_left_s": None}
            if planned.to_run and (process == study.measurement.processes or planned.record.failure() is None):
                with watched(planned.record, None, lambda event, about=about: tell({**event, **about})):
                    execute_run(planned.record, results, planned.keeps_texts, process)


def _guess_s(study, to_run):
    """Estimate the seconds of each run that is to be done: {run id: seconds, or None where nothing is known}."""
    device = study.device
    if device != "cpu" and to_run:
        import torch  # takes seconds: only where something is to be done

        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("the study asks for device 'cuda', and torch sees none here; use device: cpu, or auto")
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return {record.run.id: estimate.seconds(record.run, device) for record in to_run}


def execute_run(record, results, texts_kept=True, process=1):
    """Execute the generating notebook for one run; whatever ends it early is recorded as its failure.

    texts_kept: go on from the whole batches that an earlier attempt left. process: the highest comes first, and times texts
    alone; the first comes last. A kernel that dies is begun again, up to KERNEL_ATTEMPTS in all.
    """
    record.folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, KERNEL_ATTEMPTS + 1):
        if attempt > 1 or process == record.run.study.measurement.processes:
            record.set_aside(texts=not texts_kept)
        failure = _attempt(record, results, process, last=attempt == KERNEL_ATTEMPTS)
        if failure is None or record.complete:  # killed behind its last record, it has ended well
            return
        record.fail(failure)
        if failure.kind != FailureKind.KERNEL_DIED:
            return
        texts_kept = True


def _attempt(record, results, process, last):
    """Execute the generating notebook once, for one process; give how it ended early, in the words of `endings`, or None."""
    run, limits = record.run, record.run.study.limits
    parameters = {"study": run.study.source, "model": run.model.name, "precision": run.precision, "results": str(results)}
    parameters["process"] = process
    killed_before, free_bytes, too_long = endings.oom_kills(), probes.free_bytes(), threading.Event()
    mark = _mark(record.folder.parent)

    def end():
        too_long.set()
        locks.end_processes(mark)

    watch = threading.Timer(limits.run_s, end)
    watch.daemon = True
    watch.start()
    without = ("first process",) if process > 1 else ()
    try:
        execute("1_generate", record.folder / "1_generate.ipynb", parameters, limits.cell_s, mark, without)
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # at exit it would tell of the cell that nobody waits for now
        record.fail(endings.INTERRUPTED)
        raise
    except Exception as error:  # a kernel that does not start, a message that does not arrive: the other runs go on
        if too_long.is_set():
            return endings.of_timeout("run", limits.run_s)
        if isinstance(error, CellTimeoutError):
            return endings.of_timeout("cell", limits.cell_s)
        if isinstance(error, DeadKernelError):
            return endings.of_dead_kernel(run, free_bytes, killed_before, again=not last)
        if isinstance(error, PapermillExecutionError):
            return endings.of_error(run, free_bytes, error.ename, error.evalue)
        return endings.of_error(run, free_bytes, type(error).__name__, str(error))
    finally:
        watch.cancel()
        locks.end_processes(mark)  # its children, and itself if it does not listen
    if not (record.complete if process == 1 else record.has_pass(process)):  # papermill calls a sys.exit in a cell a success
        return endings.UNFINISHED
    return None


def _mark(folder):
    return str(folder.resolve())


def execute(name, output, parameters, cell_s=None, mark="", without=()):
    """Execute one notebook template with parameters, of JSON types, to `output`; no cell longer than `cell_s` seconds.

    mark: what locks.end_processes knows the notebook's processes by. without: tags of cells that are left out.

    Raises ValueError for a parameter that the template does not have (papermill would only log it, and use the default).
    """
    template = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    template.cells = [cell for cell in template.cells if not set(without) & set(cell.metadata.get("tags", ()))]
    target = str(output).replace("{", "{{").replace("}", "}}")  # papermill formats its paths: a brace would be a field
    if unknown := set(parameters) - set(papermill.inspect_notebook(template)):
        raise ValueError(f"{name}.ipynb has no parameter {', '.join(sorted(unknown))}")
    with open(output.with_suffix(".log"), "w", encoding="utf-8") as log, _kernels_environment(mark), _stderr_to(log):
        papermill.execute_notebook(
            template,
            target,
            parameters,
            kernel_name=KERNEL,
            progress_bar=False,
            start_timeout=START_TIMEOUT_S,
            execution_timeout=cell_s,
            coalesce_streams=True,
            stdout_file=log,
            stderr_file=log,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # texts pass between the processes
        )


@contextmanager
def _kernels_environment(mark):
    """Change what kernels inherit: no network, since what a notebook loads was fetched before, and so no hub token either."""
    before = dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "1", locks.MARK: mark}
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _stderr_to(log):
    """Send what this process and its kernels write to their standard error, below Python even, to a log."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def check_kernel():
    """Raise InputError unless the kernel is this environment's Python: another one has other libraries."""
    try:
        program = KernelSpecManager().get_kernel_spec(KERNEL).argv[0]
    except NoSuchKernel:
        raise InputError(
            f"no Jupyter kernel {KERNEL!r} is installed; install it: {sys.executable} -m ipykernel install --sys-prefix"
        ) from None
    if program not in ("python", "python3", sys.executable):  # jupyter resolves the bare names to the running Python
        raise InputError(
            f"the Jupyter kernel {KERNEL!r} is {program}, not this environment's {sys.executable}; "
            f"install this one's: {sys.executable} -m ipykernel install --sys-prefix"
        )


def score_study(study, results):
    """Execute the scoring notebook over the complete runs: scores that are there stay."""
    _need_complete(study, results)
    check_kernel()
    for judge in study.judges:
        judge.fetch(print)
        judge.need(study.emotions)
    if study.perplexity:
        study.perplexity.fetch(print)
    _execute_over(study, results, "2_score")


def summarize_study(study, results):
    """Execute the summary notebook, which writes tables and charts; return the path of the executed notebook.

    Cells with a tag are left out where the study has no such thing: texts to be judged, throughput, a profile.
    """
    _need_complete(study, results)
    has = {"throughput": study.measurement.throughput, "profile": study.measurement.profile}
    has |= {"judged": study.judged, "judges": study.judged and len(study.judges) > 1}
    has["labels"] = bool(labels.kept(results, study))
    return _execute_over(study, results, "3_summary", [tag for tag, there in has.items() if not there])


def _execute_over(study, results, name, without=()):
    folder = study_folder(results, study) / "runs"
    output, mark = folder / f"{name}.ipynb", f"{_mark(folder)}: scores"
    try:
        with locks.held(folder, "scoring", print):
            locks.end_processes(mark)
            try:
                execute(name, output, {"study": study.source, "results": str(results)}, mark=mark, without=without)
            finally:
                locks.end_processes(mark)
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from None
        raise InputError(f"{name}.ipynb ended with {error.ename}: {error.evalue}; where it ended is in {output}") from None
    except DeadKernelError:
        raise InputError(f"the process of {name}.ipynb ended without a word, often for want of memory; try again") from None
    except RuntimeError as error:  # a kernel that does not start
        raise InputError(f"{name}.ipynb did not begin: {error}; try again") from None
    return output


def _need_complete(study, results):
    if not any(record.complete for record in records(results, study)):
        raise InputError(
            f"no run of study {study.name} in {study_folder(results, study)} is complete; affq run {study.source} first"
        )
