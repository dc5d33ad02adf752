"""The files of a study's results: the contract between the notebooks. No other module knows them.

reports/<study>/runs/<run id>/  run.json, generations.jsonl, batches.jsonl, measurements.json, then done.json; or failed.json
                                passes/<n>.json: resource passes, one a process, until measurements.json has them
                                scores/<id>.jsonl with scores/<id>.manifest.json: of each judge and metric
                                attempts/<n>/: what an earlier attempt left, and a later one replaced
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from operator import itemgetter
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from affq import files
from affq.errors import InputError
from affq.files import sha256_of, without_places
from affq.inference import KEY
from affq.results.provenance import changes_since, conditions, scoring, software
from affq.results.state import Failure, FailureKind, Stage, State, Status

FORMAT = 4  # of the records; it goes up when their fields change
TEXTS = ("generations.jsonl", "batches.jsonl")
RECORDS = ("run.json", *TEXTS, "measurements.json")
ENDS = ("done.json", "failed.json", "measurements.json", "scores")
PASSES = "passes"
FOR_PEOPLE = ("1_generate.ipynb", "1_generate.log")
# What must be in each record, as nested keys; what is read back is never trusted to be whole.
FIELDS = {
    "run.json": (
        *("settings", "software versions torch", "software code_digest", "hardware device"),
        *("stored_dtype", "weights_sha256", "texts_kept", "process"),
    ),
    "failed.json": ("kind", "words", "remedy", "again", "software versions", "software code_digest"),
    "measurements.json": (
        *(
            "model compute_dtype",
            "model chat_template",
            "model ends",
            "census",
            "memory kind",
            "memory phases",
            "memory cache_bytes",
        ),
        *("passes", "alone", "throughput points", "kernels", "seconds"),
    ),
    "generations.jsonl": (
        *("prompt_id", "kind", "emotion", "sample", "prompt", "text", "new_tokens", "thought_tokens", "ended", "opens_turn"),
    ),
}
REMEDY = "affq run does it again"
SCORE_REMEDY = "affq score makes it again"
KEEPS_OLD = "the version that wrote them reads them; affq run --force does the run again, and moves them to attempts/"
MANIFEST = ("of", "by", "software versions", "software code_digest", "seconds", "sha256")
P = ParamSpec("P")
T = TypeVar("T")


class Model(Protocol):
    """What a record needs to know of a run's model."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def stored_dtype(self) -> str | None: ...


class AskedStudy(Protocol):
    """What a record needs to know of a study."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def texts_wanted(self) -> int: ...


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


class Reading(Generic[RunT]):
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
        if failure := self.failure():
            return State(Status.FAILED, wanted, failure)
        if self.complete:
            changes = self.changes()
            return State(Status.STALE if changes else Status.OK, wanted, changes=changes)
        if not self._has("run.json"):
            return State(Status.MISSING, wanted)
        try:
            changes = self.changes()
        except InputError:
            changes = ("its run.json cannot be used",)
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
            if not self._has(name):
                return f"{name} is gone, which was there when the run ended"
            if self._sha256(name) != sha256:
                return f"{name} was changed after the run had ended"
        return ""

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
        return self._texts.batches(itemgetter(*KEY))

    def generations(self) -> list[dict]:
        """Return the generations, in the order in which they were made."""
        return files.read_jsonl(self.folder / "generations.jsonl", REMEDY, FIELDS["generations.jsonl"])

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
        """Return what the scores of `scorer` were made of, by and with; None for none, and for scores that were changed since.

        It has {of: the hash of the generations, by: what identifies the scorer, software: `provenance.scoring`, seconds, sha256}.
        """
        scores = self._scores_folder / f"{scorer}.jsonl"
        try:
            manifest = files.read_json(self._scores_folder / f"{scorer}.manifest.json", SCORE_REMEDY)
            return manifest if files.need(manifest, MANIFEST, scorer, SCORE_REMEDY)["sha256"] == sha256_of(scores) else None
        except (InputError, FileNotFoundError):
            return None

    def scores_are_stale(self, scorer: str) -> bool:
        """Return whether the scores of `scorer` are there, and of other texts, other code or other versions than are here now."""
        manifest = self.manifest(scorer)
        return manifest is not None and (manifest["of"], manifest["software"]) != (self.generations_sha256(), scoring())

    def scores(self, scorer: str) -> list[dict]:
        """Return the scores of `scorer`; an empty list where there are none."""
        return files.read_jsonl(self._scores_folder / f"{scorer}.jsonl", SCORE_REMEDY) if self.manifest(scorer) else []

    def _read(self, name: str) -> dict:
        return files.need(self._json(name), FIELDS[name], self.folder / name, REMEDY)

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


class Record(Reading[RunT]):
    """The records of one run, to be written: files whole and renamed into place, texts appended batch by batch."""

    def set_aside(self, texts: bool = False) -> None:
        """Move what an earlier attempt ended with to attempts/<n>/, its `texts` too where they are not to be kept."""
        self._aside(ENDS + FOR_PEOPLE + (TEXTS if texts else ()))

    def _aside(self, names: Iterable[str]) -> None:
        if not (there := [name for name in names if (self.folder / name).exists()]):
            return
        numbers = [int(path.name) for path in self.folder.glob("attempts/*") if path.name.isdigit()]
        folder = self.folder / "attempts" / str(max(numbers, default=0) + 1)
        folder.mkdir(parents=True)
        if (self.folder / "run.json").exists():
            shutil.copy2(self.folder / "run.json", folder)
        for name in there:  # done.json first: no run is complete with a part of its records
            (self.folder / name).replace(folder / name)

    def start(self, environment: dict, process: int = 1) -> int:
        """Begin an attempt, or a further process of it, and return how many batches of texts are kept from an earlier one.

        Whole batches are kept if they were made under the same conditions: settings, software, hardware, weights. Other texts
        move to attempts/<n>/. run.json says what is run, on what, by what.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "run_id": self.run.id,
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": self.run.settings,
            "stored_dtype": self.run.model.stored_dtype,
            "software": software(),
            **environment,
        }
        self._aside(ENDS + TEXTS if self.complete else ENDS)  # by hand, nothing else has done it
        batches = self.batches() if self._under(about) else []
        if not batches:
            self._aside(TEXTS)
        else:
            self._texts.keep(batches)
        self._pass(process).unlink(missing_ok=True)
        texts_kept = sum(batch["texts"] for batch in batches)
        files.write_json(self.folder / "run.json", {**about, "texts_kept": texts_kept, "process": process})
        return len(batches)

    def _under(self, about: dict) -> bool:
        """Return whether the earlier attempt was made under the conditions `about`: another machine's texts may differ."""
        try:
            return conditions(self.about()) == conditions(json.loads(json.dumps(about)))
        except InputError:
            return False

    def append(self, generations: list[dict], reading: dict) -> None:
        """Append one whole batch: its texts, then its reading (seconds, bytes), which says that the texts are all there.

        Raises ValueError if the run is complete.
        """
        if self.complete:
            raise ValueError("this run is complete; execute the notebook from its first cell to do it again")
        self._texts.append(generations, reading)

    def keep_pass(self, process: int, readings: dict) -> None:
        """Keep one process's resource pass until `finish`, with the conditions that it was made under."""
        (self.folder / PASSES).mkdir(exist_ok=True)
        about = {"conditions": conditions(self.about()), "readings": {"process": process, **readings}}
        files.write_json(self._pass(process), about)

    def has_pass(self, process: int) -> bool:
        """Return whether a process's resource pass is kept."""
        return self._pass(process).exists()

    def _pass(self, process: int) -> Path:
        return self.folder / PASSES / f"{process}.json"

    def _passes(self) -> list[dict]:
        """Return the resource passes that were made under this attempt's conditions, in the order of their processes."""
        paths = sorted((self.folder / PASSES).glob("*.json"), key=lambda path: int(path.stem))
        passes, now = [files.read_json(path, REMEDY) for path in paths], conditions(self.about())
        return [kept["readings"] for kept in passes if kept["conditions"] == now]

    def finish(self, measurements: dict) -> None:
        """Write the measurements and the resource passes, then done.json with the records' hashes: the run is complete now.

        Raises ValueError unless each text is there, and once: cells of a notebook can be left out, or executed again.
        """
        wanted, there = self.run.study.texts_wanted, sum(batch["texts"] for batch in self.batches())
        if not there == wanted == len(self.generations()):
            raise ValueError(f"{there} of {wanted} texts are there; execute the notebook from its first cell")
        files.write_json(self.folder / "measurements.json", {**measurements, "passes": self._passes()})
        hashes = {name: sha256_of(self.folder / name) for name in RECORDS}
        files.write_json(self.folder / "done.json", files.sealed(b"", hashes))
        shutil.rmtree(self.folder / PASSES, ignore_errors=True)

    def fail(self, failure: Failure) -> None:
        """Write failed.json, unless the run is complete: a complete run has not failed."""
        if not self.complete:
            self.folder.mkdir(parents=True, exist_ok=True)
            plain = " ".join(without_places(failure.words).split())  # they are published, the user's folders are not
            files.write_json(self.folder / "failed.json", asdict(failure) | {"words": plain, "software": software()})

    def mark(self) -> tuple[int, int] | None:
        """Return what tells one attempt's run.json from the next one's; None before the first."""
        try:
            stat = (self.folder / "run.json").stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def progress(self, before: tuple[int, int] | None) -> tuple[Stage, int]:
        """Return how far the attempt is that began after mark() gave `before`: (stage, texts there)."""
        try:
            if self.mark() == before:
                return Stage.STARTING, 0  # an earlier attempt's
            about = self.about()
            texts = self.folder / "generations.jsonl"
            done = texts.read_bytes().count(b"\n") if texts.exists() else 0
        except (FileNotFoundError, InputError):
            return Stage.STARTING, 0
        if (self.folder / "measurements.json").exists():
            return Stage.ENDING, done
        if about["process"] > 1:
            return Stage.TIMING, done
        if done <= about["texts_kept"]:
            return Stage.LOADING, done
        return (Stage.TIMING if done >= self.run.study.texts_wanted else Stage.GENERATING), done

    def score(self, scorer: str, by: dict, make: Callable[[list[dict]], list[dict]], texts: list[dict] | None = None) -> None:
        """Write the scores that make(generations) gives, or make(texts), one line a text, unless they are there.

        scorer: the id of a judge or metric. by: what identifies it exactly. Scores of other generations, by anything else, or of
        other scoring code or versions are made again. The manifest comes last: without it there are no scores.
        """
        manifest = self.manifest(scorer)
        if manifest and manifest["by"] == by and not self.scores_are_stale(scorer):
            return
        self._scores_folder.mkdir(exist_ok=True)
        start = time.perf_counter()
        scores = files.lines(make(self.generations() if texts is None else texts))
        files.write(self._scores_folder / f"{scorer}.jsonl", scores)
        digest = hashlib.sha256(scores.encode()).hexdigest()
        made_of = {"of": self.generations_sha256(), "by": by, "software": scoring()}
        about = {**made_of, "sha256": digest, "seconds": time.perf_counter() - start}
        files.write_json(self._scores_folder / f"{scorer}.manifest.json", about)


def records(results: Path | str, study: StudyOfRuns[RunT]) -> list[Record[RunT]]:
    """Return the record of each run of a study, in the study's order, whatever their status."""
    return [Record(results, run) for run in study.runs()]


def snapshots(results: Path | str, study: StudyOfRuns[RunT]) -> list[Snapshot[RunT]]:
    """Return a snapshot of each run of a study, in the study's order, whatever their status."""
    return [Snapshot(results, run) for run in study.runs()]
