"""Seed prompts times emotions: what a run asks of its model, in the order in which it asks; and reference texts."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict, cast

from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.files import other_separator, read_csv, read_text
from affq.inference import Request
from affq.study.settings import SHORT

COLUMNS = ("id", "kind", "text", "text_without_emotion")
KINDS = ("general", "event")


class Prompt(TypedDict):
    """A seed prompt; `text` holds {emotion} where the emotion goes."""

    id: str
    kind: str
    text: str
    text_without_emotion: str


def read_prompts(path: Path) -> list[Prompt]:
    """Return the seed prompts of a CSV file. Raises InputError, with the line, for what is missing, twice or unknown."""
    columns, records = read_csv(path)
    names = ",".join(COLUMNS)
    if columns != [*COLUMNS]:
        problem = f"{{place}}: the columns must be {names}; found {','.join(columns) or 'none'}"
        raise InputError(problem, value=columns, place=f"{path}, line 1", remedy=other_separator(columns))
    if not records:
        raise InputError("{place} holds no prompt", place=path, remedy=f"add a line of {names}")
    prompts: list[Prompt] = []
    ids = set()
    for line, cells in records:
        place = f"{path}, line {line}"
        if len(cells) != len(COLUMNS) or not all(cell.strip() for cell in cells):
            raise InputError(f"{{place}}: a prompt needs all of {names}, and no more", value=cells, place=place)
        prompt = cast(Prompt, dict(zip(COLUMNS, cells, strict=True)))
        if prompt["kind"] not in KINDS:
            raise InputError(f"unknown kind {prompt['kind']!r}", value=prompt["kind"], place=place, choices=KINDS)
        problem, remedy = "", ""
        if "{emotion}" not in prompt["text"]:
            problem, remedy = f"the text of prompt {prompt['id']!r} has no {{emotion}}", "put it where the emotion goes"
        elif "{emotion}" in prompt["text_without_emotion"]:
            problem, remedy = f"the text_without_emotion of prompt {prompt['id']!r} has {{emotion}}", "ask for none there"
        elif prompt["id"] in ids:
            problem, remedy = f"prompt id {prompt['id']!r} is there twice", "give each prompt its own"
        if problem:
            raise InputError(f"{{place}}: {problem}", value=prompt, place=place, remedy=remedy)
        ids.add(prompt["id"])
        prompts.append(prompt)
    return prompts


def cross(prompts: Iterable[Prompt], emotions: Sequence[str], samples: int = 1) -> list[Request]:
    """Return the requests of seed prompts crossed with emotions and samples, prompt by prompt.

    The same prompts asked without an emotion come last, one sample each: a control, never counted in F1.
    """
    prompts = list(prompts)
    asked = [
        Request(prompt_id=p["id"], kind=p["kind"], emotion=e, sample=n, request=p["text"].replace("{emotion}", e))
        for p in prompts
        for e in emotions
        for n in range(samples)
    ]
    control = [
        Request(prompt_id=p["id"], kind=p["kind"], emotion=None, sample=0, request=p["text_without_emotion"]) for p in prompts
    ]
    return asked + control


def to_time(requests: Iterable[Request], count: int) -> list[Request]:
    """Return `count` requests for the resource pass, each prompt in turn, or all if they are fewer.

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


def read_references(path: Path, emotions: Iterable[str]) -> dict[str, list[str]]:
    """Return the reference texts of a JSONL file by emotion.

    Raises InputError, with the line, for one of an unknown emotion, an empty one, and one that is there twice; and unless each
    of `emotions` has one at least.
    """
    references: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not splitlines(): a text may hold other separators
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
            emotion, text = row["emotion"], row["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            emotion = text = None
        if not (isinstance(emotion, str) and isinstance(text, str)):
            raise InputError("{place}: a reference is a JSON object with emotion and text", value=line, place=place)
        if emotion not in EMOTIONS:
            raise InputError(f"unknown emotion {SHORT.repr(emotion)}", value=emotion, place=place, choices=EMOTIONS)
        if not text.strip():
            raise InputError("{place}: the text is empty", value=text, place=place, remedy="write one, or leave the line out")
        if text in references.setdefault(emotion, []):
            problem = f"{{place}}: that text is there twice for {emotion}"
            raise InputError(problem, value=text, place=place, remedy="leave one out")
        references[emotion].append(text)
    if missing := [e for e in emotions if e not in references]:
        raise InputError(f"{{place}} has no reference text for {', '.join(missing)}", value=missing, place=path)
    return references
