"""Judge the texts of a file: what `affq judge` does."""

import json
from pathlib import Path

from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.scoring import classifiers, scores
from affq.scoring.judge import packaged

MAX_CHARACTERS = 10_000  # of a text of a user's file: of a longer one the judge would read next to nothing
VERDICT = ("judged_emotion", "probabilities", "error")  # what judging adds to a line


def chosen(name, labels):
    """Find the judge of a name, a folder's here among them; labels: [`its label=emotion`]. Raises InputError."""
    pairs = [word.partition("=") for word in labels]
    if wrong := [label + sign + emotion for label, sign, emotion in pairs if not (label and sign and emotion)]:
        raise InputError(f"--labels {wrong[0]!r} must be its label, =, and an emotion: remorse=guilt")
    if not (judge := classifiers.find(name, {label: emotion for label, _, emotion in pairs}, Path(), EMOTIONS)):
        choices = ", ".join([*packaged(), "or a folder with a sequence classifier", "or owner/name of the hub"])
        raise InputError(f"unknown judge {name!r}; known: {choices}")
    return judge


def judge_file(texts, out, judge, say):
    """Judge the texts of a JSONL file into another: give each line's number and what is wrong with it, or None.

    Each line comes back with judged_emotion and probabilities added, one that cannot be judged with judged_emotion null and the
    reason as error. say: is told of a download. Raises InputError for files that cannot be, and a judge without an emotion.
    """
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(f"cannot write {out}: " + ("it is a folder" if out.is_dir() else f"there is no folder {out.parent}"))
    if out.exists() and out.samefile(texts):
        raise InputError(f"{out} is the file that is read; give --out another name")
    lines = read_lines(texts)
    judge.fetch(say)
    if not set(EMOTIONS) & set(judge.emotions):
        judge.need(EMOTIONS)
    good = [row["text"] for row, wrong in lines if not wrong]
    verdicts = iter(scores.judged(good, judge.probabilities(good), judge.emotions))
    found = [row | ({"judged_emotion": None, "error": wrong} if wrong else next(verdicts)) for row, wrong in lines]
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return [(number, wrong) for number, (_, wrong) in enumerate(lines, 1)]


def read_lines(path):
    """Read a JSONL file of objects with a `text`: for each line (its object or {}, what is wrong with it or None).

    Raises InputError if there is no such file, no line in it, or a line that was judged before.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not lines[-1]:
        lines.pop()  # the end of the last line
    if not lines:
        raise InputError(f"{path} holds no text")
    found = [_read_line(line) for line in lines]
    for number, (row, _) in enumerate(found, 1):
        if taken := [name for name in VERDICT if name in row]:
            raise InputError(f"{path}, line {number} already has {' and '.join(taken)}; remove what was judged before")
    return found


def _read_line(line):
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


def _refuse_constant(name):
    raise ValueError(f"{name} is no number")


def read_texts(path):
    """Read a JSONL file of objects with a `text`. Raises InputError, with the line, for anything else."""
    found = read_lines(path)
    for number, (_, wrong) in enumerate(found, 1):
        if wrong:
            raise InputError(f"{path}, line {number}: {wrong}")
    return [row for row, _ in found]
