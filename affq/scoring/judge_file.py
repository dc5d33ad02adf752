"""Judge the texts of a file: what `affq judge` does."""

import codecs
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from affq import files
from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.scoring import classifiers, scores
from affq.scoring.judge import Judge, packaged

MAX_CHARACTERS = 10_000  # of a text of a user's file: of a longer one the judge would read next to nothing
VERDICT = ("judged_emotion", "probabilities", "error")  # what judging adds to a line


class Line(NamedTuple):
    """One line of a file: its number, its object, or what can be written again of it, and what is wrong with it, or None."""

    number: int
    row: dict[str, Any]
    wrong: str | None


def chosen(name: str, labels: Iterable[str]) -> Judge:
    """Return the judge of a name, a folder's here among them; labels: as `its label=emotion`. Raises InputError."""
    pairs = [word.partition("=") for word in labels]
    if wrong := [label + sign + emotion for label, sign, emotion in pairs if not (label and sign and emotion)]:
        problem = f"--labels {wrong[0]!r} must be its label, =, and an emotion: remorse=guilt"
        raise InputError(problem, value=wrong[0])
    if not (judge := classifiers.find(name, {label: emotion for label, _, emotion in pairs}, Path(), EMOTIONS)):
        choices = [*packaged(), "or a folder with a sequence classifier", "or owner/name of the hub"]
        raise InputError(f"unknown judge {name!r}", value=name, choices=choices)
    return judge


def judge_file(texts: Path, out: Path, judge: Judge, say: Callable[[str], None]) -> list[tuple[int, str | None]]:
    """Judge the texts of a JSONL file into another; return each line's number and what is wrong with it, or None.

    Each line comes back with judged_emotion and probabilities added, one that cannot be judged with judged_emotion null and the
    reason as error; empty lines are no texts. `out` is as it was until all are judged. say: is told of a download. Raises
    InputError for files that cannot be, and a judge without an emotion.
    """
    files.need_place(out)
    if out.exists() and out.samefile(texts):
        raise InputError("{place} is the file that is read", place=out, remedy="give --out another name")
    lines = read_lines(texts)
    judge.fetch(say)
    if not set(EMOTIONS) & set(judge.emotions):
        judge.need(EMOTIONS)
    good = [line.row["text"] for line in lines if not line.wrong]
    verdicts = iter(scores.judged(good, judge.probabilities(good), judge.emotions))
    judged = [{"judged_emotion": None, "error": line.wrong} if line.wrong else next(verdicts) for line in lines]
    files.write_for_user(out, files.lines(line.row | verdict for line, verdict in zip(lines, judged, strict=True)))
    return [(line.number, line.wrong) for line in lines]


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a JSONL file of objects with a `text`, without those that are empty.

    Raises InputError if there is no such file, no line in it, or a line that was judged before. Clients of language models
    write `"error": null`, which is no verdict.
    """
    parts = files.read_bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines = [Line(number, *_read_line(part)) for number, part in enumerate(parts, 1) if part.strip()]
    if not lines:
        raise InputError("{place} holds no text", place=path)
    for line in lines:
        if taken := [name for name in VERDICT if line.row.get(name) is not None]:
            problem, place = f"{{place}} already has {' and '.join(taken)}", f"{path}, line {line.number}"
            raise InputError(problem, value=taken[0], place=place, remedy="remove what was judged before")
    return lines


def _read_line(line: bytes) -> tuple[dict[str, Any], str | None]:
    """Read one line: (its object, None), or (what can be written again of it, what is wrong with it)."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        # Half a surrogate pair and 1e999 are read, and could not be written.
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeDecodeError as error:
        return {}, f"not UTF-8 (byte {error.start} of the line)"
    except UnicodeEncodeError:
        return {}, "half a surrogate pair is no character"
    except json.JSONDecodeError as error:
        return {}, f"not JSON ({error.msg})"
    except (ValueError, RecursionError) as error:  # NaN, a number of too many digits, brackets a thousand deep
        return {}, f"not JSON ({error})"
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return row if isinstance(row, dict) else {}, "a line must be a JSON object with a text"
    if (length := len(row["text"])) > MAX_CHARACTERS:
        return row, f"a text of {length:,} characters; a judge takes {MAX_CHARACTERS:,} at most"
    return row, None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def read_texts(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file of objects with a `text`. Raises InputError, with the line, for anything else."""
    lines = read_lines(path)
    for line in lines:
        if line.wrong:
            raise InputError(f"{{place}}: {line.wrong}", place=f"{path}, line {line.number}")
    return [line.row for line in lines]
