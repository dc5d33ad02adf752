"""What is measured beside a run, over and over: texts under load, or a soak. Rows go to the disk level by level, round by round.

reports/<study>/runs/<run id>/<kind>/  about.json, rows.jsonl, readings.jsonl, then done.json
                                       scores/: of the texts of a load, as a run's are
                                       attempts/<n>/: what was made under other conditions, and something later replaced
"""

import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from affq import files
from affq.errors import InputError
from affq.files import sha256_of
from affq.results import schemas
from affq.results.provenance import changes_since, conditions, software
from affq.results.reading import FORMAT, KEY_OF, Reading, RunT
from affq.results.scores import Scores
from affq.results.state import Status

JOURNAL = ("rows.jsonl", "readings.jsonl")
SEALED = ("about.json", *JOURNAL)


class Kind(StrEnum):
    """What a series is of. Each is made by the notebook of its name."""

    LOAD = "load"
    SOAK = "soak"

    @property
    def notebook(self) -> str:
        """Return the name of the notebook that makes it."""
        return {"load": "6_load", "soak": "7_soak"}[self.value]

    @property
    def remedy(self) -> str:
        """Return what makes it again."""
        return f"affq {self.value} makes it again"


_ROWS: dict[Kind, tuple[type[schemas.Part], Callable[[dict], tuple], type[schemas.Part]]] = {
    Kind.LOAD: (schemas.LoadRow, lambda row: (row["level"], row["repetition"], row["number"]), schemas.LoadReading),
    Kind.SOAK: (schemas.SoakRow, lambda row: (row["round"], row["number"]), schemas.SoakReading),
}


class Series(Scores):
    """The series of one kind beside a run's records; the texts of a load have scores, in the order of their rows."""

    def __init__(self, record: Reading[RunT], kind: Kind) -> None:
        self.run, self.kind = record.run, kind
        self.folder = record.folder / kind.value
        self._scores_folder = self.folder / "scores"
        self._journal = files.Journal(*(self.folder / name for name in JOURNAL))
        self._row, self._key, self._reading = _ROWS[kind]

    def start(self, environment: dict, settings: dict[str, Any]) -> int:
        """Begin, or go on; return how many readings are kept: those made under the same conditions, if it is not complete.

        environment: hardware, engine and weights_sha256, as Record.start takes them. settings: what is asked of the series beyond
        the run's settings. Anything else that is there moves to attempts/<n>/.
        """
        about = {
            "format": FORMAT,
            "run_id": self.run.id,
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": {**self.run.settings, self.kind.value: settings},
            "stored_dtype": self.run.model.stored_dtype,
            "software": software(self.kind.notebook),
            **environment,
        }
        readings = self.readings() if self._under(about) and not self.complete else []
        if not readings:
            self.set_aside()
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(self.folder / "about.json", about)
        else:
            self._journal.keep(readings)
        return len(readings)

    def set_aside(self) -> None:
        """Move what is there to attempts/<n>/."""
        if not (there := [name for name in (*SEALED, "done.json", "scores") if os.path.lexists(self.folder / name)]):
            return
        numbers = [int(path.name) for path in self.folder.glob("attempts/*") if path.name.isdigit()]
        folder = self.folder / "attempts" / str(max(numbers, default=0) + 1)
        folder.mkdir(parents=True)
        for name in reversed(there):  # done.json before what it seals: no series is complete with a part of its records
            (self.folder / name).replace(folder / name)

    def append(self, rows: list[dict], reading: dict) -> None:
        """Append the rows of a level or round, then its reading, which says that they are all there."""
        self._journal.append(rows, reading)

    def finish(self) -> None:
        """Write done.json with the records' hashes: the series is complete now."""
        hashes = {name: sha256_of(self.folder / name) for name in SEALED}
        files.write_json(self.folder / "done.json", files.sealed(b"", hashes))

    @property
    def complete(self) -> bool:
        """Whether done.json is there, and the records are those that it was written for."""
        try:
            done = files.read_json(self.folder / "done.json", self.kind.remedy)
            return done == files.sealed(b"", {name: sha256_of(self.folder / name) for name in SEALED})
        except (InputError, OSError):
            return False

    def about(self) -> dict:
        """Return about.json. Raises InputError where it is not there, is damaged, or is that of another run."""
        path = self.folder / "about.json"
        about = files.read_json(path, self.kind.remedy, schemas.Series.model_validate)
        if about["run_id"] != self.run.id:
            raise files.damaged(path, f"it is that of another run, {about['run_id']!r}", self.kind.remedy)
        return about

    def settings(self) -> dict[str, Any]:
        """Return what was asked of the series."""
        return self.about()["settings"][self.kind.value]

    def changes(self) -> tuple[str, ...]:
        """Return what of versions and code changed since it was made; nothing if nothing did."""
        return changes_since(self.about()["software"], software(self.kind.notebook))

    def state(self) -> tuple[Status, str]:
        """Return what it is worth, and why: ok, stale, partial for one that was cut off, failed for one that cannot be used."""
        try:
            self.about()
            self.rows()
            if self.complete:
                changes = ", ".join(self.changes())
                return (Status.STALE, changes) if changes else (Status.OK, "")
        except InputError as error:
            return Status.FAILED, str(InputError(error.problem, place=Path(str(error.place)).name))
        except OSError as error:
            return Status.FAILED, str(error.strerror)
        if (self.folder / "done.json").exists():
            return Status.FAILED, "its records were changed after it had ended"
        return Status.PARTIAL, "it was cut off"

    def readings(self) -> list[dict]:
        """Return the readings whose rows are all there, in the order in which they were made."""
        batches, path = self._journal.batches(lambda row: self._key(self._checked(row))), self.folder / JOURNAL[1]
        return [files.checked(batch, self._reading.model_validate, path, self.kind.remedy) for batch in batches]

    def told(self) -> list[dict]:
        """Return the readings as they lie there, for whoever follows them; whether their rows are whole is not looked at."""
        try:
            lines = (self.folder / JOURNAL[1]).read_bytes().split(b"\n")[:-1]
            return [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return []

    def rows(self) -> list[dict]:
        """Return the rows of all whole readings. Raises InputError for one that is damaged."""
        readings = self.readings()
        data = (self.folder / JOURNAL[0]).read_bytes()[: readings[-1]["end_byte"]] if readings else b""
        return [self._checked(json.loads(line)) for line in data.splitlines()]

    def generations_sha256(self) -> str:
        """Return the hash of the rows: what a score is a score of."""
        return sha256_of(self.folder / JOURNAL[0])

    def _fit(self, scorer: str, scores: list[dict]) -> bool:
        return list(map(KEY_OF, scores)) == list(map(KEY_OF, self.rows()))

    def _checked(self, row: dict) -> dict:
        return files.checked(row, self._row.model_validate, self.folder / JOURNAL[0], self.kind.remedy)

    def _under(self, about: dict) -> bool:
        try:
            return conditions(self.about()) == conditions(json.loads(json.dumps(about)))
        except InputError:
            return False


def there(record: Reading[RunT], kind: Kind) -> Series | None:
    """Return a run's series of a kind, if it has one; whether it is complete is another question."""
    return Series(record, kind) if Path(record.folder / kind.value / "about.json").exists() else None


def usable(records: Iterable[Reading[RunT]], kind: Kind) -> list[Series]:
    """Return the series of a kind beside these runs that can be used, and have a reading."""
    every = [series for record in records if (series := there(record, kind))]
    return [series for series in every if series.state()[0] != Status.FAILED and series.readings()]
