"""Sentences about soaks: how long, on what, whether memory, time and texts drift."""

from typing import Any

import pandas as pd

from affq.analysis import NAMED, Drift, run_labels
from affq.report.words.text import as_data, run_name

MINUTES = 180  # up to which a time is told in minutes


def soaked(soaks: pd.DataFrame, drifts: pd.DataFrame) -> str:
    """Return what each soak shows: its length, the verdicts, texts that differ, errors; and what a verdict says.

    The frames are those of Results.
    """
    by_run = {run: rows.to_dict("records") for run, rows in drifts.groupby(NAMED, sort=False)}
    lines = [_soak(soak, by_run.get(tuple(soak[name] for name in NAMED), [])) for soak in soaks.to_dict("records")]
    tolerances = drifts.drop_duplicates("figure").groupby("tolerance_percent", sort=False)["figure"].agg(" and ".join)
    within = ", ".join(f"{percent:g} % an hour ({figures})" for percent, figures in tolerances.items())
    verdicts = (
        "A figure *grows* or *falls* where the 95 % interval of its slope leaves out 0, and is *steady* where that lies within "
        f"{within} on either side."
    )
    return "\n".join([*lines, *(["", verdicts] if within else [])]) or "No round of a soak is whole yet."


def _soak(soak: dict[Any, Any], drifts: list[dict[Any, Any]]) -> str:
    """Return the line of one soak. soak: a row of Results.soaks; drifts: its rows of Results.soak_drifts."""
    processes = "in one process" if soak["processes"] == 1 else f"in {soak['processes']} processes, one after the other"
    machine = as_data(soak["device_name"] or soak["device"])
    words = [f"{_long(soak['seconds'])} {processes} on {machine}, {soak['texts']:,} texts", *map(_drift, drifts)]
    words.append(_differing(soak))
    words.append(f"**{soak['errors']:,} texts failed**" if soak["errors"] else "no text failed")
    if not soak["complete"]:
        words.append(f"it was to take {_long(soak['asked_s'])}, and ended before")
    if soak["changed"]:
        words.append(f"since then, {as_data(soak['changed'])}")
    return f"- **{run_name(*(soak[name] for name in NAMED))}**: {'; '.join(words)}."


def _drift(drift: dict[Any, Any]) -> str:
    """Return what is said of one figure. drift: a row of Results.soak_drifts."""
    figure, verdict = drift["figure"], drift["verdict"]
    if pd.isna(drift["percent_per_hour"]):
        return f"{figure}: too few rounds to tell"
    if verdict == Drift.CANNOT_TELL:
        return f"{figure}: cannot tell, for it was too short, or the rounds differ too much"
    interval = f"{drift['percent_per_hour_low']:+z.2f} to {drift['percent_per_hour_high']:+z.2f} % an hour"
    if verdict == Drift.STEADY:
        return f"{figure} is steady ({interval})"
    over_soak_bytes = drift["over_soak_bytes"]
    amount = "" if pd.isna(over_soak_bytes) else f", {over_soak_bytes / 1e6:+,.1f} MB in all"
    return f"**{figure} {verdict}** ({interval}{amount})"


def _differing(soak: dict[Any, Any]) -> str:
    if not soak["differing"]:
        return "every text is that of the first round"
    place = f"the first in round {soak['first_differing_round'] + 1}, from character {soak['first_differs_at'] + 1} on"
    return f"**{soak['differing']:,} texts differ from the first round's**, {place}"


def _long(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:,.0f} minutes" if seconds < 60 * MINUTES else f"{seconds / 3600:,.1f} hours"


def drifts(drifts: pd.DataFrame) -> str:
    """Return every verdict in plain text: the alternative text of the chart. drifts: Results.soak_drifts."""
    figures = zip(run_labels(drifts), drifts["figure"], drifts["verdict"], strict=True)
    return "; ".join(f"{run}, {figure}: {verdict}" for run, figure, verdict in figures)
