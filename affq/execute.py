"""Drive papermill over a study: each run in a process of its own, what is done skipped, what fails a row."""

import os
import sys
import time
from contextlib import contextmanager

import papermill
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from affq import InputError, estimate, weights
from affq.judge import read_card
from affq.progress import watched
from affq.prompts import cross, read_prompts
from affq.records import NOTEBOOKS, records, study_folder

KERNEL = "python3"
START_TIMEOUT_S = 120  # of a kernel, on a busy machine
KINDS = {
    "PrecisionError": "unsupported",
    "LoadError": "load_failed",
    "InputError": "load_failed",
    "OutOfMemoryError": "out_of_memory",
    "MemoryError": "out_of_memory",
}
REMEDIES = {"out_of_memory": "choose a lower precision or a smaller batch"}


def run_study(study, results, tell):
    """Execute the runs that are missing, partial or failed; return the records of those that failed.

    A run that fails leaves the others going. Weights are fetched first: no run reaches the network. tell(event) is told what
    goes on; `progress` lists the events.
    """
    check_kernel()
    study_folder(results, study).mkdir(parents=True, exist_ok=True)  # what cannot be written is said before a download
    for model in study.models:
        model.fetch(lambda words: tell({"event": "fetching", "words": words}))
    began_s, every = time.monotonic(), records(results, study)
    states = [record.status() for record in every]
    to_run = [record for record, (status, _) in zip(every, states, strict=True) if status not in ("ok", "stale")]
    guesses = _guess_s(study, to_run)
    known_s = None if None in guesses.values() else sum(guesses.values())
    tell({"event": "study_begins", "study": study.name, "runs": len(every), "to_run": len(to_run), "estimate_s": known_s})
    texts_wanted = len(cross(read_prompts(study.prompts), study.emotions))
    failed = []
    for number, (record, (status, note)) in enumerate(zip(every, states, strict=True), 1):
        run, start_s = record.run, time.monotonic()
        about = {"number": number, "runs": len(every), "run_id": run.id, "model": run.model.name, "precision": run.precision}
        if executed := record in to_run:
            guess_s, known_s = guesses[run.id], known_s and known_s - guesses[run.id]

            def look(event, about=about, later_s=known_s):
                left_s = event["left_s"]
                later = {"study_left_s": None if None in (left_s, later_s) else left_s + later_s}
                tell({"event": "run", **about, **event, **later})

            with watched(record, texts_wanted, guess_s, look):
                execute_run(record, results)
            status, note = record.status()
        took = {"executed": executed, "elapsed_s": time.monotonic() - start_s, "log": str(record.folder / "1_generate.log")}
        tell({"event": "run_ended", **about, "status": status, "note": note, **took})
        if status == "failed":
            failed.append(record)
    ok, elapsed_s = len(every) - len(failed), time.monotonic() - began_s
    tell({"event": "study_ended", "study": study.name, "ok": ok, "runs": len(every), "elapsed_s": elapsed_s})
    return failed


def _guess_s(study, to_run):
    """Estimate the seconds of each run that is to be done: {run id: seconds, or None where nothing is known}."""
    device = study.device
    if device != "cpu" and to_run:
        import torch  # takes seconds: only where something is to be done

        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("the study asks for device 'cuda', and torch sees none here; use device: cpu, or auto")
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return {record.run.id: estimate.seconds(record.run, device) for record in to_run}


def execute_run(record, results):
    """Execute the generating notebook for one run; whatever ends it early is recorded as its failure."""
    run = record.run
    parameters = {"study": run.study.source, "model": run.model.name, "precision": run.precision, "results": str(results)}
    record.folder.mkdir(parents=True, exist_ok=True)
    try:
        execute("1_generate", record.folder / "1_generate.ipynb", parameters)
    except PapermillExecutionError as error:
        kind = KINDS.get(error.ename, "error")
        record.fail(kind, f"{error.ename}: {error.evalue}" if kind == "error" else error.evalue, REMEDIES.get(kind))
    except DeadKernelError:
        record.fail("kernel_died", "the process of this run ended without a word", "often the system's memory ran out")
    except Exception as error:  # a kernel that does not start, a message that does not arrive: the other runs go on
        record.fail("error", f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        record.fail("interrupted", "stopped by the user", "the same command begins this run again")
        raise
    else:
        if not record.complete:  # papermill calls a sys.exit in a cell a success
            record.fail("error", "the notebook ended without completing the run")


def execute(name, output, parameters):
    """Execute one notebook template with parameters, of JSON types, to `output`.

    Raises ValueError for a parameter that the template does not have (papermill would only log it, and use the default).
    """
    # papermill formats its paths: a brace in a folder's name would be taken for a field.
    template, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (NOTEBOOKS / f"{name}.ipynb", output))
    if unknown := set(parameters) - set(papermill.inspect_notebook(template)):
        raise ValueError(f"{name}.ipynb has no parameter {', '.join(sorted(unknown))}")
    with open(output.with_suffix(".log"), "w", encoding="utf-8") as log, _kernels_environment(), _stderr_to(log):
        papermill.execute_notebook(
            template,
            target,
            parameters,
            kernel_name=KERNEL,
            progress_bar=False,
            start_timeout=START_TIMEOUT_S,
            coalesce_streams=True,
            stdout_file=log,
            stderr_file=log,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # texts pass between the processes
        )


@contextmanager
def _kernels_environment():
    """Change what kernels inherit: no network, since what a notebook loads was fetched before, and so no hub token either."""
    before = dict(os.environ)
    os.environ["HF_HUB_OFFLINE"] = "1"
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
        weights.fetch(read_card(judge)[0]["encoder"])
    _execute_over(study, results, "2_score")


def summarize_study(study, results):
    """Execute the summary notebook, which writes tables and charts; return the path of the executed notebook."""
    _need_complete(study, results)
    return _execute_over(study, results, "3_summary")


def _execute_over(study, results, name):
    output = study_folder(results, study) / "runs" / f"{name}.ipynb"
    try:
        execute(name, output, {"study": study.source, "results": str(results)})
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from None
        raise InputError(f"{name}.ipynb ended with {error.ename}: {error.evalue}; where it ended is in {output}") from None
    except DeadKernelError:
        raise InputError(f"the process of {name}.ipynb ended without a word, often for want of memory; try again") from None
    return output


def _need_complete(study, results):
    if not any(record.complete for record in records(results, study)):
        raise InputError(
            f"no run of study {study.name} in {study_folder(results, study)} is complete; affq run {study.source} first"
        )
