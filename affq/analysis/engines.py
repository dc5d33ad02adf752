"""Do engines write the same texts from the same weights? Each run beside the run of its model on the study's first engine."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from affq.analysis.texts import NAMED, complete, named
from affq.inference import KEY, Generation
from affq.models import STORED
from affq.results import Reading
from affq.scoring import scores

SAME_TEXTS = [
    *NAMED,
    "against",
    "against_engine",
    "same_weights",
    "texts",
    "same",
    "rougeL",
    "timed",
    "timed_same",
    "first_token",
]
SAME_TEXTS += ["prompts", "prompts_same"]


def same_texts(records: Sequence[Reading]) -> pd.DataFrame:
    """Compare each complete run on a further engine with its model's run on the study's first engine: one row a run.

    Columns SAME_TEXTS. against: the same precision, else what a published checkpoint was read as, else the highest that is
    complete; same_weights says whether their weights are the same numbers, None where nobody knows. texts: of the quality pass,
    of which `same` is the share that are equal, and rougeL the mean likeness. timed: texts that both wrote alone, to the same
    number of tokens, as token ids: timed_same is the share that are equal, and first_token the median place, from 1, of the first
    token that differs. prompts: whose token ids by the engine's own template were compared with ours, prompts_same of them equal.
    """
    rows = []
    for record in complete(records):
        study = record.run.study
        first = study.engines[0][0]
        others = [other for other in complete(records) if (other.run.model, other.run.engine) == (record.run.model, first)]
        if record.run.engine == first or not others:
            continue
        other, same_weights = _counterpart(record, others)
        row = {**named(record.run), "against": other.run.precision, "against_engine": first.label, "same_weights": same_weights}
        rows.append(row | _texts(record, other) | _timed(record, other) | _prompts(record))
    return pd.DataFrame(rows, columns=SAME_TEXTS).astype({"same_weights": "boolean", "prompts": "Int64", "prompts_same": "Int64"})


def _counterpart(record: Reading, others: Sequence[Reading]) -> tuple[Reading, bool | None]:
    """Return the run to compare with, and whether it computes with the same weights. others: the highest precision first."""
    run = record.run
    alike = next((other for other in others if other.run.precision == run.precision), None)
    if run.engine.address is not None:  # whatever weights the server has
        return alike or others[0], None
    if alike is not None:
        return alike, True
    # A published file of few bits is loaded as float32 by transformers: the same numbers, held otherwise.
    whole = next((other for other in others if run.precision == STORED and other.run.precision == "fp32"), None)
    return (whole, True) if whole is not None else (others[0], False)


def _texts(record: Reading, other: Reading) -> dict[str, float]:
    own, theirs = (cast("list[Generation]", one.generations()) for one in (record, other))
    alike = [row["rougeL"] for row in scores.rouge_to_texts(own, theirs) if row["rougeL"] is not None]
    same = [text["text"] == their["text"] for text, their in zip(own, theirs, strict=True)]  # both in the study's order
    return {"texts": len(own), "same": float(np.mean(same)), "rougeL": float(np.mean(alike)) if alike else np.nan}


def _timed(record: Reading, other: Reading) -> dict[str, float]:
    own, theirs = _token_ids(record), _token_ids(other)
    pairs = [(ids, theirs[key]) for key, ids in own.items() if ids and len(theirs.get(key, ())) == len(ids)]
    firsts = [next((n for n, (a, b) in enumerate(zip(*pair, strict=True), 1) if a != b), None) for pair in pairs]
    differing = [first for first in firsts if first is not None]
    return {
        "timed": len(pairs),
        "timed_same": 1 - len(differing) / len(pairs) if pairs else np.nan,
        "first_token": float(np.median(differing)) if differing else np.nan,
    }


def _token_ids(record: Reading) -> dict[tuple, list[int]]:
    """Return the token ids of each timed text by its key, as it was timed last."""
    passes = record.measurements()["passes"]
    return {tuple(row[name] for name in KEY): row.get("token_ids", []) for one in passes for row in one["texts"]}


def _prompts(record: Reading) -> dict[str, int]:
    compared = record.measurements()["model"].get("prompt_ids")
    return {"prompts": compared["compared"], "prompts_same": compared["equal"]} if compared else {}
