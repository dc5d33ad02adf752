"""Sentences about engines: whether low precision costs time on each, and whether they write the same texts."""

import pandas as pd

from affq.report.words.text import as_data, run_name
from affq.stats import PROMPTS_LIKE_THESE


def latency_ratios(ratios: pd.DataFrame) -> str:
    """Return, engine by engine, how long a text takes at each lower precision, as a multiple of the highest's.

    ratios: Results.ratios.
    """
    known = ratios[(ratios["figure"] == "latency") & ratios["estimand"].str.startswith(PROMPTS_LIKE_THESE)]
    lines = []
    for row in known.itertuples():
        interval = "no interval" if pd.isna(row.low) else f"95 % interval {row.low:.2f} to {row.high:.2f}"
        verdict = ""
        if pd.notna(row.low):
            verdict = ": slower" if row.low > 1 else ": faster" if row.high < 1 else ": not told apart"
        run = f"{as_data(row.model)} on {as_data(row.engine)}, {row.precision} against {row.against}"
        lines.append(f"- **{run}**: {row.estimate:.2f} times the seconds ({interval}){verdict}.")
    return "\n".join(lines) or "No engine has two precisions whose times could be compared."


def same_texts(frame: pd.DataFrame) -> str:
    """Return how far each run's texts are those of the first engine, and whose prompts differ.

    frame: Results.engines.
    """
    lines = []
    for row in frame.itertuples():
        weights = {True: "the same weights", False: "other weights"}.get(
            row.same_weights, "weights that the server does not tell"
        )
        line = (
            f"- **{run_name(row.model, row.precision, row.engine)}** beside {row.against} on {as_data(row.against_engine)} "
            f"({weights}): {row.same:.0%} of {row.texts} texts are equal, ROUGE-L {row.rougeL:.2f}"
        )
        if row.timed:
            place = "" if pd.isna(row.first_token) else f", the others up to token {row.first_token - 1:.0f} (median)"
            line += f"; generated alone, {row.timed_same:.0%} of {row.timed} are{place}"
        lines.append(f"{line}.")
        if pd.notna(row.prompts) and row.prompts_same < row.prompts:
            other = f"{row.prompts - row.prompts_same} of {row.prompts} have other token ids than affq's"
            lines.append(f"  **Its own chat template or tokenizer gives other prompts**: {other}.")
    return "\n".join(lines) or "No run on another engine has its counterpart beside it."
