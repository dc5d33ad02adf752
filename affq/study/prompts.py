"""Seed prompts times emotions: what a run asks of its model, in the order in which it asks."""

import json

from affq.errors import InputError
from affq.files import other_separator, read_csv, read_text

COLUMNS = ("id", "kind", "text", "text_without_emotion")
KINDS = ("general", "event")


def read_prompts(path):
    """Read seed prompts from a CSV file: a list of {id, kind, text, text_without_emotion}.

    `text` holds {emotion} where the emotion goes. Raises InputError, with the line, for what is missing, twice or unknown.
    """
    columns, records = read_csv(path)
    if columns != [*COLUMNS]:
        problem = f"{{place}}: the columns must be {','.join(COLUMNS)}; found {','.join(columns) or 'none'}"
        raise InputError(problem, place=f"{path}, line 1", remedy=other_separator(columns))
    records = [(line, cells) for line, cells in records if any(cells)]  # spreadsheets save empty rows below the last one
    if not records:
        raise InputError(f"{path} holds no prompt; add a line of {','.join(COLUMNS)}")
    rows: list[dict] = []
    seen = set()
    for line, cells in records:
        place = f"{path}, line {line}"
        if len(cells) != len(COLUMNS) or not all(cell.strip() for cell in cells):
            raise InputError(f"{place}: a prompt needs all of {','.join(COLUMNS)}, and no more")
        row = dict(zip(COLUMNS, cells, strict=True))
        if row["kind"] not in KINDS:
            raise InputError(f"unknown kind {row['kind']!r} in {place}; known: {', '.join(KINDS)}")
        if "{emotion}" not in row["text"]:
            raise InputError(f"{place}: the text of prompt {row['id']!r} has no {{emotion}}; put it where the emotion goes")
        if "{emotion}" in row["text_without_emotion"]:
            raise InputError(f"{place}: the text_without_emotion of prompt {row['id']!r} has {{emotion}}; ask for none there")
        if row["id"] in seen:
            raise InputError(f"{place}: prompt id {row['id']!r} is there twice; give each prompt its own")
        seen.add(row["id"])
        rows.append(row)
    return rows


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
    lines = read_text(path).rstrip("\n").split("\n")  # not splitlines(): a text may hold other separators
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
