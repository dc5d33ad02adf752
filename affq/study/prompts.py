"""Seed prompts times emotions: what a run asks of its model, in the order in which it asks."""

import csv
import json

from affq.errors import InputError

COLUMNS = ("id", "kind", "text", "text_without_emotion")
KINDS = ("general", "event")


def read_prompts(path):
    """Read seed prompts from a CSV file: a list of {id, kind, text, text_without_emotion}.

    `text` holds {emotion} where the emotion goes. Raises InputError, with the line, for what is missing, twice or unknown.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ["none"])
            # Spreadsheets save empty lines below the last row.
            rows = [(reader.line_num, row) for row in reader if any(row.values())]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file: {error}") from None
    if columns != COLUMNS:
        separators = [name for sign, name in ((";", "semicolons"), ("\t", "tabs")) if sign in "".join(columns)]
        remedy = f"; it is separated by {separators[0]}: save it with commas" if separators else ""
        raise InputError(f"{path}, line 1: the columns must be {','.join(COLUMNS)}; found {','.join(columns)}{remedy}")
    if not rows:
        raise InputError(f"{path} holds no prompt; add a line of {','.join(COLUMNS)}")
    seen = set()
    for line, row in rows:
        place = f"{path}, line {line}"
        if None in row or None in row.values() or not all(value.strip() for value in row.values()):
            raise InputError(f"{place}: a prompt needs all of {','.join(COLUMNS)}, and no more")
        if row["kind"] not in KINDS:
            raise InputError(f"unknown kind {row['kind']!r} in {place}; known: {', '.join(KINDS)}")
        if "{emotion}" not in row["text"]:
            raise InputError(f"{place}: the text of prompt {row['id']!r} has no {{emotion}}; put it where the emotion goes")
        if "{emotion}" in row["text_without_emotion"]:
            raise InputError(f"{place}: the text_without_emotion of prompt {row['id']!r} has {{emotion}}; ask for none there")
        if row["id"] in seen:
            raise InputError(f"{place}: prompt id {row['id']!r} is there twice; give each prompt its own")
        seen.add(row["id"])
    return [row for _, row in rows]


def cross(prompts, emotions, samples=1):
    """Cross seed prompts with emotions and samples: requests {prompt_id, kind, emotion, sample, request}, prompt by prompt.

    The same prompts asked without an emotion come last, with `emotion: None`, one sample each: a control, never counted in F1.
    """
    asked = [
        {"prompt_id": p["id"], "kind": p["kind"], "emotion": e, "sample": n, "request": p["text"].replace("{emotion}", e)}
        for p in prompts
        for e in emotions
        for n in range(samples)
    ]
    control = [
        {"prompt_id": p["id"], "kind": p["kind"], "emotion": None, "sample": 0, "request": p["text_without_emotion"]}
        for p in prompts
    ]
    return asked + control


def to_time(requests, count):
    """Choose `count` requests for the resource pass, each prompt in turn, or all if they are fewer.

    Of those that ask for an emotion, first samples alone: the resource pass decodes greedily, where another is the same text.
    """
    asked = [r for r in requests if r["emotion"] and r["sample"] == 0]
    emotions = len({r["emotion"] for r in asked})
    prompts = len(asked) // emotions
    chosen = []
    for turn in range(min(count, len(asked))):
        prompt = turn % prompts
        emotion = (prompt + turn // prompts) % emotions  # one on with each prompt, and one on with each round over them
        chosen.append(asked[prompt * emotions + emotion])
    return chosen


def read_references(path, emotions):
    """Read reference texts from a JSONL file: {emotion: [texts]}. Raises InputError unless each emotion has one at least."""
    references = {}
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")  # not splitlines(): a text may hold other separators
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            emotion, text = row["emotion"], row["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            emotion = text = None
        if not (isinstance(emotion, str) and isinstance(text, str)):
            raise InputError(f"{path}, line {number}: a reference is a JSON object with emotion and text")
        references.setdefault(emotion, []).append(text)
    if missing := [e for e in emotions if e not in references]:
        raise InputError(f"{path} has no reference text for {', '.join(missing)}")
    return references
