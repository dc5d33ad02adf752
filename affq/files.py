"""Files: what people wrote is read with distrust, what affq writes is never half there."""

import codecs
import csv
import hashlib
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from affq.errors import InputError

NAME_CHARACTERS, NAME_BYTES = 60, 100  # of a name that is part of a file's: systems take 255 bytes of all its parts


def slug(name: str) -> str:
    """Return a name that is safe for a file on every system: letters and digits of any script, dots and dashes.

    Two names give one only where they are ASCII, short, and differ in what no file's name has: of any other that cannot be kept
    as it stands, a digest follows what can. Composed and decomposed letters are the same.
    """
    whole = unicodedata.normalize("NFC", name)
    kept = "".join(c if c in "._-" or unicodedata.category(c)[0] in "LMN" else " " for c in whole)
    plain = "-".join(kept.split()).strip(".-")
    short = plain[:NAME_CHARACTERS].encode()[:NAME_BYTES].decode(errors="ignore").strip(".-") or "unnamed"
    if short == whole or (whole.isascii() and short == (plain or "unnamed")):
        return short
    digest = hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{short.encode()[: NAME_CHARACTERS - 9].decode(errors='ignore').strip('.-')}-{digest}"


def ascii_name(name: str) -> str:
    """Return what can be kept of a name in 60 ASCII letters, digits, dots and dashes: for a name that ends with a digest."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()  # ü is u and two dots
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:60].strip(".-") or "unnamed"


def without_places(text: str) -> str:
    """Return a text that is to be published, with ~ for the user's home folder and . for the current one."""
    for place, sign in ((Path.cwd(), "."), (Path("~").expanduser(), "~")):
        if place.name:  # the root is in every path
            text = re.sub(rf"(?<!\w){re.escape(str(place))}(?![\w-])", sign, text)
    return text


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, what: str = "") -> bytes:
    """Return the bytes of a user's file; what: what the file is, for the message. Raises InputError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {f'the {what} ' if what else ''}{{place}}: {error.strerror}", place=path) from None


def read_text(path: Path, what: str = "") -> str:
    """Return a user's text file, without a byte order mark.

    what: what the file is, for the message. Raises InputError if it cannot be read, or is not UTF-8.
    """
    data = read_bytes(path, what)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        remedy = "save it as UTF-8: spreadsheets call that CSV UTF-8, where Unicode text is UTF-16"
        raise InputError("{place} is not UTF-8 but UTF-16", place=path, remedy=remedy)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{{place}} is not UTF-8 (byte {error.start})", place=path, remedy="save it as UTF-8") from None


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the columns of a user's CSV file and its records: the line where each ends, and its cells. Empty rows are skipped.

    Raises InputError as read_text does, for text that is no CSV, and for a file that ends within a row.
    """
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, [])
        records = [(reader.line_num, cells) for cells in reader if any(cells)]  # spreadsheets save empty rows below the last
    except csv.Error as error:
        raise InputError(f"{{place}} is no CSV file: {error}", place=path) from None
    if records and len(records[-1][1]) < len(columns) and not text.endswith(("\n", "\r")):
        problem = f"{{place}} ends within a row, after {len(records[-1][1])} of {len(columns)} cells"
        raise InputError(problem, place=f"{path}, line {records[-1][0]}", remedy="it was cut: copy it again")
    return columns, records


def other_separator(columns: Iterable[str]) -> str | None:
    """Return the remedy for a CSV file whose columns are separated by semicolons or tabs; None for another file."""
    head = "".join(columns)
    names = [name for sign, name in ((";", "semicolons"), ("\t", "tabs")) if sign in head]
    return f"it is separated by {names[0]}: save it with commas" if names else None


def write(path: Path, text: str) -> None:
    """Write a text file whole: whoever reads it meanwhile finds the former text or this one.

    A link at its place is replaced: what it leads to stays as it is. An OSError names the file.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    try:
        with named(path), open(fresh, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)  # a full disk has no room for half a file either
        raise


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an OSError name the file: that of a full disk says nothing of what was written."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_for_user(path: Path, text: str) -> None:
    """Write a text file where a user asked for it: whole, through a link, and into a device as it comes."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", newline="\n")
    else:
        write(path.resolve(), text)


def need_place(path: Path) -> None:
    """Raise InputError unless a file can be written at a path, as far as that is known before: work need not be done in vain."""
    why = ""
    if path.is_dir():
        why = "it is a folder"
    elif not path.parent.is_dir():
        why = f"there is no folder {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "it cannot be written to" if path.exists() else f"nothing can be written to {path.parent}"
    if why:
        raise InputError(f"cannot write {{place}}: {why}", place=path)


def write_json(path: Path, value: Mapping | list) -> None:
    """Write a JSON file whole."""
    write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def lines(rows: Iterable[Mapping]) -> str:
    """Return rows as JSON lines. Raises ValueError for a number that is not finite, which JSON has no word for."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def sealed(data: bytes, about: Mapping) -> dict:
    """Return `about` with a hash over it and over the bytes that go with it: neither can change unseen."""
    return {"sha256": hashlib.sha256(data + json.dumps(about).encode()).hexdigest(), **about}


class Journal:
    """Rows, appended to a file batch by batch; for each batch a line of a second file, its seal, says that it is whole."""

    def __init__(self, rows: Path, seals: Path) -> None:
        self.rows, self.seals = rows, seals

    def append(self, rows: list[dict], reading: dict) -> None:
        """Append one batch: its rows, then the line that seals them, {sha256, texts, end_byte, **reading}."""
        data = lines(rows).encode()
        end = _append(self.rows, data)
        _append(self.seals, lines([sealed(data, {"texts": len(rows), "end_byte": end, **reading})]).encode())

    def batches(self, key: Callable[[dict], Hashable]) -> list[dict]:
        """Return the seals of the whole batches, up to the first that is torn, was changed, or repeats the key of a row.

        key: raises ValueError for a row that is none. Links are not followed: what they lead to is not to be appended to.
        """
        try:
            if self.rows.is_symlink() or self.seals.is_symlink():
                return []
            data, seals = self.rows.read_bytes(), self.seals.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return []
        whole: list[dict] = []
        seen: set[Hashable] = set()
        start = 0
        for line in seals.split(b"\n"):
            try:
                seal = json.loads(line)
                about = {name: value for name, value in seal.items() if name != "sha256"}
                batch = data[start : about["end_byte"]]
                keys = {key(json.loads(row)) for row in batch.split(b"\n") if row}
            except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
                break
            if sealed(batch, about) != seal or about.get("texts") != len(keys) or seen & keys:
                break
            whole.append(seal)
            seen, start = seen | keys, about["end_byte"]
        return whole

    def keep(self, batches: list[dict]) -> None:
        """Drop what comes after these batches."""
        os.truncate(self.rows, batches[-1]["end_byte"])
        write(self.seals, lines(batches))


def _append(path: Path, data: bytes) -> int:
    """Append bytes, flush them to the disk, and return the size of the file."""
    with named(path), open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def read_json(path: Path, remedy: str, check: Callable[[Any], object] = dict) -> dict:
    """Return the object of a JSON file of affq's own; raise InputError, with the remedy, for a file that holds none.

    check: raises ValueError, as pydantic does, for a value of another shape than is read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, FileNotFoundError) as error:
        raise damaged(path, error, remedy) from None
    except (IsADirectoryError, NotADirectoryError):
        raise damaged(path, "it is no file", remedy) from None
    if not isinstance(value, dict):
        raise damaged(path, "no JSON object", remedy)
    return checked(value, check, path, remedy)


def read_jsonl(path: Path, remedy: str, check: Callable[[Any], object] = dict) -> list[dict]:
    """Return the rows of JSON lines; raise InputError, with line and remedy, for one that is none. check: as for read_json."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise damaged(path, "it is no file", remedy) from None
    rows = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise damaged(f"{path}, line {number}", error.msg, remedy) from None
        if not isinstance(row, dict):
            raise damaged(f"{path}, line {number}", "no JSON object", remedy)
        rows.append(checked(row, check, f"{path}, line {number}", remedy))
    return rows


def checked(value: dict, check: Callable[[Any], object], place: Path | str, remedy: str) -> dict:
    """Return `value` if it passes; else raise InputError that says by its first fault where it does not."""
    try:
        check(value)
    except ValueError as error:
        raise damaged(place, _first_fault(error), remedy) from None
    return value


def _first_fault(error: ValueError) -> str:
    """Return what pydantic found first, in words: what lacks, or what a value should be."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors(include_url=False)[0]
    place = " → ".join(map(str, fault["loc"]))
    return f"it has no {place}" if fault["type"] == "missing" else f"{place}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def damaged(place: Path | str, why: str | Exception, remedy: str) -> InputError:
    """Return the InputError for a record that cannot be read."""
    return InputError(f"{{place}} is damaged ({why})", place=place, remedy=remedy)


def packaged_yaml(text: str) -> Any:
    """Return what YAML text of the package's own says, read by libyaml where PyYAML was built with it, which is faster."""
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
