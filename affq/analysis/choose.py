"""Which run to take: what is not beaten at its cost, what fits a budget, what costs as much, how far the prompts decide."""

from collections.abc import Callable, Iterable
from itertools import combinations

import numpy as np
import pandas as pd

from affq.analysis.texts import RUN
from affq.errors import InputError
from affq.stats import on_frontier

SIMILAR = 0.15  # peaks are similar that differ by at most this share of the larger one
PEAK = [*RUN, "peak_bytes", "emotion_f1"]
BLOCKS = ["prompts", "emotion_f1", "blocks", "lowest", "highest"]


def frontier(runs: pd.DataFrame, cost: str, draws: np.ndarray | None = None) -> pd.DataFrame:
    """Mark the runs on the frontier of emotion F1 over a cost, in the order of `runs`.

    runs: {RUN, emotion_f1, <cost>}; cost: `peak_bytes` or `latency_s`, of one device. draws: F1 (draws,
    runs) with the prompts resampled, the same ones for all runs. Adds on_frontier, and in_draws: the share of draws in which a
    run is on it, NaN without draws.
    """
    marked = runs[[*RUN, "emotion_f1", cost]].reset_index(drop=True)
    costs = marked[cost].astype(float)
    marked["on_frontier"] = on_frontier(marked["emotion_f1"], costs)
    marked["in_draws"] = np.nan if draws is None else on_frontier(draws, costs).mean(axis=0)
    return marked


def within_budget(runs: pd.DataFrame, peak_bytes: float, latency_s: float, draws: np.ndarray | None = None) -> pd.DataFrame:
    """Choose within a budget of memory and of seconds a text; infinity is no limit. One row a run, with its `role`.

    The rule: of the runs whose peak and latency are both within the budget, the one of the highest emotion F1 (`choice`), then
    the next (`runner-up`); a tie goes to less memory, then to less time, then to the earlier row. Where none fits, the
    `nearest`: the run whose larger excess is least, `over` being that excess as a multiple of its budget (1: just fits).

    runs: {RUN, emotion_f1, peak_bytes, latency_s}; what lacks F1, or what is limited, is no candidate. draws
    as in `frontier`; in_draws is the share of them in which the rule takes this run of those that fit, NaN without. Raises
    InputError for a budget that is not above 0, and where no run has all figures.
    """
    limits = {"peak_bytes": peak_bytes, "latency_s": latency_s}
    for name, limit in limits.items():
        if not limit > 0:
            raise InputError(f"the budget {name} must be above 0; found {limit}", value=limit)
    limited = [name for name, limit in limits.items() if np.isfinite(limit)]
    known = runs[[*RUN, "emotion_f1", "peak_bytes", "latency_s"]].reset_index(drop=True).dropna(subset=["emotion_f1", *limited])
    if known.empty:
        raise InputError(f"no run has an emotion F1 and {' and '.join(limited) or 'texts'} to choose by")
    known = known.astype({"peak_bytes": float, "latency_s": float})
    excess = np.fmax(known["peak_bytes"] / peak_bytes, known["latency_s"] / latency_s)
    known = known.assign(over=excess.astype(float), in_draws=np.nan)
    fitting = known[known["over"] <= 1].sort_values(["peak_bytes", "latency_s"], kind="stable")
    if fitting.empty:
        return known.loc[[known["over"].idxmin()]].assign(role="nearest").reset_index(drop=True)
    if draws is not None:
        winners = draws[:, fitting.index].argmax(axis=1)  # the first of equals: the one of less memory
        fitting["in_draws"] = np.bincount(winners, minlength=len(fitting)) / len(draws)
    best = fitting.sort_values("emotion_f1", ascending=False, kind="stable").head(2)
    return best.assign(role=["choice", "runner-up"][: len(best)]).reset_index(drop=True)


def at_streams(runs: pd.DataFrame, under_load: pd.DataFrame, streams: int) -> pd.DataFrame:
    """Return the runs with the latency that a text has at so many streams, its median; nan where that was not measured.

    runs: {run_id, latency_s}; under_load: Results.under_load.
    """
    level = under_load[(under_load["loop"] == "closed") & (under_load["streams"] == streams)]
    latency_s = level.drop_duplicates("run_id").set_index("run_id")["latency_p50_s"]
    return runs.assign(latency_s=runs["run_id"].map(latency_s).astype(float))


def similar_peaks(runs: pd.DataFrame, within: float = SIMILAR) -> pd.DataFrame:
    """Pair the runs whose peaks differ by at most `within` of the larger one: one row a pair, in the order of `runs`.

    runs: {RUN, peak_kind, peak_bytes, emotion_f1}. Returns the columns PEAK of the first run, and of the
    other with `other_` before their names. Peaks of different kinds, such as a CPU's and a GPU's, are not compared.
    """
    pairs = [
        {**first[PEAK].to_dict(), **other[PEAK].add_prefix("other_").to_dict()}
        for (_, first), (_, other) in combinations(runs.dropna(subset="peak_bytes").iterrows(), 2)
        if first["peak_kind"] == other["peak_kind"]
        and abs(first["peak_bytes"] - other["peak_bytes"]) <= within * max(first["peak_bytes"], other["peak_bytes"])
    ]
    return pd.DataFrame(pairs, columns=PEAK + [f"other_{name}" for name in PEAK])


def prices(runs: pd.DataFrame, price_per_hour: float | None = None, price_per_kwh: float | None = None) -> pd.DataFrame:
    """Price 1,000 texts of each run, generated one at a time, in the prices' currency: by a machine's hours, by energy, or both.

    runs: {RUN, latency_s, joules_a_text}. price · latency · 1000 / 3600, and price · joules · 1000 / 3.6e6, empty where the
    energy is unknown: what batches would save is not in it. Raises InputError for a price that is not above 0.
    """
    for unit, price in (("hour", price_per_hour), ("kWh", price_per_kwh)):
        if price is not None and not 0 < price < float("inf"):
            raise InputError(f"a price per {unit} must be a number above 0; found {price}", value=price)
    priced = runs[RUN].reset_index(drop=True)
    if price_per_hour is not None:
        latency_s = runs["latency_s"].to_numpy()
        priced = priced.assign(latency_s=latency_s, price_of_1000_texts_one_at_a_time=latency_s * price_per_hour * 1000 / 3600)
    if price_per_kwh is not None:
        joules = runs["joules_a_text"].to_numpy()
        priced = priced.assign(joules_a_text=joules, price_of_the_energy_of_1000_texts=joules * price_per_kwh * 1000 / 3.6e6)
    return priced


def by_prompts(judged: np.ndarray, sizes: Iterable[int], macro_f1: Callable[[np.ndarray], float]) -> pd.DataFrame:
    """Return F1 by the number of prompts, and how far the choice of as many moves it: one row a size that there are prompts for.

    judged: judged emotions (prompts, emotions, samples) of one run; macro_f1: such an array, of fewer prompts → F1. Columns
    BLOCKS: F1 at the first so many prompts, and the lowest and highest of `blocks` that share no prompt, cut one after the other
    from the first prompt on; NaN for one block.
    """
    rows = []
    for size in (size for size in sizes if size <= len(judged)):
        blocks = [macro_f1(judged[start : start + size]) for start in range(0, len(judged) - size + 1, size)]
        rows.append({"prompts": size, "emotion_f1": blocks[0], "blocks": len(blocks)})
        several = len(blocks) > 1  # of one block nothing is known of others
        rows[-1] |= {"lowest": min(blocks) if several else np.nan, "highest": max(blocks) if several else np.nan}
    return pd.DataFrame(rows, columns=BLOCKS)
