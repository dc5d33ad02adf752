"""What people say of a study's texts: labels/<person>.csv, {id, label}, and notes.jsonl. No other module knows these files."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from affq import files
from affq.errors import InputError
from affq.results import schemas
from affq.results.reading import AskedStudy, study_folder

if TYPE_CHECKING:
    import pandas as pd


class NotedText(TypedDict):
    """The text that a note is on; id: as `analysis.identified` gives it."""

    id: str
    run_id: str
    prompt_id: str
    emotion: str
    sample: int


class Note(NotedText):
    """A note on a text. time: when it was made (ISO 8601, UTC)."""

    time: str
    note: str


def named_people(paths: Iterable[Path]) -> dict[str, Path]:
    """Return {person: file}, each person named by the file.

    Raises InputError for two files of one name; names that differ by capitals alone are one, since some systems' files are.
    Names of any script stay apart.
    """
    named: dict[str, Path] = {}
    for path in paths:
        person = files.slug(path.stem)
        if twice := [former for other, former in named.items() if other.casefold() == person.casefold()]:
            problem = f"{{place}} and {twice[0]} would both be the labels of {person}"
            raise InputError(problem, place=path, remedy="give each file its person's name")
        named[person] = path
    return named


def keep_labels(results: Path | str, study: AskedStudy, person: str, labels: "pd.DataFrame") -> None:
    """Write one person's labels, a frame {id, label}, in place of earlier ones. person: as `named_people` names them."""
    folder = study_folder(results, study) / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / f"{person}.csv", labels.to_csv(index=False, lineterminator="\n"))


def kept_labels(results: Path | str, study: AskedStudy) -> dict[str, "pd.DataFrame"]:
    """Return the labels of a study, {person: frame {id, label}}; empty where nobody labelled.

    Raises InputError for a file that is none that `keep_labels` wrote.
    """
    kept = {path: read_labels(path) for path in sorted((study_folder(results, study) / "labels").glob("*.csv"))}
    for path, frame in kept.items():
        if list(frame) != ["id", "label"] or frame["id"].duplicated().any():
            raise files.damaged(
                path, "it has other columns than id and label, or an id twice", "read the labelled copy back again"
            )
    return {path.stem: frame for path, frame in kept.items()}


def read_labels(path: Path) -> "pd.DataFrame":
    """Return a CSV file as it stands, every cell a string. Raises InputError for what is none, and for cells without a column."""
    import pandas as pd  # takes half a second: not where nobody labelled

    columns, rows = files.read_csv(path)
    if len(columns) < 2:
        raise InputError("{place} is no CSV file of several columns", place=path, remedy=files.other_separator(columns))
    for number, (_, cells) in enumerate(rows, 1):
        if any(cells[len(columns) :]):  # a comma at the end of each row is harmless
            remedy = "put a text with a comma in double quotes"
            raise InputError("{place} has more cells than columns", place=f"{path}, record {number}", remedy=remedy)
    # Some spreadsheets leave the last comma out where nothing comes after it.
    whole = [[*cells, *[""] * (len(columns) - len(cells))][: len(columns)] for _, cells in rows]
    return pd.DataFrame(whole, columns=columns, dtype=str)


def keep_note(results: Path | str, study: AskedStudy, text: NotedText, note: str) -> Note:
    """Append a note on a text, with the time, to the study's notes, and return it."""
    row = Note(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        id=text["id"],
        run_id=text["run_id"],
        prompt_id=text["prompt_id"],
        emotion=text["emotion"],
        sample=int(text["sample"]),  # a frame's is numpy's
        note=note,
    )
    line, path = files.lines([row]).encode(), _notes(results, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():  # what it leads to is somebody else's: its notes are copied, and not added to
        files.write(path, files.read_text(path))
    with open(path, "ab") as file:  # one write, so that two notebooks do not mix their lines
        file.write(line)
    return row


def kept_notes(results: Path | str, study: AskedStudy) -> list[Note]:
    """Return the notes on a study's texts, the oldest first. Raises InputError, with the line, for one that cannot be read."""
    path = _notes(results, study)
    notes = files.read_jsonl(path, "mend or delete that line", schemas.Note.model_validate) if path.exists() else []
    return cast("list[Note]", notes)  # their fields were looked for


def _notes(results: Path | str, study: AskedStudy) -> Path:
    return study_folder(results, study) / "notes.jsonl"
