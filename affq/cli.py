"""The commands: affq plan | run | score | report | judge."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from affq import InputError, __version__

STUDY = Annotated[str, typer.Argument(help="a packaged study (default), or a study file (mine.yaml)")]
RESULTS = Annotated[Path, typer.Option(help="the folder of all studies' results")]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def _say(line):
    print(line, flush=True)


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and end.")] = False):
    """Which model, at which precision, is worth the GPU memory and the wait, for text that carries an emotion?"""
    if version:
        _say(__version__)
        raise typer.Exit


@app.command()
def plan(study: STUDY, results: RESULTS = Path("reports")):
    """Show a study's runs with their status."""
    from affq.records import records
    from affq.study import load_study

    for record in records(results, load_study(study)):
        status, note = record.status()
        _say(f"{status:8} {record.run.id}" + (f"  {note}" if note else ""))


@app.command()
def run(study: STUDY, results: RESULTS = Path("reports")):
    """Execute the runs of a study that are not done. Exit status 1 if one failed."""
    from affq.study import load_study

    loaded = load_study(study)
    from affq.execute import run_study

    start = time.monotonic()
    failed = run_study(loaded, results, _say)
    _say(f"{len(loaded.runs()) - len(failed)} of {len(loaded.runs())} runs are done, {time.monotonic() - start:.0f} s")
    if failed:
        raise typer.Exit(1)


@app.command()
def score(study: STUDY, results: RESULTS = Path("reports")):
    """Score the texts of a study's runs that are not scored: emotion and ROUGE."""
    from affq.study import load_study

    loaded = load_study(study)
    from affq.execute import score_study

    _say(f"Scoring the texts of {loaded.name} …")
    score_study(loaded, results)


@app.command()
def report(study: STUDY, results: RESULTS = Path("reports")):
    """Score what is unscored, summarize a study, and publish its report."""
    from affq.study import load_study

    loaded = load_study(study)
    from affq import publish
    from affq.execute import score_study, summarize_study
    from affq.records import study_folder

    _say(f"Scoring the texts of {loaded.name} …")
    score_study(loaded, results)
    _say("Summarizing …")
    notebook = summarize_study(loaded, results)
    index = publish.report(notebook, study_folder(results, loaded), f"affq: study {loaded.name}")
    _say(f"Published {index}")


@app.command()
def judge(
    texts: Annotated[Path, typer.Argument(help="a JSONL file: a text a line")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the JSONL file to write")],
    judge: Annotated[str, typer.Option(help="a packaged judge")] = "minilm-linear",
):
    """Judge the emotion of texts: each line comes back with judged_emotion and probabilities added."""
    from affq import scores, weights
    from affq.judge import load_judge, read_texts

    if not out.parent.is_dir() or out.is_dir():
        raise InputError(f"cannot write {out}: " + ("it is a folder" if out.is_dir() else f"there is no folder {out.parent}"))
    rows = read_texts(texts)
    for number, row in enumerate(rows, 1):
        if taken := {"judged_emotion", "probabilities"} & row.keys():
            raise InputError(f"{texts}, line {number} already has {' and '.join(sorted(taken))}; remove what was judged before")
    loaded = load_judge(judge)
    weights.fetch(loaded.card["encoder"], lambda line: print(line, file=sys.stderr))
    found = scores.judged([row["text"] for row in rows], loaded.probabilities([row["text"] for row in rows]), loaded.emotions)
    lines = (json.dumps({**row, **verdict}, ensure_ascii=False) + "\n" for row, verdict in zip(rows, found, strict=True))
    out.write_text("".join(lines), encoding="utf-8")
    _say(f"{len(rows)} texts judged by {loaded.name}: {out}")


def entry():
    """Run the commands; print bad input as one line and end with status 2."""
    try:
        app()
    except InputError as error:
        print(f"affq: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # no permission, no space, a file where a folder should be
        print(f"affq: cannot read or write {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
