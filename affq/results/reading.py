"""Read the files of a study's results, and say what they are worth: whole, of this version, of this run.

Nothing here writes; record.py says which files there are.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, wraps
from operator import itemgetter
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from affq import files
from affq.errors import InputError
from affq.files import sha256_of
from affq.inference import KEY, Request
from affq.results import schemas
from affq.results.provenance import changes_since, software
from affq.results.scores import Scored
from affq.results.state import Failure, FailureKind, State, Status

FORMAT = 4  # of the records; it goes up when their fields change
TEXTS = ("generations.jsonl", "batches.jsonl")
RECORDS = ("run.json", *TEXTS, "measurements.json")
SCHEMAS: dict[str, type[schemas.Part]] = {
    "run.json": schemas.Run,
    "failed.json": schemas.Failed,
    "measurements.json": schemas.Measurements,
}
# A judge's scores of other texts than the study's have ids that end so: emotion words masked, and the timed texts alone.
OF_OTHER_TEXTS = ("-masked", ALONE := "-alone")
METRICS = tuple(schemas.METRICS)
# How a run's settings are called where a sentence speaks of them.
IN_WORDS = {"prompts_sha256": "prompts", "revision": "weights", "weights": "kind of weights"}
_FAULTS: dict[Path, tuple[list[str], str]] = {}  # by run: the hashes of records that were checked, and what is wrong with them
REMEDY = "affq run does it again"
KEEPS_OLD = "the version that wrote them reads them; affq run --force does the run again, and moves them to attempts/"
KEY_OF = itemgetter(*KEY)
P = ParamSpec("P")
T = TypeVar("T")


class Model(Protocol):
    """What a record needs to know of a run's model."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def stored_dtype(self) -> str | None: ...
    @property
    def folder(self) -> Path: ...


class AskedStudy(Protocol):
    """What a record needs to know of a study."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def texts_wanted(self) -> int: ...
    @property
    def requests(self) -> Sequence[Request]: ...


class AskedRun(Protocol):
    """What a record needs to know of a run."""

    @property
    def id(self) -> str: ...
    @property
    def study(self) -> AskedStudy: ...
    @property
    def model(self) -> Model: ...
    @property
    def precision(self) -> str: ...
    @property
    def settings(self) -> dict: ...


RunT = TypeVar("RunT", bound=AskedRun)
RunT_co = TypeVar("RunT_co", bound=AskedRun, covariant=True)


class StudyOfRuns(AskedStudy, Protocol[RunT_co]):
    """A study that lists its runs."""

    def runs(self) -> Sequence[RunT_co]: ...


def kept_runs(results: Path | str, name: str) -> list[dict]:
    """Return the run.json of each run in the folder of the study of this name, the earliest first, whatever its settings are.

    What cannot be read, or is of another version of affq, is left out.
    """
    folder = Path(results) / name / "runs"
    try:
        return list(_kept_runs(folder, folder.stat().st_mtime_ns))
    except OSError:  # there is none
        return []


@lru_cache(maxsize=1)  # asked for each run that is missing
def _kept_runs(folder: Path, _changed_ns: int) -> list[dict]:
    kept = []
    for path in folder.glob("*--*--*/run.json"):
        with suppress(InputError, OSError):
            about = files.read_json(path, REMEDY, schemas.Run.model_validate)
            kept += [about] if about.get("format") == FORMAT else []
    return sorted(kept, key=itemgetter("began"))


def study_folder(results: Path | str, study: AskedStudy) -> Path:
    """Return the folder of a study's results and published report."""
    return Path(results) / study.name


def once(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Let a snapshot ask this method once for each argument and remember the answer; a record asks it each time."""

    @wraps(method)
    def ask(self: "Reading", *arguments: P.args, **named: P.kwargs) -> T:
        if self._answers is None:
            return method(self, *arguments, **named)
        key = (method.__name__, *arguments, *named.items())
        if key not in self._answers:
            self._answers[key] = method(self, *arguments, **named)
        return self._answers[key]

    return ask


class Reading(Scored, Generic[RunT]):
    """Reads the records of one run, and its scores. `complete` and `state` say what they are worth."""

    _answers: dict[tuple, Any] | None = None

    def __init__(self, results: Path | str, run: RunT) -> None:
        self.run = run
        self.folder = study_folder(results, run.study) / "runs" / run.id
        self._scores_folder = self.folder / "scores"
        self._texts = files.Journal(*(self.folder / name for name in TEXTS))

    @once
    def failure(self) -> Failure | None:
        """Return how the run failed; None if it did not."""
        if self._has("done.json"):
            if altered := self._altered():
                return Failure(FailureKind.DAMAGED, altered, again=True)
            if self.of_another_version():
                return Failure(FailureKind.OTHER_VERSION, "its records are of another version of affq", KEEPS_OLD)
            if fault := self._fault():
                return Failure(FailureKind.DAMAGED, fault, again=True)
        elif self._has("failed.json"):
            try:
                read = self._read("failed.json")
                return Failure(**read | {"kind": FailureKind(read["kind"])})
            except (InputError, TypeError, ValueError):
                return Failure(FailureKind.DAMAGED, "failed.json cannot be read", again=True)
        return None

    @once
    def of_another_version(self) -> bool:
        """Return whether run.json is there and has another format than this version's."""
        try:
            return self._json("run.json").get("format") != FORMAT
        except InputError:
            return False

    @once
    def state(self) -> State:
        """Return how far the run is: its status, and why."""
        wanted = self.run.study.texts_wanted
        if self.run.model.revision is None:
            return State(Status.MISSING, wanted, lacks=self._lacks())
        if failure := self.failure():
            return State(Status.FAILED, wanted, failure)
        if self.complete:
            changes = self.changes()
            return State(Status.STALE if changes else Status.OK, wanted, changes=changes)
        if not self._has("run.json"):
            return State(Status.MISSING, wanted, otherwise=self._unlike_an_earlier_run())
        try:
            changes = self.changes()
        except InputError:
            changes = ("its run.json cannot be used",)
        if not changes and not self._is_of_this_run():
            changes = ("its run.json is that of another run",)
        texts_kept = 0 if changes else sum(batch["texts"] for batch in self.batches())
        return State(Status.PARTIAL, wanted, changes=changes, texts_kept=texts_kept)

    @property
    def complete(self) -> bool:
        """Whether done.json is there, and the records are those that it was written for; nothing else decides it."""
        return self._has("done.json") and self.failure() is None

    def _altered(self) -> str:
        """Return which record is not what it was when the run ended; "" if all are."""
        try:
            done = self._json("done.json")
        except InputError:
            done = {}
        hashes = {name: done.get(name) for name in RECORDS}
        if done != files.sealed(b"", hashes):
            return "done.json was changed after the run had ended"
        for name, sha256 in hashes.items():
            if not (self.folder / name).is_file():
                return f"{name} is gone, which was there when the run ended"
            if self._sha256(name) != sha256:
                return f"{name} was changed after the run had ended"
        return ""

    def _lacks(self) -> str:
        """Return what keeps the run's records from being known: its weights are not here, and no record has their revision."""
        try:
            return f"{self.run.model.folder} has no revision"
        except InputError as error:
            return str(error)

    def _unlike_an_earlier_run(self) -> tuple[str, ...]:
        """Return what of the settings differs from the kept run of this model and precision that is most like this one."""
        now = json.loads(json.dumps(self.run.settings))
        every = [about["settings"] for about in kept_runs(self.folder.parents[2], self.run.study.name)]
        like = [then for then in every if (then.get("model"), then.get("precision")) == (now["model"], now["precision"])]
        differences = [[IN_WORDS.get(name, name) for name in now if then.get(name) != now[name]] for then in reversed(like)]
        nearest: list[str] = min((names for names in differences if names), key=len, default=[])
        return tuple(nearest)

    def _fault(self) -> str:
        """Return what is wrong with records that are as they were written; "" if they can be used, and are this run's.

        What was looked through once in this process is not looked through again.
        """
        hashes = [*map(self._sha256, RECORDS)]
        if not self._is_of_this_run():
            return f"run.json is that of another run, {self._json('run.json').get('run_id')!r}"
        checked, fault = _FAULTS.get(self.folder, ([], ""))
        if checked != hashes:
            fault = self._fault_of_values()
            _FAULTS[self.folder] = hashes, fault
        return fault

    def _fault_of_values(self) -> str:
        try:
            self.about()
            texts, measurements = Counter(map(KEY_OF, self.generations())), self.measurements()
        except InputError as error:
            return str(InputError(error.problem, place=Path(str(error.place)).name))  # the remedy is the failure's
        wanted = Counter(map(KEY_OF, self.run.study.requests))
        if texts != wanted:
            lacking, further = (wanted - texts).total(), (texts - wanted).total()
            return f"generations.jsonl lacks {lacking} of the texts that the study asks for, and has {further} others"
        timed = [*measurements["alone"], *(row for process in measurements["passes"] for row in process["texts"])]
        others = [row for row in map(KEY_OF, timed) if row not in texts]
        return f"measurements.json has timed a text that the study does not ask for: {others[0]}" if others else ""

    def _is_of_this_run(self) -> bool:
        """Return whether run.json is this run's: a folder may have been copied, or given another's name."""
        try:
            about = self._json("run.json")
        except InputError:
            return True  # it is nobody's: another error says so
        return (about.get("run_id"), about.get("settings")) == (self.run.id, json.loads(json.dumps(self.run.settings)))

    def changes(self) -> tuple[str, ...]:
        """Return what changed since the attempt: versions, generating code, device; nothing if nothing did."""
        about, asked = self.about(), self.run.study.device
        made_on = about["hardware"]["device"]
        other_device = () if asked in ("auto", made_on) else (f"device {made_on} → {asked}",)
        return (*changes_since(about["software"], software()), *other_device)

    def about(self) -> dict:
        """Return run.json: settings, software, hardware. Raises InputError for a record of another version of affq."""
        if self.of_another_version():
            raise InputError("{place} holds records of another version of affq", place=self.folder, remedy=KEEPS_OLD)
        return self._read("run.json")

    def stored_dtype(self) -> str | None:
        """Return the dtype of the published weights, as the run found it; None before it began, or where it is not known."""
        try:
            return self.about()["stored_dtype"]
        except InputError:
            return None

    @once
    def batches(self) -> list[dict]:
        """Return what stands beside the texts of each whole batch: {texts, end_byte, …}."""
        return self._texts.batches(lambda row: KEY_OF(files.checked(row, schemas.Text.model_validate, "", "")))

    def generations(self) -> list[dict]:
        """Return the generations in the order of the study's requests, whatever batches they were made in."""
        rows = files.read_jsonl(self.folder / "generations.jsonl", REMEDY, schemas.Text.model_validate)
        places = {KEY_OF(request): place for place, request in enumerate(self.run.study.requests)}
        return sorted(rows, key=lambda row: places.get(KEY_OF(row), len(places)))

    def measurements(self) -> dict:
        """Return the raw readings."""
        return self._read("measurements.json")

    def alone(self) -> list[dict]:
        """Return the timed texts that have a counterpart in the quality pass: as each is in a batch of one."""
        return [row for row in self.measurements()["alone"] if row["text"] is not None]

    def generations_sha256(self) -> str:
        """Return the hash of the generations: what a score is a score of."""
        return self._sha256("generations.jsonl")

    @once
    def manifest(self, scorer: str) -> dict | None:
        """Return what the scores of `scorer` were made of, as Scored has it; a snapshot reads it once."""
        return super().manifest(scorer)

    def _fit(self, scorer: str, scores: list[dict]) -> bool:
        keys, wanted = Counter(map(KEY_OF, scores)), Counter(map(KEY_OF, self.run.study.requests))
        if scorer == "rouge-references":
            wanted = Counter(key for key in wanted if key[1] is not None)  # the control has no references
        return keys == wanted or (scorer.endswith(ALONE) and keys <= wanted)

    @once
    def _read(self, name: str) -> dict:
        return files.checked(self._json(name), SCHEMAS[name].model_validate, self.folder / name, REMEDY)

    @once
    def _has(self, name: str) -> bool:
        return (self.folder / name).exists()

    @once
    def _json(self, name: str) -> dict:
        return files.read_json(self.folder / name, REMEDY)

    @once
    def _sha256(self, name: str) -> str:
        return sha256_of(self.folder / name)


class Snapshot(Reading[RunT]):
    """The records of one run as they are now: each file is hashed once, and read once whatever is asked.

    Texts and scores are the exception, being large: they are read when they are asked for, which `Results` does once. Whoever
    gets a value must not change it.
    """

    def __init__(self, results: Path | str, run: RunT) -> None:
        super().__init__(results, run)
        self._answers = {}


def snapshots(results: Path | str, study: StudyOfRuns[RunT]) -> list[Snapshot[RunT]]:
    """Return a snapshot of each run of a study, in the study's order, whatever their status."""
    return [Snapshot(results, run) for run in study.runs()]
