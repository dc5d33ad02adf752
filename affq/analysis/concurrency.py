"""Texts that are asked for at the same time: how long they take, how many come, and whether they are the same texts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd

from affq.analysis.comparison import FEWEST
from affq.analysis.costs import energy_of
from affq.analysis.texts import RUN, asked_and_judged, codes, named
from affq.inference import KEY
from affq.results import Kind, Reading, Status, there, usable
from affq.stats import PROMPTS_LIKE_THESE, compare, percentile
from affq.study import Run

FIGURES = ("ttft_s", "token_s", "gap_s", "latency_s")
PERCENTILES = (50, 90, 99)
BUSY = 0.8  # of a processor: a client that takes more may have none left
LATE = 0.05  # of the median time to the first token: a client that is later than that is seen in the figures
BEHIND = 0.95  # of the texts that were asked for a second: fewer are not kept up with
LEVEL = [*RUN, "level", "loop", "streams", "rate"]
REQUESTS = [*LEVEL, "repetition", "number", *KEY, "due_s", "late_s", "ttft_s", "token_s", "longest_gap_s", "latency_s"]
REQUESTS += ["new_tokens", "text", "ended", "error", "judged_emotion"]
UNDER_LOAD = [*LEVEL, *"repetitions texts errors asked_per_s texts_per_s lowest_texts_per_s highest_texts_per_s".split()]
UNDER_LOAD += [
    "tokens_per_s",
    *(f"{figure.removesuffix('_s')}_p{percent}_s" for figure, percent in product(FIGURES, PERCENTILES)),
]
UNDER_LOAD += "joules_a_text good good_texts_per_s keeps_up client_bound client_busy lag_s late_s".split()
LOAD_PERCENTILES = [*LEVEL, *"figure percentile readings estimate_s low_s high_s lowest_s highest_s".split()]
TEXTS_UNDER_LOAD = [*LEVEL, *"texts differ differ_low differ_high first_word emotion_f1 emotion_f1_low emotion_f1_high".split()]
TEXTS_UNDER_LOAD += "difference_points low_points high_points".split()
SERIES = [*RUN, "kind", "status", "readings", "note"]
TYPES = {"streams": "Int64", "rate": float}


class ClientBound(StrEnum):
    """Why a level may say less of the server than of the client that asks it."""

    PROCESSOR = "processor"
    LATE_LOOP = "late event loop"
    LATE_REQUESTS = "late requests"


@dataclass(frozen=True)
class Loaded:
    """A run's series of load, as it was read: its whole levels. judged: of each row its score, where there are scores."""

    run: Run
    rows: Sequence[dict]
    readings: Sequence[dict]
    judged: Sequence[dict]

    @cached_property
    def about(self) -> dict[str, str]:
        """What the run is known by: RUN."""
        return {"run_id": self.run.id, **named(self.run)}

    def levels(self) -> Iterator[tuple[dict, list[list[dict]], list[dict]]]:
        """Yield each level: what it is known by, the rows of each of its repetitions, their readings."""
        for level in dict.fromkeys(reading["level"] for reading in self.readings):
            readings = [reading for reading in self.readings if reading["level"] == level]
            rows = [self._rows(level, reading["repetition"]) for reading in readings]
            yield self.about | {name: readings[0][name] for name in ("level", "loop", "streams", "rate")}, rows, readings

    def _rows(self, level: int, repetition: int) -> list[dict]:
        return [row for row in self.rows if (row["level"], row["repetition"]) == (level, repetition)]


def series(records: Iterable[Reading[Run]]) -> pd.DataFrame:
    """Return what the series beside the runs are worth: one row a run and kind of series, columns SERIES.

    status: ok, partial for one that was cut off, stale, or failed for one that cannot be used, which no figure is made of.
    """
    rows = []
    for record in records:
        for kind in Kind:
            if one := there(record, kind):
                status, note = one.state()
                readings = 0 if status == Status.FAILED else len(one.readings())
                worth = {"kind": kind.value, "status": status.value, "readings": readings, "note": note}
                rows.append({"run_id": record.run.id, **named(record.run), **worth})
    return pd.DataFrame(rows, columns=SERIES)


def read(records: Sequence[Reading[Run]]) -> list[Loaded]:
    """Return the series of load that can be used, with the first judge's scores of their texts, where there are such."""
    by_id = {record.run.id: record.run for record in records}
    loads = [(by_id[one.run.id], one) for one in usable(records, Kind.LOAD)]
    return [Loaded(run, one.rows(), one.readings(), one.scores(run.study.judges[0].name)) for run, one in loads]


def requests(loads: Iterable[Loaded]) -> pd.DataFrame:
    """Return every text that was asked for under load, one row a text, columns REQUESTS.

    Times count from when the text was due, however late it was sent: a server that stalls, or a client, is not flattered. What a
    request that failed has not is empty.
    """
    rows = []
    for load in loads:
        judged = load.judged or [{}] * len(load.rows)
        for row, score in zip(load.rows, judged, strict=True):
            rows.append(load.about | row | _times(row) | {"judged_emotion": score.get("judged_emotion")})
    return pd.DataFrame(rows, columns=REQUESTS).astype(TYPES)


def _times(row: dict) -> dict[str, float]:
    """Return a request's times by their columns, in seconds."""
    times = dict.fromkeys(("ttft_s", "token_s", "longest_gap_s", "latency_s"), np.nan) | {"late_s": row["sent_s"] - row["due_s"]}
    if row["error"] is not None:
        return times
    times["latency_s"] = row["end_s"] - row["due_s"]
    if row["first_s"] is not None:
        times["ttft_s"] = row["first_s"] - row["due_s"]
    if len(gaps := _gaps(row)):
        times["longest_gap_s"] = float(gaps.max())
        if row["new_tokens"] > 1:
            times["token_s"] = (row["moments_s"][-1] - row["moments_s"][0]) / (row["new_tokens"] - 1)
    return times


def _gaps(row: dict) -> np.ndarray:
    """Return the seconds between the pieces of a text that came; none of a request that failed."""
    return np.diff(row["moments_s"]) if row["error"] is None else np.empty(0)


def under_load(loads: Iterable[Loaded], percentiles: pd.DataFrame) -> pd.DataFrame:
    """Return what each level of load gave: one row a run and level, columns UNDER_LOAD.

    texts_per_s is of the time in which the load was whole (`_delivered`); tokens_per_s those texts' tokens. asked_per_s: as the
    open loop's draws fell. joules_a_text: beyond what the devices take at rest, the mean of the repetitions. good: share of the
    texts asked for that came within the study's ttft_s and token_s, empty without such limits. client_bound: a ClientBound, empty
    where the client kept up. percentiles: load_percentiles of the same loads.
    """
    rows, estimates = [], percentiles.set_index(["run_id", "level", "figure", "percentile"])["estimate_s"].to_dict()
    for load in loads:
        for level, repetitions, readings in load.levels():
            every = [row for repetition in repetitions for row in repetition]
            failed = sum(row["error"] is not None for row in every)
            delivered = np.array([_delivered(repetition) for repetition in repetitions])  # texts, seconds
            texts_per_s = _per_s(*delivered.sum(axis=0))
            by_repetition = [_per_s(*one) for one in delivered]
            asked_per_s = _per_s(*np.sum([_asked(repetition) for repetition in repetitions], axis=0))
            tokens = np.mean([row["new_tokens"] for row in every if row["error"] is None]) if failed < len(every) else np.nan
            row = level | {"repetitions": len(repetitions), "texts": len(every), "errors": failed}
            row |= {"asked_per_s": asked_per_s if level["loop"] == "open" else np.nan, "texts_per_s": texts_per_s}
            row |= {"lowest_texts_per_s": float(np.min(by_repetition)), "highest_texts_per_s": float(np.max(by_repetition))}
            row["tokens_per_s"] = texts_per_s * tokens
            row["joules_a_text"] = energy_of(readings)["joules_a_text"]
            for figure, percent in product(FIGURES, PERCENTILES):
                estimate_s = estimates[level["run_id"], level["level"], figure, percent]
                row[f"{figure.removesuffix('_s')}_p{percent}_s"] = estimate_s
            if (good := _good(every, load.run)) is not None:
                came = len(every) - failed
                row |= {"good": good / len(every), "good_texts_per_s": texts_per_s * good / came if came else 0.0}
            row["keeps_up"] = texts_per_s >= BEHIND * asked_per_s if level["loop"] == "open" else None
            rows.append(row | _client(every, readings))
    return pd.DataFrame(rows, columns=UNDER_LOAD).astype(
        {**TYPES, "keeps_up": "boolean", "good": float, "good_texts_per_s": float}
    )


def _per_s(texts: float, seconds: float) -> float:
    return float(texts / seconds) if seconds else np.nan


def _delivered(rows: Sequence[dict]) -> tuple[int, float]:
    """Return how many texts came, and in how many seconds, while the load of one repetition was whole.

    Closed loop: up to when its last text was sent; behind that ever fewer are under way. Where all are sent at once: up to the
    last end. Open loop: from the first end to the last, the first text not counted, since it can end no sooner than it took.
    """
    ends = sorted(row["end_s"] for row in rows if row["error"] is None)
    if not ends:
        return 0, max(row["end_s"] for row in rows)
    if rows[0]["loop"] == "open":
        return len(ends) - 1, ends[-1] - ends[0]
    last_sent_s = max(row["sent_s"] for row in rows)
    within = int(np.searchsorted(ends, last_sent_s, side="right"))
    return (within, last_sent_s) if within else (len(ends), ends[-1])


def _asked(rows: Sequence[dict]) -> tuple[int, float]:
    """Return how many texts one repetition asked for after its first, and in how many seconds."""
    due = [row["due_s"] for row in rows]
    return len(due) - 1, max(due) - min(due)


def _readings(rows: Sequence[dict], figure: str) -> np.ndarray:
    """Return the readings of a figure of FIGURES in one repetition, in seconds; gaps of all its texts together."""
    if figure == "gap_s":
        return np.concatenate([np.empty(0), *map(_gaps, rows)])
    values = np.array([_times(row)[figure] for row in rows])
    return values[~np.isnan(values)]


def _good(rows: Sequence[dict], run: Run) -> int | None:
    """Return how many texts came within the limits that the study states; None where it states none."""
    limits = run.study.load
    if not limits or (limits.ttft_s is None and limits.token_s is None):
        return None
    first_s, token_s = limits.ttft_s or np.inf, limits.token_s or np.inf
    times = [_times(row) for row in rows]
    # What came without a token has no first one; a text of one token has none after it that could be late.
    return sum(of_text["ttft_s"] <= first_s and not of_text["token_s"] > token_s for of_text in times)


def _client(rows: Sequence[dict], readings: Sequence[dict]) -> dict[str, object]:
    """Return whether the client kept up with what it asked, by its columns."""
    busy, lag_s = (max(reading[name] for reading in readings) for name in ("client_busy", "lag_s"))
    late_s = float(np.quantile([row["sent_s"] - row["due_s"] for row in rows], 0.99))
    first = _readings(rows, "ttft_s")
    least_s = LATE * float(np.median(first)) if len(first) else np.inf
    signs = {
        ClientBound.PROCESSOR: busy > BUSY,
        ClientBound.LATE_LOOP: lag_s > least_s,
        ClientBound.LATE_REQUESTS: late_s > least_s,
    }
    bound = next((sign.value for sign, is_seen in signs.items() if is_seen), "")
    return {"client_bound": bound, "client_busy": busy, "lag_s": lag_s, "late_s": late_s}


def load_percentiles(loads: Iterable[Loaded]) -> pd.DataFrame:
    """Return the percentiles of each level's times with their intervals, columns LOAD_PERCENTILES: stats.percentile has how.

    figure: ttft_s and latency_s from when a text was due; token_s, a text's mean time of a further token; gap_s, the time between
    two pieces, of all texts together. lowest_s to highest_s: the repetitions' own percentiles.
    """
    rows = []
    for load in loads:
        for level, repetitions, _ in load.levels():
            for figure in FIGURES:
                values = [_readings(repetition, figure) for repetition in repetitions]
                for percent in PERCENTILES:
                    whole, own = percentile(values, percent), [percentile([one], percent).estimate for one in values]
                    row = level | {"figure": figure, "percentile": percent, "readings": sum(map(len, values))}
                    row |= {"estimate_s": whole.estimate, "low_s": whole.low, "high_s": whole.high}
                    rows.append(row | {"lowest_s": float(np.min(own)), "highest_s": float(np.max(own))})
    return pd.DataFrame(rows, columns=LOAD_PERCENTILES).astype(TYPES)


def texts_under_load(requests: pd.DataFrame, emotions: Sequence[str]) -> pd.DataFrame:
    """Compare each level's texts with those of the same requests at one stream: one row a run and level.

    Columns TEXTS_UNDER_LOAD. A request's text at one stream is the first that came; the row of one stream says how many of those
    that came again there differ, which is chance alone. first_word: the first word that differs, counted from 1, median.
    emotion_f1: of the level's texts, by the first judge; difference_points: less that of one stream, over the requests that both
    have. Intervals are for prompts like these. A run without one stream has no row. requests: as `requests` returns them.
    """
    rows = []
    for _, of_run in requests[requests["error"].isna()].groupby("run_id", sort=False):
        one = of_run[(of_run["loop"] == "closed") & (of_run["streams"] == 1)]
        if one.empty:
            continue
        first = one.drop_duplicates(KEY)
        for _, level in of_run.groupby("level", sort=False):
            others = level.drop(first.index, errors="ignore")
            row = level.iloc[0][LEVEL].to_dict() | _differing(others, first)
            rows.append(row | _f1(level, one, emotions))
    floats = TEXTS_UNDER_LOAD[len(LEVEL) + 1 :]
    return pd.DataFrame(rows, columns=TEXTS_UNDER_LOAD).astype(TYPES | dict.fromkeys(floats, float))


def _differing(texts: pd.DataFrame, first: pd.DataFrame) -> dict[str, float]:
    pairs = texts.merge(first[[*KEY, "text"]], on=KEY, suffixes=("", "_of_one"))
    differ = pairs["text"] != pairs["text_of_one"]
    words = [_first_word(*pair) for pair in pairs.loc[differ, ["text", "text_of_one"]].itertuples(index=False, name=None)]
    by_prompt = pairs.assign(differ=differ).groupby("prompt_id", sort=False)["differ"].agg(["sum", "count"]).to_numpy(float)
    share, low, high = _ends(by_prompt[:, None], compare.mean) if len(pairs) else (np.nan, np.nan, np.nan)
    return {
        "texts": len(pairs),
        "differ": share,
        "differ_low": float(np.clip(low, 0, 1)),
        "differ_high": float(np.clip(high, 0, 1)),
        "first_word": float(np.median(words)) if words else np.nan,
    }


def _first_word(text: str, other: str) -> int:
    """Return the place, from 1, of the first word that differs between two texts, or of the white space before it."""
    pairs = enumerate(zip(text.split(), other.split(), strict=False), 1)
    return next((place for place, (a, b) in pairs if a != b), min(len(text.split()), len(other.split())) + 1)


def _f1(level: pd.DataFrame, one: pd.DataFrame, emotions: Sequence[str]) -> dict[str, float]:
    """Return F1 of a level's texts with its interval, and its difference from one stream's."""
    texts, others = asked_and_judged(level), asked_and_judged(one)
    if texts.empty:
        return {}
    f1, low, high = _ends(_counts(texts, texts, emotions), compare.macro_f1, "logit")
    row = {"emotion_f1": f1, "emotion_f1_low": low, "emotion_f1_high": high}
    texts, others = (a.merge(b[KEY].drop_duplicates(), on=KEY) for a, b in ((texts, others), (others, texts)))
    if texts.empty or level["level"].iloc[0] == one["level"].iloc[0]:
        return row
    pair = np.stack([_counts(texts, texts, emotions), _counts(others, texts, emotions)], axis=-1)
    points = [100 * end for end in _ends(pair, compare.difference(compare.macro_f1))]
    return row | dict(zip(("difference_points", "low_points", "high_points"), points, strict=True))


def _counts(texts: pd.DataFrame, like: pd.DataFrame, emotions: Sequence[str]) -> np.ndarray:
    """Return what F1 of texts is made of, (prompts, 1, 3, emotions), over the prompts and the emotions that `like` asks for."""
    asked = [emotion for emotion in emotions if emotion in set(like["emotion"])]
    by_prompt = dict(list(texts.groupby("prompt_id", sort=False)))
    each = [by_prompt[prompt] for prompt in like["prompt_id"].unique()]
    return np.stack(
        [compare.tally(codes(one["emotion"], asked), codes(one["judged_emotion"], asked), len(asked)) for one in each]
    )[:, None]


def _ends(terms: np.ndarray, statistic: compare.Statistic, scale: str = "identity") -> tuple[float, float, float]:
    """Return (estimate, low, high) for prompts like these; of fewer than FEWEST prompts without ends."""
    interval = compare.interval(terms, statistic, PROMPTS_LIKE_THESE, scale)
    low, high = (np.nan if len(terms) < FEWEST else float(end) for end in (interval.low, interval.high))
    return float(interval.estimate), low, high
