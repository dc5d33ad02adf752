"""Sentences about which run to take."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from affq.analysis import choose
from affq.report.words.text import as_data
from affq.study import Budget, on_engine


def choice(taken: pd.DataFrame | None, budget: Budget) -> str:
    """Return which run to take within a study's budget, in Markdown; "" where it states none. taken: Results.choice."""
    if taken is None:
        return ""
    peak_bytes = np.inf if budget.memory_gb is None else 1e9 * budget.memory_gb
    return as_data(advice(taken, peak_bytes, np.inf if budget.seconds_a_text is None else budget.seconds_a_text))


def advice(
    taken: pd.DataFrame, peak_bytes: float, latency_s: float, streams: int | None = None, left_out: Sequence[str] = ()
) -> str:
    """Return what choose.within_budget took within these limits, infinity for none, in plain text.

    streams: how many texts were under way where the latency is of; None for one text alone. left_out: the names of the runs that
    were not measured so.
    """
    first, limits = taken.iloc[0], {f"{peak_bytes / 1e9:,.2f} GB": peak_bytes, f"{latency_s:,.2f} s a text": latency_s}
    budget = " and ".join(words for words, limit in limits.items() if np.isfinite(limit)) or "any budget"
    users = "" if streams is None else f" at {streams} concurrent user{'s' * (streams != 1)}"
    if first["role"] == "nearest":
        sentences = f"No run fits {budget}{users}. The nearest is {_run(first)}: {first['over']:.2f} times the budget."
    else:
        sentences = f"Within {budget}{users}, take {_run(first)}{_share(first)}."
        for _, second in taken.iloc[1:].iterrows():
            sentences += f" The runner-up is {_run(second)}{_share(second)}."
    return sentences + (f" Left out, for want of a reading{users}: {', '.join(left_out)}." if left_out else "")


def similar_peaks() -> str:
    """Return what Results.similar_memory is a table of."""
    return f"Runs whose peaks are within {choose.SIMILAR:.0%} of each other"


def _run(row: pd.Series) -> str:
    costs = {"GB": row["peak_bytes"] / 1e9, "s a text": row["latency_s"]}
    known = [f"{cost:,.2f} {unit}" for unit, cost in costs.items() if not np.isnan(cost)]
    figures = ", ".join([f"emotion F1 {row['emotion_f1']:.2f}", *known])
    return f"{row['model']} at {row['precision']}{on_engine(row['engine'])} ({figures})"


def _share(row: pd.Series) -> str:
    return "" if np.isnan(row["in_draws"]) else f", which is taken in {row['in_draws']:.0%} of the draws of prompts"
