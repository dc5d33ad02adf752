"""The commands: affq plan | run | score | report | explore | judge | annotate | study | doctor."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from affq import __version__
from affq.errors import InputError, printable

STUDY = Annotated[str, typer.Argument(help="a packaged study (default), or a study file (mine.yaml)")]
RESULTS = Annotated[Path, typer.Option(help="the folder of all studies' results")]
ONLY = Annotated[str | None, typer.Option(help="these runs: ids, models, precisions, with * for any letters: int8,llama*")]
STALE = Annotated[bool, typer.Option("--redo-stale", help="Do stale runs again.")]
FAILED = Annotated[bool, typer.Option("--redo-failed", help="Do failed runs again, those that would fail again too.")]
FORCE = Annotated[bool, typer.Option("--force", help="Do every run again; what is there moves to its attempts folder.")]


class _Commands(typer.core.TyperGroup):
    def invoke(self, ctx):
        """Say a word at Ctrl-C, which would otherwise end a command without one; a batch system's signals end it alike."""
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:  # nohup lets it go on without a terminal
                signal.signal(number, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("affq: stopped; the same command begins again", sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _say(line, file=None):
    print(printable(line), file=file, flush=True)


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and end.")] = False):
    """Which model, at which precision, is worth the GPU memory and the wait, for text that carries an emotion?"""
    if version:
        _say(__version__)
        raise typer.Exit


@app.command()
def plan(
    study: STUDY,
    results: RESULTS = Path("reports"),
    only: ONLY = None,
    redo_stale: STALE = False,
    redo_failed: FAILED = False,
    force: FORCE = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one list of JSON objects.")] = False,
):
    """Show a study's runs: the status of each, why, the memory it will take, and what affq run with the same options would do."""
    from affq.runner import planning
    from affq.study import load_study, read_claims

    loaded = load_study(study)
    every = planning.plan(loaded, results, planning.Choice(_listed(only), redo_stale, redo_failed, force))
    from affq.models import memory
    from affq.report import words

    machine = memory.at_hand(loaded.device)
    named = ("run_id", "model", "precision", "status", "reason", "to_run")
    rows = [{n: getattr(p, n) for n in named} | memory.planned(p.run, machine) for p in every]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from affq.analysis import Results

    change = words.planned_power(*Results(loaded, results).smallest_change) if loaded.judged else []
    for line in [*words.planned(rows, machine, read_claims(loaded.claims)), *change]:
        _say(line)
    if other := planning.left_over(loaded, results):
        _say(f"Kept beside them, of other settings, prompts or weights: {', '.join(other)}")


@app.command()
def run(
    study: Annotated[str | None, typer.Argument(help="a packaged study (default), or a study file (mine.yaml)")] = None,
    model: Annotated[str | None, typer.Option(help="instead of a study: a folder, a GGUF file, a hub id, a catalog name")] = None,
    precisions: Annotated[str | None, typer.Option(help="with --model: such as fp16,int8; else those of study default")] = None,
    revision: Annotated[str | None, typer.Option(help="with --model: branch, tag or commit of a hub id")] = None,
    prompts: Annotated[str | None, typer.Option(help="with --model: a CSV file of seed prompts")] = None,
    emotions: Annotated[str | None, typer.Option(help="with --model: such as joy,sadness")] = None,
    device: Annotated[str | None, typer.Option(help="with --model: auto, cpu or cuda")] = None,
    name: Annotated[str | None, typer.Option(help="with --model: of the study and its file; else the model's")] = None,
    results: RESULTS = Path("reports"),
    only: ONLY = None,
    redo_stale: STALE = False,
    redo_failed: FAILED = False,
    force: FORCE = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what failed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write events, a JSON object a line.")] = False,
):
    """Execute the runs of a study that are not done, or of a model of your own. Exit status 1 if one failed.

    With --model the study is written to a file first: NAME.yaml in the current folder.
    """
    from affq.runner import planning
    from affq.study import load_study
    from affq.study import new as own_study

    if quiet or as_json:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when the hub's client is imported
    asked = {"precisions": precisions and [*_listed(precisions)], "emotions": emotions and [*_listed(emotions)]}
    asked |= {"revision": revision, "prompts": prompts, "device": device, "name": name}
    if (study is None) == (model is None):
        raise InputError("give either a study (affq run default) or a model (affq run --model ./folder)")
    if quiet and as_json:
        raise InputError("--quiet and --json exclude each other: events are for programs")
    fresh = False
    if model is not None:
        study, fresh = own_study.write(model, **asked)
    elif given := [f"--{option}" for option, value in asked.items() if value is not None]:
        raise InputError(f"{given[0]} goes with --model; what a study does is in its file (affq study default shows one)")
    loaded = load_study(study)
    from affq.runner import reporter, run_study

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
    done = any(planned.status in ("ok", "stale") for planned in planning.plan(loaded, results, planning.Choice()))
    if done and not as_json and not quiet:
        _say(f"affq report {study} publishes what is done.")
    if failed:
        raise typer.Exit(1)


def _listed(words):
    """Split what is listed with commas; nothing where nothing was given."""
    return () if words is None else tuple(word.strip() for word in words.split(","))


@app.command()
def study(name: Annotated[str, typer.Argument(help="a packaged study")] = "default"):
    """Print a packaged study, to start one of your own from: affq study default > mine.yaml."""
    from affq.study import packaged

    if name not in (known := packaged()):
        raise InputError(f"unknown study {name!r}; known: {', '.join(known)}")
    print(known[name].read_text(encoding="utf-8"), end="")


@app.command()
def score(study: STUDY, results: RESULTS = Path("reports")):
    """Score the texts of a study's runs that are not scored: emotion and ROUGE."""
    from affq.study import load_study

    loaded = load_study(study)
    from affq.runner import score_study

    if not loaded.judged:
        raise InputError(f"study {loaded.name} has random weights: its texts mean nothing, and none is judged")
    _say(f"Scoring the texts of {loaded.name} …")
    score_study(loaded, results)


@app.command()
def report(study: STUDY, results: RESULTS = Path("reports")):
    """Score what is unscored, summarize a study, and publish its report."""
    from affq.study import load_study

    loaded = load_study(study)
    from affq.report import index, publish
    from affq.results import study_folder
    from affq.runner import score_study, summarize_study

    if loaded.judged:
        _say(f"Scoring the texts of {loaded.name} …")
        score_study(loaded, results)
    _say("Summarizing …")
    notebook = summarize_study(loaded, results)
    page = publish.report(notebook, study_folder(results, loaded), f"affq: study {loaded.name}")
    _say(f"Published {page}, listed in {index.write(results)}")


@app.command()
def explore(study: STUDY, results: RESULTS = Path("reports")):
    """Look through a study's texts, figures and notes in JupyterLab, in a notebook of your own beside its results."""
    from affq.runner import lab

    notebook = lab.copy(study, results)
    _say(f"Opening {notebook}; jupyter lab {notebook} does it too. Run all its cells; Ctrl-C here ends JupyterLab.")
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(notebook)])


@app.command()
def judge(
    texts: Annotated[Path, typer.Argument(help="a JSONL file: a text a line")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the JSONL file to write")],
    judge: Annotated[str, typer.Option(help="a packaged judge, or a sequence classifier: a folder, a hub id")] = "minilm-lora",
    labels: Annotated[str | None, typer.Option(help="emotions that its labels stand for: remorse=guilt,grief=sadness")] = None,
):
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
):
    """Write a sample of a study's texts for people to label, target and judge hidden; read back what they labelled."""
    from affq.study import load_study

    loaded = load_study(study)
    if (out is None) == (not labels):
        raise InputError("give either --out sample.csv, to write a sample, or --labels anna.csv, to read one back")
    import numpy as np

    from affq.analysis import Results, annotation
    from affq.report import csv_text
    from affq.results import keep_labels, named_people, read_labels

    every = Results(loaded, results).texts
    if out is not None:
        if out.exists():
            raise InputError(f"{out} is there already, perhaps with labels; give --out another name")
        drawn = annotation.sample(every, texts, np.random.default_rng(loaded.seed))
        out.write_text(csv_text(drawn), encoding="utf-8", newline="\n")
        _say(f"{len(drawn)} texts to label: {out}; affq annotate {study} --labels COPY.csv reads a labelled copy back.")
    people = named_people(labels or ())
    # All are checked before any is kept.
    checked = {who: annotation.check(read_labels(path), every, loaded.emotions, path) for who, path in people.items()}
    for person, kept in checked.items():
        keep_labels(results, loaded, person, kept)
        _say(f"{len(kept)} labels of {person} kept; affq report {study} uses them.")


@app.command()
def doctor(
    results: RESULTS = Path("reports"),
    as_json: Annotated[bool, typer.Option("--json", help="Write the findings as one list of JSON objects.")] = False,
):
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


def entry():
    """Run the commands; print bad input as one line and end with status 2."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII alone is no reason to fail
    try:
        app()
    except InputError as error:
        _say(f"affq: {error}", sys.stderr)
        sys.exit(2)
    except OSError as error:  # no permission, no space, a file where a folder should be
        where, why = error.filename or "a file", error.strerror or error
        _say(f"affq: cannot read or write {where}: {why}; mend that, and the same command goes on", sys.stderr)
        sys.exit(2)
