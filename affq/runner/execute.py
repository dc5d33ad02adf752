"""Execute the notebooks of a study with papermill: each run in a process of its own; a run that fails leaves the others going."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from affq import files
from affq.errors import InputError, command
from affq.inference import probes
from affq.models import SERVING, fetch
from affq.results import (
    NOTEBOOKS,
    Failure,
    FailureKind,
    Kind,
    Record,
    Scored,
    Series,
    Status,
    kept_labels,
    locks,
    records,
    study_folder,
    there,
    usable,
)
from affq.runner import endings, estimate, kernel
from affq.runner.planning import Choice, Planned, plan
from affq.runner.progress import Fetching, OfRun, Progress, RunEnded, RunGoesOn, StudyBegins, StudyEnded, Tell, followed, watched
from affq.study import Run, Study

START_TIMEOUT_S = 120  # of a kernel, on a busy machine
KERNEL_ATTEMPTS = 3  # of a run whose kernel dies without an error message


def run_study(study: Study, results: Path | str, tell: Tell, choice: Choice, fail_fast: bool = False) -> list[str]:
    """Execute the runs that `plan` says are to be executed; return the ids of the chosen runs that failed.

    A run that fails leaves the others going, unless `fail_fast`. Weights are fetched first: no run reaches the network.
    tell(event) is told what goes on. Raises InputError if another process holds the results.
    """
    to_fetch = [planned.run for planned in plan(study, results, choice) if planned.to_run]
    folder = study_folder(results, study) / "runs"
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is said before a download
    for run in to_fetch:
        fetch(run.model, run.precision, run.engine, lambda words: tell(Fetching(words)))
    with locks.held(folder, "lock", lambda words: tell(Fetching(words))):
        # A kernel whose affq was killed may live on, and write.
        locks.end_processes(_mark(folder))
        return _run_all(study, plan(study, results, choice), results, tell, fail_fast)


def _run_all(study: Study, chosen: Sequence[Planned], results: Path | str, tell: Tell, fail_fast: bool) -> list[str]:
    began_s, every = time.monotonic(), len(study.runs())
    to_run = [planned.record for planned in chosen if planned.to_run]
    guesses = _guess_s(study, to_run)
    later_s = _sum(guesses.values())
    tell(StudyBegins(study.name, len(chosen), every, len(to_run), later_s))
    failed, ok = [], 0
    spread = study.measurement.processes > 1
    if spread:
        _time_again(study, chosen, results, tell)
    for number, planned in enumerate(chosen, 1):
        record, state, note, start_s = planned.record, planned.state, planned.reason, time.monotonic()
        about = OfRun(number, len(chosen), record.run.id, planned.model, planned.precision, planned.engine)
        if planned.to_run:
            guess_s = guesses[record.run.id]
            later_s = None if later_s is None or guess_s is None else later_s - guess_s
            if not spread or record.failure() is None:
                with watched(record, guess_s, _telling(tell, about, later_s)):
                    execute_run(record, results, planned.keeps_texts)
            state = record.state()
            note = state.note
        log, elapsed_s = str(record.folder / "1_generate.log"), time.monotonic() - start_s
        tell(RunEnded(**asdict(about), status=state.status, note=note, executed=planned.to_run, elapsed_s=elapsed_s, log=log))
        ok += state.status.has_figures
        if state.status == Status.FAILED:
            failed.append(record.run.id)
            if fail_fast and planned.to_run:
                break
    tell(StudyEnded(study.name, ok, len(chosen), every, time.monotonic() - began_s))
    return failed


def _telling(tell: Tell, about: OfRun, later_s: float | None) -> Callable[[Progress], None]:
    """Return what tells a run's progress as an event. later_s: what the runs after it take; None where it is not known."""

    def look(progress: Progress) -> None:
        tell(RunGoesOn(**asdict(about), **asdict(progress), study_left_s=_sum([progress.left_s, later_s])))

    return look


def _sum(seconds: Iterable[float | None]) -> float | None:
    """Return the sum; None where one of them is not known."""
    total_s = 0.0
    for part_s in seconds:
        if part_s is None:
            return None
        total_s += part_s
    return total_s


def _time_again(study: Study, chosen: Sequence[Planned], results: Path | str, tell: Tell) -> None:
    """Execute the further processes of all runs, the first processes coming later: each process over all runs in turn.

    So the processes of a run are spread over the study, and a machine that is slower for some minutes is so for all runs.
    """
    most = study.measurement.processes
    for process in range(most, 1, -1):
        for number, planned in enumerate(chosen, 1):
            record = planned.record
            if planned.to_run and (process == most or record.failure() is None):
                about = OfRun(number, len(chosen), planned.run_id, planned.model, planned.precision, planned.engine)
                with watched(record, None, _telling(tell, about, None)):
                    execute_run(record, results, planned.keeps_texts, process)


def _guess_s(study: Study, to_run: Sequence[Record[Run]]) -> dict[str, float | None]:
    """Return the seconds that each run is estimated to take, {run id: seconds}, None where nothing is known.

    Raises InputError if the study asks for a device that is not here.
    """
    device = study.device
    if device != "cpu" and to_run:
        device = "cuda" if _sees_gpu() else "cpu"
    if study.device == "cuda" and device == "cpu":
        problem = "the study asks for device 'cuda', and torch sees none here"
        raise InputError(problem, value="cuda", remedy="use device: cpu, or auto")
    return {record.run.id: estimate.seconds(record.run, device) for record in to_run}


def _sees_gpu() -> bool:
    """Return whether torch sees a GPU; its import takes seconds: a build for processors alone says so in its version."""
    if version("torch").endswith("+cpu"):
        return False
    import torch

    return torch.cuda.is_available()


def execute_run(record: Record[Run], results: Path | str, keep_texts: bool = True, process: int = 1) -> None:
    """Execute the generating notebook for one run; whatever ends it early is recorded as its failure.

    keep_texts: go on from the whole batches that an earlier attempt left. process: the highest comes first, and only times
    texts; the first comes last. A kernel that dies is begun again, up to KERNEL_ATTEMPTS in all.
    """
    record.folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, KERNEL_ATTEMPTS + 1):
        if attempt > 1 or process == record.run.study.measurement.processes:
            record.set_aside(texts=not keep_texts)
        failure = _attempt(record, results, process, last=attempt == KERNEL_ATTEMPTS)
        if failure is None or record.complete:  # killed behind its last record, it has ended well
            return
        record.fail(failure)
        if failure.kind != FailureKind.KERNEL_DIED:
            return
        keep_texts = True


def _attempt(record: Record[Run], results: Path | str, process: int, last: bool) -> Failure | None:
    """Execute the generating notebook once, for one process; return how it failed, None if it did not."""
    without = ("first process",) if process > 1 else ()
    output = record.folder / "1_generate.ipynb"
    try:
        failure = _execute_for(record.run, output, results, {"process": process}, last=last, without=without)
    except KeyboardInterrupt:
        record.fail(endings.INTERRUPTED)
        raise
    if failure is None and not (record.complete if process == 1 else record.has_pass(process)):
        return endings.UNFINISHED  # papermill calls a sys.exit in a cell a success
    return failure


def make_series(
    study: Study,
    results: Path | str,
    kind: Kind,
    only: Sequence[str],
    say: Callable[[str], None],
    settings: Mapping[str, Any],
    parameters: Mapping[str, int | float] = MappingProxyType({}),
    more_s: float = 0.0,
    force: bool = False,
) -> list[str]:
    """Execute the notebook of a kind of series for each run of a study that is chosen; return the ids of those that failed.

    A run that fails leaves the others going; a series that is complete, of the same settings, stays, unless `force`. say(words)
    is told what goes on. settings: of the series. parameters: the notebook's, beyond the run. more_s: what the study's limits do
    not count. Raises InputError if another process holds the results, or no run that is chosen has an engine for it.
    """
    choice, folder = Choice(tuple(only)), study_folder(results, study) / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    for planned in _fit(kind, plan(study, results, choice), say):
        fetch(planned.run.model, planned.run.precision, planned.run.engine, say)
    failed = []
    with locks.held(folder, "lock", say):
        locks.end_processes(_mark(folder))
        chosen = _fit(kind, plan(study, results, choice))  # with the ids of what was fetched
        for number, (run, record) in enumerate(((planned.run, planned.record) for planned in chosen), 1):
            name, series = f"[{number}/{len(chosen)}] {run.label}", Series(record, kind)
            if not force and series.complete and series.settings() == settings:
                others = ", ".join(series.changes())
                say(f"{name}: done before" + (f", by other software ({others})" if others else ""))
                continue
            say(f"{name} …")
            series.folder.mkdir(parents=True, exist_ok=True)
            if force:
                series.set_aside()
            output, start_s = series.folder / f"{kind.notebook}.ipynb", time.monotonic()
            with followed(series, lambda words, name=name: say(f"{name}: {words}")):  # type: ignore[misc]
                failure = _execute_for(run, output, results, parameters, more_s)
            if failure is None and not series.complete:
                failure = endings.UNFINISHED
            if failure is None or series.complete:
                say(f"{name}: {len(series.rows()):,} texts in {(time.monotonic() - start_s) / 60:,.1f} minutes")
            else:
                failed.append(run.id)
                goes_on = "the same command goes on from what is there"
                say(f"{name}: {failure.kind}: {failure.words}; {goes_on}; its log: {output.with_suffix('.log')}")
    return failed


def _fit(kind: Kind, chosen: list[Planned], say: Callable[[str], object] = bool) -> list[Planned]:
    """Return the runs whose engine can do what a kind of series asks; say which cannot. Raises InputError if none can."""
    if kind != Kind.LOAD:
        return chosen
    fit = [planned for planned in chosen if planned.run.engine.name in SERVING]
    others = list(dict.fromkeys(planned.engine for planned in chosen if planned not in fit))
    words = f"{', '.join(others)} cannot be asked by several at once"
    if not fit:
        raise InputError(words, value=others[0], choices=SERVING, remedy="name one of these under engines: in the study")
    if others:
        say(f"{words}: its runs are left out; {', '.join(SERVING)} can")
    return fit


def _execute_for(
    run: Run,
    output: Path,
    results: Path | str,
    parameters: Mapping[str, int | float],
    more_s: float = 0.0,
    last: bool = True,
    without: Collection[str] = (),
) -> Failure | None:
    """Execute a notebook of one run, named as `output`, within the study's limits; return how it failed, None if it did not.

    more_s: beyond the limits. last: whether a kernel that dies is not begun again. Whatever it started is ended, however it ends.
    """
    limits, too_long = run.study.limits, threading.Event()
    named = {"study": run.study.source, "model": run.model.name, "precision": run.precision, "engine": run.engine.label}
    killed_before, free_bytes, mark = endings.oom_kills(), probes.free_bytes(), _mark(study_folder(results, run.study) / "runs")

    def end() -> None:
        too_long.set()
        locks.end_processes(mark)

    watch = threading.Timer(limits.run_s + more_s, end)
    watch.daemon = True
    watch.start()
    try:
        execute(output.stem, output, {**named, "results": str(results), **parameters}, limits.cell_s + more_s, mark, without)
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # at exit it would tell of the cell that nobody waits for now
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
    return None


def _mark(folder: Path) -> str:
    return str(folder.resolve())


def execute(
    name: str,
    output: Path,
    parameters: Mapping[str, str | int | float],
    cell_s: float | None = None,
    mark: str = "",
    without: Collection[str] = (),
    save_cells: bool = True,
) -> None:
    """Execute one notebook template with parameters to `output`; no cell may take longer than `cell_s` seconds.

    mark: what locks.end_processes knows the notebook's processes by. without: tags of cells that are left out. save_cells:
    write `output` before and after each cell, not only at the notebook's end or where a cell fails. Raises ValueError for a
    parameter that the template does not have (papermill would only log it, and use the default).
    """
    template = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    template.cells = [cell for cell in template.cells if not set(without) & set(cell.metadata.get("tags", ()))]
    target = str(output).replace("{", "{{").replace("}", "}}")  # papermill formats its paths: a brace would be a field
    if unknown := set(parameters) - set(papermill.inspect_notebook(template)):
        raise ValueError(f"{name}.ipynb has no parameter {', '.join(sorted(unknown))}")
    log_file = output.with_suffix(".log")
    for path in (output, log_file):  # a link would be followed, and what it leads to written over
        path.unlink(missing_ok=True)
    with (
        files.named(output),
        open(log_file, "w", encoding="utf-8") as log,
        kernel.environment(mark) as config,
        _stderr_to(log),
    ):
        papermill.execute_notebook(
            template,
            target,
            parameters,
            kernel_name=kernel.NAME,
            kernel_manager_class=kernel.Kernel,
            progress_bar=False,
            start_timeout=START_TIMEOUT_S,
            execution_timeout=cell_s,
            coalesce_streams=True,
            request_save_on_cell_execute=save_cells,
            stdout_file=log,
            stderr_file=log,
            config=config,
        )


@contextmanager
def _stderr_to(log: TextIO) -> Iterator[None]:
    """Send what this process and its kernels write to their standard error, below Python even, to a log."""
    sys.stderr.flush()
    terminal = os.dup(2)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def score_study(study: Study, results: Path | str) -> None:
    """Execute the scoring notebook over the complete runs; scores that are there and not stale stay.

    Raises InputError if no run is complete.
    """
    _need_complete(study, results)
    every = records(results, study)
    complete, loads = [record for record in every if record.complete], usable(every, Kind.LOAD)
    for judge in study.judges:
        wanted: list[tuple[Scored, str]] = [(texts, judge.name) for texts in (*complete, *loads)]
        wanted += [(record, f"{judge.name}-masked") for record in complete]
        _fetch_scorer(judge.name, wanted, judge.fetch)
        if judge.here:
            judge.need(study.emotions)
    if study.perplexity:
        wanted = [(record, "perplexity") for record in complete]
        _fetch_scorer(study.perplexity.name, wanted, study.perplexity.fetch)
    _execute_over(study, results, "2_score")


def _fetch_scorer(name: str, wanted: Sequence[tuple[Scored, str]], fetch: Callable[[Callable[[str], None]], None]) -> None:
    """Fetch what makes these scores, unless they are there; where it cannot be had, stale scores stay, which is printed.

    wanted: of which texts, and the scorer's id. Raises InputError where it cannot be had and some texts have none of them.
    """
    if all(texts.scores(scorer) and not texts.scores_are_stale(scorer) for texts, scorer in wanted):
        return
    try:
        fetch(print)
    except InputError as error:
        if not all(texts.scores(scorer) for texts, scorer in wanted):
            raise
        print(f"{name} is not here, and its scores stay as they are: {error}")


def summarize_study(study: Study, results: Path | str) -> Path:
    """Execute the summary notebook, which writes tables and charts; return the path of the executed notebook.

    Cells with a tag are left out where the study has no such thing: texts to be judged, throughput, a profile, a load, runs whose
    energy was looked for. Raises InputError if no run is complete.
    """
    _need_complete(study, results)
    has = {"throughput": bool(study.measurement.throughput), "profile": study.measurement.profile}
    has |= {"judged": study.judged, "judges": study.judged and len(study.judges) > 1}
    has["engines"] = len({run.engine for run in study.runs()}) > 1
    has["labels"] = bool(kept_labels(results, study))
    has["long"] = study.judged and study.writes_long
    every = records(results, study)
    has |= {kind.value: any(there(record, kind) for record in every) for kind in Kind}
    complete = (record.measurements() for record in every if record.complete)
    has["energy"] = any("energy" in process for measurements in complete for process in measurements["passes"])
    without = [tag for tag, is_there in has.items() if not is_there]
    # It is over in seconds, and papermill would write all of it twice a cell, with every chart.
    return _execute_over(study, results, "3_summary", without, save_cells=False)


def _execute_over(study: Study, results: Path | str, name: str, without: Collection[str] = (), save_cells: bool = True) -> Path:
    """Execute a notebook over the records of a study; return the path of the executed one."""
    folder = study_folder(results, study) / "runs"
    output, mark = folder / f"{name}.ipynb", f"{_mark(folder)}: scores"
    try:
        with locks.held(folder, "scoring", print):
            locks.end_processes(mark)
            try:
                parameters = {"study": study.source, "results": str(results)}
                execute(name, output, parameters, mark=mark, without=without, save_cells=save_cells)
            finally:
                locks.end_processes(mark)
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from None
        if any(phrase in error.evalue for phrase in endings.DISK_WORDS):
            remedy = "mend the disk or the folder, and the same command goes on"
            raise InputError(f"{name}.ipynb cannot read or write ({error.evalue})", place=folder, remedy=remedy) from None
        problem = f"{name}.ipynb ended with {error.ename}: {error.evalue}"
        raise InputError(problem, remedy=f"where it ended is in {output}") from None
    except DeadKernelError:
        problem = f"the process of {name}.ipynb died without an error message, often for want of memory"
        raise InputError(problem, remedy="end other programs, and try again") from None
    except RuntimeError as error:  # a kernel that does not start
        raise InputError(f"{name}.ipynb did not begin: {error}", remedy="try again") from None
    return output


def _need_complete(study: Study, results: Path | str) -> None:
    if not any(record.complete for record in records(results, study)):
        problem = f"no run of study {study.name} in {{place}} is complete"
        raise InputError(problem, place=study_folder(results, study), remedy=f"{command('run', study.source, results)} first")
