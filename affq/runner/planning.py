"""Which runs of a study are to be executed, and why; and what change of F1 it can see."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from affq.errors import InputError
from affq.results import Record, Status, changes_since, software, study_folder


@dataclass(frozen=True)
class Choice:
    """What the user asks for beyond the runs that are missing, partial, or would end otherwise now.

    only: patterns; a run is chosen if its id, model or precision matches one; all of them where there is none.
    stale, failed: do those again. force: do all again.
    """

    only: tuple = ()
    stale: bool = False
    failed: bool = False
    force: bool = False


@dataclass(frozen=True)
class Planned:
    """One chosen run of the study. run_id is None, and record too, for a model that was not fetched yet.

    keeps_texts: whole batches that are there are kept when the run goes on, rather than set aside.
    """

    run: object
    run_id: str | None
    model: str
    precision: str
    status: str
    reason: str
    to_run: bool
    record: Record | None
    keeps_texts: bool = True


def plan(study, results, choice):
    """Give the chosen runs of a study, in its order. Raises InputError for a pattern that chooses none."""
    every = [_planned(run, results, choice) for run in study.runs()]
    for pattern in choice.only:
        if not any(_chosen(planned, (pattern,)) for planned in every):
            known = dict.fromkeys(name for p in every for name in (p.precision, p.model, p.run_id) if name)
            raise InputError(f"--only {pattern!r} matches no run of study {study.name}; known: {', '.join(known)}")
    return [planned for planned in every if not choice.only or _chosen(planned, choice.only)]


def _chosen(planned, patterns):
    names = [name for name in (planned.run_id, planned.model, planned.precision) if name]
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _planned(run, results, choice):
    about = {"run": run, "model": run.model.name, "precision": run.precision}
    try:
        record = Record(results, run)
    except InputError as error:  # a model that is not here yet has no revision
        return Planned(run_id=None, **about, status=Status.MISSING, reason=str(error), to_run=True, record=None)
    state = record.state()
    status, reason = state.status, state.note
    to_run = choice.force or status in (Status.MISSING, Status.PARTIAL) or (status == Status.STALE and choice.stale)
    if status == Status.STALE and not to_run:
        reason += "; kept: affq run --redo-stale does it again"
    if status == Status.FAILED and not to_run:
        to_run, why = _again(record, choice)
        reason += f"; {why}"
    keeps = not choice.force and status in (Status.MISSING, Status.PARTIAL, Status.FAILED) and not record.of_another_version()
    return Planned(run_id=run.id, **about, status=status, reason=reason, to_run=to_run, record=record, keeps_texts=keeps)


def _again(record, choice):
    """Say whether a failed run is tried again, and why: not what would fail again."""
    failure = record.failure()
    if choice.failed or failure.again:
        return True, "affq run tries it again"
    if changes := changes_since(failure.software, software()):
        return True, f"affq run tries it again, since {', '.join(changes)}"
    return False, "not tried again unless affq run --redo-failed"


def left_over(study, results):
    """List the run ids in a study's folder that are none of its runs any more: other settings, prompts or weights."""
    runs = study_folder(results, study) / "runs"
    there = sorted(path.name for path in runs.glob("*--*--*") if path.is_dir())
    known = set()
    for run in study.runs():
        try:
            known.add(run.id)
        except InputError:
            return []  # which are this study's is not known before its weights are here
    return [name for name in there if name not in known]
