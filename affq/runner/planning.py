"""Which runs of a study are to be executed, and why."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from affq.errors import InputError
from affq.models import DamagedWeightsError
from affq.results import Record, State, Status, changes_since, software, study_folder
from affq.study import Run, Study


@dataclass(frozen=True)
class Choice:
    """What the user asks for beyond the runs that are missing, partial, or would end otherwise now.

    only: patterns; a run is chosen if its id, model, precision or engine matches one; all of them where there is none.
    stale, failed: do those again. force: do all again.
    """

    only: tuple[str, ...] = ()
    stale: bool = False
    failed: bool = False
    force: bool = False


@dataclass(frozen=True)
class Planned:
    """One chosen run of a study: how far it is, and whether it is to be executed.

    changes: what changed since the run failed, where that alone is why it is tried again.
    """

    run: Run
    record: Record[Run]
    state: State
    to_run: bool
    forced: bool = False
    changes: tuple[str, ...] = ()

    @property
    def run_id(self) -> str | None:
        """The run's id; None where its weights are not here, and no record says which they are."""
        return None if self.state.lacks else self.run.id

    @property
    def model(self) -> str:
        return self.run.model.name

    @property
    def precision(self) -> str:
        return self.run.precision

    @property
    def engine(self) -> str:
        return self.run.engine.label

    @property
    def status(self) -> Status:
        return self.state.status

    @property
    def keeps_texts(self) -> bool:
        """Whether whole batches that are there are kept when the run goes on, rather than set aside."""
        kept = self.status in (Status.MISSING, Status.PARTIAL, Status.FAILED) and not self.forced
        return kept and not self.record.of_another_version()

    @property
    def reason(self) -> str:
        """Why the run has its status, and what is done about it, in a few words."""
        does = ""
        if self.status == Status.STALE and not self.to_run:
            does = "kept: affq run with --redo-stale does it again"
        elif self.status == Status.FAILED and not self.to_run:
            does = "not tried again but by affq run with --redo-failed"
        elif self.status == Status.FAILED:
            does = "affq run tries it again" + (f", since {', '.join(self.changes)}" if self.changes else "")
        return "; ".join(filter(None, (self.state.note, does)))


def plan(study: Study, results: Path | str, choice: Choice) -> list[Planned]:
    """Return the chosen runs of a study, in its order. Raises InputError for a pattern that chooses none."""
    every = [_planned(run, results, choice) for run in study.runs()]
    for pattern in choice.only:
        if not any(_chosen(planned, (pattern,)) for planned in every):
            known = dict.fromkeys(name for p in every for name in (p.precision, p.model, p.engine, p.run_id) if name)
            raise InputError(f"--only {pattern!r} matches no run of study {study.name}", value=pattern, choices=known)
    return [planned for planned in every if not choice.only or _chosen(planned, choice.only)]


def _chosen(planned: Planned, patterns: Iterable[str]) -> bool:
    names = [name for name in (planned.run_id, planned.model, planned.precision, planned.engine) if name]
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _planned(run: Run, results: Path | str, choice: Choice) -> Planned:
    record = Record(results, run)
    state = record.state()
    failure = state.failure
    changes: tuple[str, ...] = ()
    again = choice.force or state.status in (Status.MISSING, Status.PARTIAL) or (state.status == Status.STALE and choice.stale)
    if failure and not again:
        again = choice.failed or failure.again
    if failure and failure.software and not again:
        changes = changes_since(failure.software, software())
    return Planned(run, record, state, again or bool(changes), choice.force, changes)


def damaged_weights(study: Study) -> list[str]:
    """Return for each model whose cached weights were changed what is wrong with them, and what to do."""
    damaged = []
    for model in study.models:
        try:
            _ = model.folder
        except DamagedWeightsError as error:
            damaged.append(f"{model.name}: {error}")
        except InputError:  # they are not here: what a run then lacks is in its row
            pass
    return damaged


def left_over(study: Study, results: Path | str) -> list[str]:
    """Return the run ids in a study's folder that are none of its runs any more: other settings, prompts or weights."""
    runs = study_folder(results, study) / "runs"
    there = sorted(path.name for path in runs.glob("*--*--*") if path.is_dir())
    known = {run.id for run in study.runs()}
    return [name for name in there if name not in known]
