"""Sentences about texts that are asked for at the same time: which run serves most, what held it back, whether texts change."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from affq.analysis import BEHIND, ClientBound
from affq.report.words.text import as_data, run_name, span
from affq.study import Load

CLIENT = {
    ClientBound.PROCESSOR: "the client, which asks and reads, took nearly a whole processor",
    ClientBound.LATE_LOOP: "the client was late to read what came",
    ClientBound.LATE_REQUESTS: "the client sent requests late",
}
WORTH = {
    "partial": "was cut off; its whole levels count, and the same command goes on",
    "stale": "was made by other versions or code",
    "failed": "cannot be used, and is left out",
}


def series(frame: pd.DataFrame, kind: str) -> str:
    """Return which series of a kind (`load`, `soak`) are not whole, each in a line; "" where all are. frame: Results.series."""
    lines = []
    for row in frame[(frame["kind"] == kind) & (frame["status"] != "ok")].itertuples():
        why = f" ({as_data(row.note)})" if row.note and row.status != "partial" else ""
        remedy = f" `affq {kind}` makes it again." if row.status == "failed" else ""
        lines.append(f"- **The {kind} of {run_name(row.model, row.precision, row.engine)}** {WORTH[row.status]}{why}.{remedy}")
    return "\n".join(lines)


def under_load(levels: pd.DataFrame, limits: Load | None) -> str:
    """Return which run serves most, within which limits, and what kept levels from being served. levels: Results.under_load.

    limits: of the study.
    """
    return " ".join(_under_load(levels, limits))


def _under_load(levels: pd.DataFrame, limits: Load | None) -> Iterator[str]:
    if not (served := levels.dropna(subset=["texts_per_s", "latency_p50_s"])).empty:
        yield f"Most texts come from {_level(served, 'texts_per_s')}."
    if levels["good_texts_per_s"].notna().any():
        kept = " and ".join(_limits(limits))
        if (levels["good_texts_per_s"] > 0).any():
            yield f"Within the study's limits ({kept}) most come from {_level(levels, 'good_texts_per_s')}."
        else:
            yield f"No text came within the study's limits ({kept})."
    if not (behind := levels[levels["keeps_up"].eq(False).fillna(False)]).empty:
        first, rates = behind.loc[behind["rate"].idxmin()], levels["keeps_up"].notna().sum()
        yield (
            f"Not kept up with: {len(behind)} of {rates} given rates, at which fewer than {BEHIND:.0%} of the texts that were "
            f"asked for came; the lowest is {first['rate']:g} texts a second, of which "
            f"{run_name(first['model'], first['precision'], first['engine'])} gave {first['texts_per_s']:.2f}."
        )
    if levels["errors"].sum():
        yield f"{levels['errors'].sum()} of {levels['texts'].sum()} requests failed; they have no times, and count as not good."
    bound = levels[levels["client_bound"] != ""]
    for reason, rows in bound.groupby("client_bound", sort=False):
        yield f"**At {len(rows)} of {len(levels)} levels {CLIENT[ClientBound(reason)]}**: the engine may do better than they say."


def _limits(limits: Load | None) -> Iterator[str]:
    if limits and limits.ttft_s:
        yield f"first token in {limits.ttft_s:g} s"
    if limits and limits.token_s:
        yield f"{limits.token_s:g} s a further token"


def _level(levels: pd.DataFrame, figure: str) -> str:
    """Return the level of the highest figure: its run, how it was asked, what it gave."""
    best = levels.loc[levels[figure].idxmax()]
    asked = f"{best['rate']:g} texts asked for a second"
    if best["loop"] == "closed":
        asked = f"{best['streams']} stream{'s' * int(best['streams'] != 1)}"
    times = f"{best['latency_p50_s']:.2f} s for a text in the median"
    if not np.isnan(best["latency_p90_s"]):
        times += f", and one in ten takes more than {best['latency_p90_s']:.2f} s"
    run = run_name(best["model"], best["precision"], best["engine"])
    return f"**{run}** at {asked}: {best[figure]:.2f} a second ({times})"


def texts_under_load(texts: pd.DataFrame) -> str:
    """Return how many texts change under load, and whether F1 moves. texts: Results.texts_under_load."""
    if texts.empty:
        return "No run was asked for its texts one at a time too: how many load changes is not known."
    alone = (texts["loop"] == "closed") & (texts["streams"] == 1)
    sentences = [f"Of a level's texts {span(texts.loc[~alone, 'differ'])} are not those that come one at a time."]
    if not (again := texts.loc[alone, "differ"].dropna()).empty:
        sentences.append(f"Asked for again one at a time, {span(again)} differ.")
    if not (known := texts.dropna(subset="difference_points")).empty:
        apart = known[(known["low_points"] > 0) | (known["high_points"] < 0)]
        furthest = known.loc[known["difference_points"].abs().idxmax()]
        sentences.append(
            f"The largest difference of F1 is {furthest['difference_points']:+z.1f} points; its interval leaves out 0 at "
            f"{len(apart)} of {len(known)} levels."
        )
    return " ".join(sentences)
