"""Files that are never half there: written whole, renamed into place, appended, flushed, named safely, read with distrust."""

import hashlib
import json
import os
import re
import unicodedata
from pathlib import Path

import orjson

from affq.errors import InputError


def slug(name):
    """Make of any name one that is safe as a file's on every system: 60 letters, digits, dots and dashes at most."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()  # ü is u and two dots
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:60].strip(".-") or "unnamed"


def without_places(text: str) -> str:
    """Put ~ for the user's folder and . for the current one, in what is published."""
    for place, sign in ((Path.cwd(), "."), (Path("~").expanduser(), "~")):
        if place.name:  # the root is in every path
            text = re.sub(rf"(?<!\w){re.escape(str(place))}(?![\w-])", sign, text)
    return text


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, what: str = "") -> str:
    """Return a text file of the user's, without a byte order mark; what: what it is, in the message.

    Raises InputError for one that cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{{place}} is not UTF-8 (byte {error.start})", place=path, remedy="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read {f'the {what} ' if what else ''}{{place}}: {error.strerror}", place=path) from None


def write(path, text):
    """Write a text file whole: whoever reads it finds the former one or this one."""
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def write_json(path, value):
    """Write a JSON file whole."""
    write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def lines(rows):
    """Turn rows into JSON lines; raise ValueError for a number that is not finite, which JSON has no word for."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def sealed(data, about):
    """Give `about` with a hash of it and of the bytes that go with it: neither changes unseen."""
    return {"sha256": hashlib.sha256(data + json.dumps(about).encode()).hexdigest(), **about}


class Journal:
    """Rows that are appended batch by batch to one file; a sealed line in another says of each batch that it is whole."""

    def __init__(self, rows, seals):
        self.rows, self.seals = rows, seals

    def append(self, rows, reading):
        """Append one batch: its rows, then the line that seals them, {sha256, texts, end_byte, **reading}."""
        data = lines(rows).encode()
        end = _append(self.rows, data)
        _append(self.seals, lines([sealed(data, {"texts": len(rows), "end_byte": end, **reading})]).encode())

    def batches(self, key):
        """Read the lines of the batches that are whole, up to the first that is torn, was changed, or repeats a row's key."""
        try:
            data, seals = self.rows.read_bytes(), self.seals.read_bytes()
        except FileNotFoundError:
            return []
        found, seen, start = [], set(), 0
        for line in seals.split(b"\n"):
            try:
                seal = json.loads(line)
                about = {name: value for name, value in seal.items() if name != "sha256"}
                batch = data[start : about["end_byte"]]
                keys = {key(json.loads(row)) for row in batch.split(b"\n") if row}
            except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
                break
            if sealed(batch, about) != seal or seen & keys:
                break
            found.append(seal)
            seen, start = seen | keys, about["end_byte"]
        return found

    def keep(self, batches):
        """Drop what comes after these batches."""
        os.truncate(self.rows, batches[-1]["end_byte"])
        write(self.seals, lines(batches))


def _append(path, data):
    """Append bytes, flush them to the disk, and return the size of the file."""
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def read_json(path, remedy):
    """Read a JSON object; raise InputError, with the remedy, for a file that holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, FileNotFoundError) as error:
        raise damaged(path, error, remedy) from None
    if not isinstance(found, dict):
        raise damaged(path, "no JSON object", remedy)
    return found


def read_jsonl(path, remedy, fields=()):
    """Read JSON lines; raise InputError, with the line and the remedy, for one that is none, or lacks one of the fields."""
    rows, wanted = [], set(fields)
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise damaged(f"{path}, line {number}", error.msg, remedy) from None
        if not (isinstance(row, dict) and wanted <= row.keys()):  # need() of each line would take as long as reading it
            need(row, fields, f"{path}, line {number}", remedy)
        rows.append(row)
    return rows


def need(found, fields, place, remedy):
    """Give `found` back if it has the fields, each given as nested keys with spaces between; else raise InputError."""
    for field in fields:
        value = found
        for key in field.split():
            if not isinstance(value, dict) or key not in value:
                raise damaged(place, f"it has no {field.replace(' ', ' → ')}", remedy)
            value = value[key]
    return found


def damaged(place, why, remedy):
    """Make the InputError for a record that cannot be read."""
    return InputError(f"{place} is damaged ({why}); {remedy}")
