"""The notes that people make on texts: reports/<study>/notes.jsonl, a line a note. No other module knows this file."""

from datetime import UTC, datetime

from affq import files
from affq.results.record import study_folder

FIELDS = ("time", "id", "run_id", "prompt_id", "emotion", "sample", "note")


def keep(results, study, text, note):
    """Append a note on a text, with the time, the text's id and what it is a text of; give the line back, {FIELDS}.

    text: {id, run_id, prompt_id, emotion, sample}.
    """
    about = {name: text[name] for name in FIELDS[1:-1]} | {"sample": int(text["sample"])}  # a frame's is numpy's
    row = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **about, "note": note}
    line, path = files.lines([row]).encode(), _path(results, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:  # one write, so that two notebooks do not mix their lines
        file.write(line)
    return row


def kept(results, study):
    """Read the notes on a study's texts, the oldest first. Raises InputError, with the line, for one that cannot be read."""
    path, remedy = _path(results, study), "mend or delete that line"
    if not path.exists():
        return []
    return files.read_jsonl(path, remedy, FIELDS)


def _path(results, study):
    return study_folder(results, study) / "notes.jsonl"
