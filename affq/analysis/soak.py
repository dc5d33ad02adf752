"""What a soak shows, as frames: memory, time and texts round by round, and whether they drift. Raw units; unknown is empty."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
import pandas as pd

from affq.analysis.texts import NAMED, named
from affq.results import Kind, Reading, Series, usable
from affq.stats import drift

# The memory that is watched, by what holds it.
MEMORY = {"process memory": "rss_bytes", "server memory": "server_rss_bytes", "GPU memory": "allocated_bytes"}
LATENCY = "latency"
WARM_UP = 1  # rounds of each process: caches fill, kernels are chosen, the allocator takes what a text needs
# Of the level, an hour: within it a figure is steady. A service that is started anew once a day then holds at most a quarter more
# at its end; and a latency is known in a study to about 5 % (the default `aim`), so that no less is looked for here.
TOLERANCE = {**dict.fromkeys(MEMORY, 0.01), LATENCY: 0.05}
LEAST_S = 600  # that rounds must span for a figure to be steady: an allocator grows by steps, and may rest for minutes
ROUND = "round process start_s seconds texts errors differing latency_change".split()
ROUNDS = [*NAMED, *ROUND, *MEMORY.values(), "cache_bytes"]
SOAKS = [
    *NAMED,
    *"complete asked_s seconds processes rounds texts errors differing first_differing_round first_differs_at".split(),
]
SOAKS += ["device", "device_name", "changed"]
PER_HOUR = ["percent_per_hour", "percent_per_hour_low", "percent_per_hour_high"]
DRIFT = [*NAMED, "figure", "verdict", "readings", "level_bytes", "level_s", *PER_HOUR, "tolerance_percent", "over_soak_bytes"]


class Drift(StrEnum):
    """What the interval of a slope says: that a figure grows, falls, or keeps within the tolerance; or nothing yet."""

    GROWS = "grows"
    STEADY = "steady"
    FALLS = "falls"
    CANNOT_TELL = "cannot tell"


def series(records: Sequence[Reading]) -> Iterator[tuple[Reading, Series, pd.DataFrame, pd.DataFrame]]:
    """Yield each run that has whole rounds of a soak that can be used, with its series, its rows and its readings."""
    by_id = {record.run.id: record for record in records}
    for soak in usable(records, Kind.SOAK):
        yield by_id[soak.run.id], soak, _changes(pd.DataFrame(soak.rows())), pd.DataFrame(soak.readings())


def _changes(rows: pd.DataFrame) -> pd.DataFrame:
    """Add how each text's seconds differ from its median, as a logarithm; empty for one that failed.

    Seconds a token, where tokens are known: texts that are drawn differ in length.
    """
    took = (rows["seconds"] / rows["new_tokens"].clip(lower=1)).where(rows["error"].isna())
    logs = np.log(took.astype(float))
    key = [rows[name].fillna("") for name in ("prompt_id", "emotion", "sample")]
    return rows.assign(change=logs - logs.groupby(key).transform("median"))


def rounds(records: Sequence[Reading]) -> pd.DataFrame:
    """Return each round of each soak, columns ROUNDS."""
    frames = [_rounds(rows, readings).assign(**named(record.run)) for record, _, rows, readings in series(records)]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=ROUNDS)
    return frame[ROUNDS].astype({name: "Int64" for name in ROUNDS if name.endswith("_bytes")})


def _rounds(rows: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    by_round = rows.groupby("round")
    of_round = {
        "errors": by_round["error"].count(),
        "differing": by_round["differs_at"].count(),
        "latency_change": np.exp(by_round["change"].mean()) - 1,
    }
    return readings.join(pd.DataFrame(of_round), on="round")


def soaks(records: Sequence[Reading]) -> pd.DataFrame:
    """Return each soak, columns SOAKS: how long, in how many processes, and how many texts failed or differ."""
    lines = []
    for record, soak, rows, readings in series(records):
        differing = rows[rows["differs_at"].notna()]
        hardware = soak.about()["hardware"]
        line = {**named(record.run), "complete": soak.complete, "asked_s": 60.0 * soak.settings()["minutes"]}
        line |= {"seconds": float((readings["start_s"] + readings["seconds"]).max()), "processes": readings["process"].nunique()}
        line |= {"rounds": len(readings), "texts": len(rows), "errors": int(rows["error"].count()), "differing": len(differing)}
        line["first_differing_round"] = differing["round"].min() if len(differing) else None
        line["first_differs_at"] = differing["differs_at"].iloc[0] if len(differing) else None
        line |= {"device": hardware["device"], "device_name": hardware.get("device_name")}
        lines.append(line | {"changed": ", ".join(soak.changes())})
    whole = {"first_differing_round": "Int64", "first_differs_at": "Int64"}
    return pd.DataFrame(lines, columns=SOAKS).astype(whole)


def drifts(records: Sequence[Reading]) -> pd.DataFrame:
    """Return whether each soak's memory and latency drift, columns DRIFT: a row a run and figure that is known.

    level_bytes, level_s: the median, of the memory or of a text's seconds. percent_per_hour: of it. over_soak_bytes: what the
    slope comes to over all rounds. The first WARM_UP rounds of each process are left out.
    """
    lines = []
    for record, _, rows, readings in series(records):
        frame = _rounds(rows, readings)
        warm = frame[frame.groupby("process").cumcount() >= WARM_UP]
        for figure, column in {**MEMORY, LATENCY: "latency_change"}.items():
            if (known := warm[warm[column].notna()]).size:
                lines.append({**named(record.run), "figure": figure, **_drift(figure, known, known[column].astype(float), rows)})
    return pd.DataFrame(lines, columns=DRIFT).astype({name: "Int64" for name in DRIFT if name.endswith("_bytes")})


def _drift(figure: str, known: pd.DataFrame, values: pd.Series, rows: pd.DataFrame) -> dict:
    """Return the slope of a figure over its rounds. values: of each round, bytes or the change of latency."""
    hours, tolerance = (known["start_s"] + known["seconds"]) / 3600, TOLERANCE[figure]
    is_latency, level = figure == LATENCY, values.median()
    slope = drift.slope(hours, np.log1p(values) if is_latency else values / level, known["process"])
    if is_latency:
        slope = drift.Slope(*np.expm1(slope))
    line = dict(zip(PER_HOUR, 100 * np.array(slope), strict=True))
    line |= {"readings": len(known), "tolerance_percent": 100 * tolerance}
    line["verdict"] = str(_verdict(slope, tolerance, 3600 * float(np.ptp(hours))))
    if is_latency:
        return line | {"level_s": float(rows.loc[rows["error"].isna(), "seconds"].median())}
    over_soak = slope.estimate * level * float(np.ptp(hours))
    return line | {"level_bytes": round(level), "over_soak_bytes": None if np.isnan(over_soak) else round(over_soak)}


def _verdict(slope: drift.Slope, tolerance: float, span_s: float) -> Drift:
    """Return what a slope's interval says. tolerance: within which a figure is steady, on either side of 0."""
    if slope.low >= -tolerance and slope.high <= tolerance:
        return Drift.STEADY if span_s >= LEAST_S else Drift.CANNOT_TELL
    if slope.low > 0:
        return Drift.GROWS
    return Drift.FALLS if slope.high < 0 else Drift.CANNOT_TELL
