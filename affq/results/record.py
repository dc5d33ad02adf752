"""The files of a study's results: the contract between the notebooks. No other module knows them.

reports/<study>/runs/<run id>/  run.json, generations.jsonl, batches.jsonl, measurements.json, then done.json; or failed.json
                                passes/<n>.json: resource passes, one a process, until measurements.json has them
                                scores/<id>.jsonl with scores/<id>.manifest.json: of each judge and metric
                                attempts/<n>/: what an earlier attempt left, and a later one replaced
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from affq import files
from affq.errors import InputError
from affq.files import sha256_of, without_places
from affq.results import schemas
from affq.results.provenance import conditions, software
from affq.results.reading import FORMAT, RECORDS, REMEDY, TEXTS, AskedStudy, Reading, RunT, StudyOfRuns, study_folder
from affq.results.scores import Scores
from affq.results.state import Failure, Stage

ENDS = ("done.json", "failed.json", "measurements.json", "scores")
PASSES = "passes"
FOR_PEOPLE = ("1_generate.ipynb", "1_generate.log")


class Record(Reading[RunT], Scores):
    """The records of one run, to be written: files whole and renamed into place, texts appended batch by batch."""

    def set_aside(self, texts: bool = False) -> None:
        """Move what an earlier attempt ended with to attempts/<n>/, its `texts` too where they are not to be kept."""
        self._aside(ENDS + FOR_PEOPLE + (TEXTS if texts else ()))

    def _aside(self, names: Iterable[str]) -> None:
        if not (there := [name for name in names if os.path.lexists(self.folder / name)]):
            return
        numbers = [int(path.name) for path in self.folder.glob("attempts/*") if path.name.isdigit()]
        folder = self.folder / "attempts" / str(max(numbers, default=0) + 1)
        folder.mkdir(parents=True)
        if (self.folder / "run.json").is_file():
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
        if (self.folder / "run.json").is_dir():
            self._aside(["run.json"])
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

    def begin_texts(self) -> None:
        """Say that texts are being generated now: `progress` sees it before the first batch is there."""
        texts, run = self.folder / "generations.jsonl", self.folder / "run.json"
        texts.touch()
        later_ns = max(time.time_ns(), run.stat().st_mtime_ns + 1)  # the system's own times of files are some milliseconds apart
        os.utime(texts, ns=(later_ns, later_ns))

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
        paths = (path for path in (self.folder / PASSES).glob("*.json") if path.stem.isdigit())
        check, now = schemas.KeptPass.model_validate, conditions(self.about())
        passes = [files.read_json(path, REMEDY, check) for path in sorted(paths, key=lambda path: int(path.stem))]
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
        texts, run = self.folder / "generations.jsonl", self.folder / "run.json"
        try:
            if self.mark() == before:
                return Stage.STARTING, 0  # an earlier attempt's
            about = self.about()
            done = texts.read_bytes().count(b"\n") if texts.exists() else 0
            begun = texts.exists() and texts.stat().st_mtime_ns > run.stat().st_mtime_ns
        except (FileNotFoundError, InputError):
            return Stage.STARTING, 0
        if (self.folder / "measurements.json").exists():
            return Stage.ENDING, done
        if about["process"] > 1:
            return Stage.TIMING, done
        if not begun:
            return Stage.LOADING, done
        return (Stage.TIMING if done >= self.run.study.texts_wanted else Stage.GENERATING), done

    def score(self, scorer: str, by: dict, make: Callable[[list[dict]], list[dict]], texts: list[dict] | None = None) -> None:
        """Write the scores that make(generations) gives, or make(texts), one line a text, unless they are there.

        scorer: the id of a judge or metric. by: what identifies it exactly; None for a part that is not known here, where its
        weights are not. Scores of other generations, by anything else, or of other scoring code or versions are made again,
        unless what would make them is not here: those that differ in code or versions alone then stay. The manifest comes last:
        without it there are no scores.
        """
        if self.has_scores(scorer, by):
            return
        start = time.perf_counter()
        try:
            rows = make(self.generations() if texts is None else texts)
        except InputError:
            if self.has_scores(scorer, by, stale=True):
                return
            raise
        self.keep_scores(scorer, by, rows, time.perf_counter() - start)


def records(results: Path | str, study: StudyOfRuns[RunT]) -> list[Record[RunT]]:
    """Return the record of each run of a study, in the study's order, whatever their status."""
    return [Record(results, run) for run in study.runs()]


def reported_before(results: Path | str, study: AskedStudy, file: Path) -> Path | None:
    """Keep which study file the results' report is of; return the one that it was of, if that is another, and still there."""
    folder = study_folder(results, study)
    path = folder / "runs" / "reported.json"
    former = None
    with suppress(InputError):
        former = folder / str(files.read_json(path, REMEDY).get("study"))
    files.write_json(path, {"study": Path(os.path.relpath(file, folder)).as_posix()})  # as seen from there: both may be moved
    return former if former and former.is_file() and not former.samefile(file) else None
