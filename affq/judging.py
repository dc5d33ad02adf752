"""Judge the texts of a file: what `affq judge` does."""

import json
from pathlib import Path

from affq import InputError, classifiers, scores
from affq.judge import packaged, read_lines
from affq.study import EMOTIONS


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
