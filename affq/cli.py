"""The commands: affq new, plan, try, run, load, soak, score, report, explore, notebooks, judge, annotate, study, doctor."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from affq import __version__, files
from affq.errors import InputError, command, printable

if TYPE_CHECKING:
    from affq.study import Study


def _studies(incomplete: str) -> list[str]:
    """Return the packaged studies, and the study files here, that begin so: what the shell suggests."""
    from affq.study import packaged

    names = [*packaged(), *(path.name for path in sorted(Path().glob("*.yaml")))]
    return [name for name in names if name.startswith(incomplete)]


NAME = "a packaged study (default), or a study file (mine.yaml)"
STUDY = Annotated[str, typer.Argument(help=NAME, autocompletion=_studies)]
STUDY_OR_MODEL = Annotated[
    str,
    typer.Argument(
        metavar="STUDY|MODEL", help=f"{NAME}; or a model: a folder, a .gguf file, owner/name", autocompletion=_studies
    ),
]
YEAR_MINUTES = 525_600
RESULTS = Annotated[Path, typer.Option(help="the folder of all studies' results")]
ONLY = Annotated[str | None, typer.Option(help="these runs: ids, models, precisions, with * for any letters: int8,llama*")]
STALE = Annotated[bool, typer.Option("--redo-stale", help="Do stale runs again.")]
FAILED = Annotated[bool, typer.Option("--redo-failed", help="Do failed runs again, also those that would fail again.")]
FORCE = Annotated[bool, typer.Option("--force", help="Do every run again; what is there moves to its attempts folder.")]
PRECISIONS = Annotated[str | None, typer.Option(hidden=True)]  # people type it here: they are told what does it


class _Commands(typer.core.TyperGroup):
    def invoke(self, ctx: Any) -> Any:  # typer has no public name for the type of its contexts
        """Print a line at Ctrl-C, where a command would otherwise end without one; signals of a batch system end it alike."""
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:  # nohup lets it go on without a terminal
                signal.signal(number, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("affq: stopped; the same command begins again", sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _say(line: str, file: IO[str] | None = None) -> None:
    print(printable(line), file=file, flush=True)


def _load(study: str, results: Path) -> "Study":
    """Return a study for whoever reads what is done of it, and say which models are not here."""
    from affq.study import load_study

    loaded = load_study(study, results)
    for note in loaded.notes:
        _say(note, sys.stderr)
    return loaded


def _listed(words: str | None) -> tuple[str, ...]:
    """Return the words of a list with commas; nothing where nothing was given."""
    return () if words is None else tuple(word.strip() for word in words.split(","))


def _need_no_precisions(precisions: str | None, verb: str, study: str) -> None:
    if precisions is not None:
        new = f"affq new MODEL --precisions {precisions} writes a study"
        remedy = f"{command(verb, study)} --only {precisions} chooses runs of a study, {new}"
        raise InputError(f"affq {verb} has no --precisions", value=precisions, remedy=remedy)


def _need_judged(study: "Study") -> None:
    if not study.judged:
        problem = f"study {study.name} has random weights: its texts mean nothing, and none is judged"
        raise InputError(problem, value=study.source)


def _version(asked: bool) -> None:
    if asked:
        _say(__version__)
        raise typer.Exit


VERSION = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")]


@app.callback()
def main(version: VERSION = False) -> None:
    """Which model, at which precision, is worth the GPU memory and the wait, for text that carries an emotion?"""
    try:
        Path.home()
    except RuntimeError:  # libraries would make a folder named ~ here, or end with a traceback
        problem = "the system does not say which folder is your home: HOME is not set, and you are not among its users"
        raise InputError(problem, remedy="set HOME to a folder that you can write to") from None


@app.command()
def new(
    model: Annotated[str, typer.Argument(help="a folder, a .gguf file, owner/name of the hub, or a name of affq's catalog")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the study file; else named as the model, here")] = None,
    precisions: Annotated[str | None, typer.Option(help="such as fp16,int8; else those of study default")] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of the hub")] = None,
    prompts: Annotated[str | None, typer.Option(help="a CSV file of seed prompts")] = None,
    emotions: Annotated[str | None, typer.Option(help="such as joy,sadness")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda")] = None,
) -> None:
    """Write the study file of a model of your own. What it leaves out is as in study default."""
    from affq.study import draft

    written = draft(model, out, _listed(precisions), revision, prompts, _listed(emotions), device)
    wrote = "Wrote" if written.write() else "Unchanged:"
    plans, runs = (command(verb, written.path) for verb in ("plan", "run"))
    _say(f"{wrote} {written.path}. {plans} shows its runs, {runs} executes them.")


@app.command()
def plan(
    study: STUDY_OR_MODEL,
    results: RESULTS = Path("reports"),
    only: ONLY = None,
    redo_stale: STALE = False,
    redo_failed: FAILED = False,
    force: FORCE = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one list of JSON objects.")] = False,
    precisions: PRECISIONS = None,
) -> None:
    """Show a study's runs: the status of each, why, the memory it takes, and what affq run with the same options would do."""
    _need_no_precisions(precisions, "plan", study)
    from affq.runner import planning
    from affq.study import draft, names_a_model, read_claims

    loaded = draft(study).study if names_a_model(study) else _load(study, results)
    every = planning.plan(loaded, results, planning.Choice(_listed(only), redo_stale, redo_failed, force))
    from affq.analysis import Results, planned_runs
    from affq.models import memory

    machine = memory.at_hand(loaded.device)
    rows = planned_runs(every, machine)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from affq.report import words

    change = words.planned_power(*Results(loaded, results).smallest_change) if loaded.judged else []
    lines = [*words.planned(rows, machine, read_claims(loaded.claims)), *words.left_out(loaded.left_out())]
    lines += [*words.lacking(planned.run for planned in every), *change]
    for line in [*lines, *planning.damaged_weights(loaded)]:
        _say(line)
    if other := planning.left_over(loaded, results):
        _say(f"Kept beside them, of other settings, prompts or weights: {', '.join(other)}")


@app.command("try")
def preview(
    study: STUDY_OR_MODEL,
    precision: Annotated[str | None, typer.Option(help="one of the study's; else the first that it names")] = None,
    model: Annotated[str | None, typer.Option(help="one of the study's; else the first that it names")] = None,
    engine: Annotated[str | None, typer.Option(help="one of the study's; else the first that it names")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="how many of the study's prompts, from the first on")] = 3,
) -> None:
    """Show what a study's first prompts give: a text for each emotion, and the emotion that is judged. Nothing is recorded.

    In a terminal a text is cut at the end of its line; in a pipe or a file it is whole.
    """
    from affq.study import draft, load_study, names_a_model

    loaded = draft(study).study if names_a_model(study) else load_study(study)
    _need_judged(loaded)
    from affq.runner import preview as previewing

    shown = previewing.preview(loaded, model, precision, engine, prompts, _say)
    for line in previewing.lines(shown, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        _say(line)


@app.command()
def run(
    study: STUDY_OR_MODEL,
    results: RESULTS = Path("reports"),
    only: ONLY = None,
    redo_stale: STALE = False,
    redo_failed: FAILED = False,
    force: FORCE = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Report failures only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write events, a JSON object a line.")] = False,
    precisions: PRECISIONS = None,
) -> None:
    """Execute the runs of a study that are not done. Exit status 1 if one failed.

    With a model instead of a study it does affq new MODEL first, and runs the study file that this writes.
    """
    _need_no_precisions(precisions, "run", study)
    if quiet and as_json:
        raise InputError("--quiet and --json exclude each other: events are for programs")
    if quiet or as_json:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when the hub's client is imported
    from affq.runner import planning, reporter, run_study
    from affq.study import draft, load_study, names_a_model

    written = draft(study) if names_a_model(study) else None
    fresh = written is not None and written.write()
    if written is not None:
        study = str(written.path)
    loaded = load_study(study)
    try:
        with reporter(as_json, quiet) as tell:
            choice = planning.Choice(_listed(only), redo_stale, redo_failed, force)
            failed = run_study(loaded, results, tell, choice, fail_fast)
    except KeyboardInterrupt:
        again = "the same command begins again" if force else "the same command goes on from there"
        _say(f"affq: stopped. What is done is kept; {again}.", sys.stderr)
        raise typer.Exit(130) from None
    except InputError:
        if fresh and not any(results.glob(f"{loaded.name}/runs/*--*")):  # a model that cannot be fetched leaves no study
            Path(study).unlink()
        raise
    if not as_json and not quiet:
        if fresh:
            _say(f"The study is in {study}.")
        if any(planned.status.has_figures for planned in planning.plan(loaded, results, planning.Choice())):
            _say(f"{command('report', study, results)} publishes what is done.")
    if failed:
        raise typer.Exit(1)


@app.command()
def load(
    study: STUDY,
    results: RESULTS = Path("reports"),
    only: ONLY = None,
    force: Annotated[bool, typer.Option("--force", help="Do every run again; what is there moves to load/attempts.")] = False,
) -> None:
    """Ask runs for texts as many users at once do, as load in the study says, where their engine serves. What is done stays.

    Exit status 1 if one failed.
    """
    from affq.results import Kind
    from affq.runner import make_series
    from affq.study import load_study

    loaded = load_study(study)
    if loaded.load is None:
        remedy = f"give it a line such as: load: {{streams: [1, 2, 4, 8, 16], texts: {loaded.texts_wanted}}}"
        raise InputError(f"study {loaded.name} does not say how many are to ask at once", value=loaded.name, remedy=remedy)
    asked = loaded.load.asked
    _make(lambda: make_series(loaded, results, Kind.LOAD, _listed(only), _say, asked, force=force), study, results)


def _make(make: Callable[[], list[str]], study: str, results: Path) -> None:
    """Make a series, and end with status 1 if a run failed."""
    try:
        failed = make()
    except KeyboardInterrupt:
        _say("affq: stopped. What is done is kept; the same command goes on from there.", sys.stderr)
        raise typer.Exit(130) from None
    _say(f"{command('report', study, results)} publishes what is done.")
    if failed:
        raise typer.Exit(1)


@app.command()
def soak(
    study: STUDY,
    hours: Annotated[float | None, typer.Option(help="how long, of each run; or --minutes")] = None,
    minutes: Annotated[float | None, typer.Option(help="how long, of each run; or --hours")] = None,
    results: RESULTS = Path("reports"),
    only: ONLY = None,
) -> None:
    """Let runs write the same texts for hours: do memory, time or texts drift? A soak that was stopped goes on.

    Exit status 1 if one failed.
    """
    if (hours is None) == (minutes is None):
        raise InputError("affq soak takes --hours or --minutes", remedy=f"{command('soak', study)} --minutes 30")
    soak_minutes = 60 * hours if hours is not None else minutes or 0
    if not 0 < soak_minutes <= YEAR_MINUTES:
        problem = f"a soak takes more than no time, and a year at most; found {soak_minutes:g} minutes"
        raise InputError(problem, value=soak_minutes)
    from affq.results import Kind
    from affq.runner import make_series
    from affq.study import load_study

    loaded, asked = load_study(study), {"minutes": soak_minutes}
    _make(lambda: make_series(loaded, results, Kind.SOAK, _listed(only), _say, asked, asked, 60 * soak_minutes), study, results)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="a packaged study", autocompletion=_studies)] = "default",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of study files, for editors.")] = False,
) -> None:
    """Print a packaged study, to start one of your own from: affq study default > mine.yaml."""
    from affq.study import packaged
    from affq.study import schema as study_schema

    if schema:
        print(json.dumps(study_schema(), indent=1))
        return
    if name not in (known := packaged()):
        raise InputError(f"unknown study {name!r}", value=name, choices=known)
    print(known[name].read_text(encoding="utf-8"), end="")


@app.command()
def score(study: STUDY, results: RESULTS = Path("reports")) -> None:
    """Score the texts of a study's runs that are not scored: emotion and ROUGE."""
    loaded = _load(study, results)
    from affq.runner import score_study

    _need_judged(loaded)
    _say(f"Scoring the texts of {loaded.name} …")
    score_study(loaded, results)


@app.command()
def report(study: STUDY, results: RESULTS = Path("reports")) -> None:
    """Score what is unscored, summarize a study, and publish its report."""
    loaded = _load(study, results)
    from affq.report import index, publish
    from affq.results import reported_before, study_folder
    from affq.runner import score_study, summarize_study
    from affq.study import packaged

    if loaded.judged:
        _say(f"Scoring the texts of {loaded.name} …")
        score_study(loaded, results)
    _say("Summarizing …")
    notebook = summarize_study(loaded, results)
    if study not in packaged() and (other := reported_before(results, loaded, Path(study))):
        _say(f"It takes the place of the report of {other.resolve()}, a study of the same name.")
    page = publish.report(notebook, study_folder(results, loaded), f"affq: study {loaded.name}")
    _say(f"Published {page}, listed in {index.write(results, _say)}")


@app.command()
def explore(
    study: STUDY,
    jupyter: Annotated[list[str] | None, typer.Argument(metavar="-- OPTIONS", help="options of JupyterLab's own")] = None,
    results: RESULTS = Path("reports"),
) -> None:
    """Look through a study's texts, figures and notes in JupyterLab, in a notebook of your own beside its results."""
    from affq.runner import notebooks

    notebook, options = notebooks.copy_explorer(study, results, _say), jupyter or []
    _say(f"Opening {notebook}. Run all its cells; Ctrl-C here ends JupyterLab.")
    if getattr(os, "geteuid", lambda: None)() == 0 and not options:
        again = f"{command('explore', study, results)} -- --allow-root"
        _say(f"As root JupyterLab starts only where it is told to: {again}, in a container with --ip=0.0.0.0 --no-browser too.")
    if not any("root_dir" in option for option in options):
        options = [f"--ServerApp.root_dir={notebooks.common_folder(study, results)}", *options]
    # -P: a script in the current folder that has a library's name is not taken for the library.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "jupyterlab", str(notebook.resolve()), *options])


@app.command()
def notebooks(
    folder: Annotated[Path, typer.Argument(help="the folder that the copies go to")],
    results: RESULTS = Path("reports"),
) -> None:
    """Copy the packaged notebooks into a folder of yours, their parameters set to your results. Nothing is overwritten."""
    from affq.runner import notebooks

    copies = notebooks.copy_all(folder, results)
    _say(f"{len(copies)} notebooks in {folder}: {', '.join(path.name for path in copies)}. jupyter lab {folder} opens them.")


@app.command()
def judge(
    texts: Annotated[Path, typer.Argument(help="a JSONL file: a text a line")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the JSONL file to write")],
    judge: Annotated[str, typer.Option(help="a packaged judge, or a sequence classifier: a folder, a hub id")] = "minilm-lora",
    labels: Annotated[str | None, typer.Option(help="emotions that its labels stand for: remorse=guilt,grief=sadness")] = None,
) -> None:
    """Judge the emotion of texts: each line comes back with judged_emotion and probabilities added.

    A line that cannot be judged comes back with judged_emotion null and the reason as error. Exit status 1 if there is one.
    """
    from affq.scoring import judge_file as judging

    chosen = judging.chosen(judge, _listed(labels))
    lines = judging.judge_file(texts, out, chosen, lambda line: _say(line, sys.stderr))
    bad = [(number, wrong) for number, wrong in lines if wrong]
    _say(f"{len(lines) - len(bad)} texts judged by {chosen.name}: {out}")
    if bad:
        _say(f"affq: {len(bad)} of {len(lines)} lines not judged, the first line {bad[0][0]}: {bad[0][1]}", sys.stderr)
        raise typer.Exit(1)


@app.command()
def annotate(
    study: STUDY,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the CSV file to write, for people to label")] = None,
    texts: Annotated[int, typer.Option(min=1, help="with --out: how many, as many of each run and emotion as can be")] = 140,
    labels: Annotated[list[Path] | None, typer.Option(help="a labelled copy, to be read back; one a person, named by it")] = None,
    results: RESULTS = Path("reports"),
) -> None:
    """Write a sample of a study's texts for people to label, target and judge hidden; read back what they labelled."""
    loaded = _load(study, results)
    if (out is None) == (not labels):
        raise InputError("give either --out sample.csv, to write a sample, or --labels anna.csv, to read one back")
    import numpy as np

    from affq.analysis import Results, annotation
    from affq.report import csv_text
    from affq.results import keep_labels, named_people, read_labels

    if out is not None:
        if out.exists():
            raise InputError(f"{out} is there already, perhaps with labels", value=out, remedy="give --out another name")
        files.need_place(out)
    every = Results(loaded, results).texts
    if out is not None:
        drawn = annotation.sample(every, texts, np.random.default_rng(loaded.seed))
        files.write_for_user(out, csv_text(drawn))
        reads = command("annotate", study, results)
        _say(f"{len(drawn)} texts to label: {out}; {reads} --labels COPY.csv reads a labelled copy back.")
    people = named_people(labels or ())
    # All are checked before any is kept.
    checked = {who: annotation.check(read_labels(path), every, loaded.emotions, path) for who, path in people.items()}
    for person, kept in checked.items():
        keep_labels(results, loaded, person, kept)
        _say(f"{len(kept)} labels of {person} kept; {command('report', study, results)} uses them.")


@app.command()
def doctor(
    results: RESULTS = Path("reports"),
    as_json: Annotated[bool, typer.Option("--json", help="Write the findings as one list of JSON objects.")] = False,
) -> None:
    """Show what this machine can run, and the remedy for what it cannot. Exit status 1 if the default study cannot run."""
    from dataclasses import asdict

    from affq.runner import examine, lines

    found = []
    for finding in examine(results):
        found.append(finding)
        for line in [] if as_json else lines(finding):
            _say(line)
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    if found[-1].state == "lack":
        raise typer.Exit(1)


def entry() -> None:
    """Run the commands; print bad input as one line and end with status 2."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII alone is no reason to fail
    try:
        # An empty entry of PYTHONPATH, which people make by accident, is the current folder: a model's perhaps, with code in it.
        sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd()) or Path(path, "affq", "__init__.py").exists()]
        app()
    except InputError as error:
        _say(f"affq: {error}", sys.stderr)
        sys.exit(2)
    except OSError as error:  # no permission, no space, a file where a folder should be
        where, why = error.filename or "a file", error.strerror or error
        _say(f"affq: cannot read or write {where}: {why}; mend that, and the same command goes on", sys.stderr)
        sys.exit(2)
