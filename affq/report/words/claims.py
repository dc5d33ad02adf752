"""Sentences about what was claimed, and what a study's figures say of it."""

import math

import pandas as pd

from affq.analysis import Reason, Verdict
from affq.report.words.text import as_data
from affq.study import STATISTICS, on_engine


def verdicts(frame: pd.DataFrame) -> str:
    """List the verdict on each claim, with the figures for it or the reason why there are none. frame: Results.claims."""
    lines = []
    for row in frame.to_dict("records"):
        why = _not_testable(row) if row["verdict"] == Verdict.NOT_TESTABLE else _measured(row)
        lines.append(f"- **{as_data(row['claim'])}: {row['verdict']}.** *{as_data(row['claimed'])}.* {why}.")
    return "\n".join(lines)


def _measured(row: dict) -> str:
    statistic = STATISTICS[row["statistic"]]
    interval = "" if row["low"] == row["high"] else statistic.figure(row["low"], row["high"])
    details = "; ".join(part for part in (interval, row["estimand"]) if part)
    if math.isnan(row["claimed_high"]):
        claimed = f"above {statistic.neutral}"
    elif math.isnan(row["claimed_low"]):
        claimed = f"below {statistic.neutral}"
    else:
        claimed = statistic.figure(row["claimed_low"], row["claimed_high"])
    where = f"{row['device']}{as_data(on_engine(row['engine']))}"
    pair = f"{as_data(row['model'])} on {where}, {row['precision']} against {as_data(row['against'])}"
    resident = (
        ". Here that is resident memory, not a GPU's" if (row["statistic"], row["peak_kind"]) == ("peak_saving", "rss") else ""
    )
    return (
        f"{pair}, {statistic.title}: measured {statistic.figure(row['estimate'])}{f' ({details})' if details else ''}; claimed "
        f"{claimed}{resident}"
    )


def _not_testable(row: dict) -> str:
    statistic, detail, models = STATISTICS[row["statistic"]], as_data(row["detail"]), _sizes(row["models"])
    estimand = f" ({row['estimand']})" if isinstance(row["estimand"], str) else ""
    larger = "No larger model" if row["models"] == "all" else f"No larger model ({models} parameters)"
    why = {
        Reason.NO_MODEL: f"No model in this study has {models} parameters",
        Reason.NO_PAIR: f"{larger} at a lower precision has a peak within {detail} of a smaller one's at a higher precision",
        Reason.UNKNOWN_SIZE: "how many parameters it has is unknown",
        Reason.NO_RUN: f"the study has no run of it at {detail}{as_data(on_engine(row['engine']))}",
        Reason.NOT_COMPLETE: detail,
        Reason.RANDOM_TEXTS: "its weights are random, and its texts mean nothing",
        Reason.RANDOM_OUTLIERS: "its weights are random, without the outlier columns that take LLM.int8 its time",
        Reason.OTHER_DEVICE: f"its runs were made on different devices, {detail}",
        Reason.UNKNOWN_FIGURE: detail,
        Reason.NO_INTERVAL: f"its {statistic.title} of {statistic.figure(row['estimate'])} has no interval{estimand}",
    }[Reason(row["reason"])]
    return f"{as_data(row['model'])}: {why}" if isinstance(row["model"], str) else why


def _sizes(models: str) -> str:
    """Return how many parameters a claim is about, in billions: `at least 13e9` is `at least 13 B`."""
    bound, _, count = models.rpartition(" ")
    return f"{bound} {float(count) / 1e9:g} B" if bound else models
