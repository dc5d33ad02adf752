"""The verdict that a study's figures give on each claim."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from affq.analysis import choose, costs
from affq.analysis.comparison import Compared
from affq.errors import InputError
from affq.models import held_bits
from affq.results import Reading, Status
from affq.stats import compare
from affq.study import STATISTICS, Claim, read_claims

COLUMNS = "claim claimed model precision engine against statistic estimate low high estimand verdict reason detail".split()
COLUMNS += "models claimed_low claimed_high device peak_kind".split()
FIGURES = {"weights_saving": "weights", "peak_saving": "peak", "latency_ratio": "latency"}
Estimate = tuple[float, float, float, str | None]  # of a statistic, its interval, and what that is an interval of


class Verdict(StrEnum):
    """What figures say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_TESTABLE = "not testable here"


class Reason(StrEnum):
    """Why a claim is not testable here; in brackets, the detail that goes with it."""

    NO_MODEL = "no_model"  # of as many parameters as the claim is about
    NO_PAIR = "no_pair"  # of a larger and a smaller model whose peaks are similar (how similar)
    UNKNOWN_SIZE = "unknown_size"  # how many parameters the model has
    NO_RUN = "no_run"  # the study has none (at which precisions)
    NOT_COMPLETE = "not_complete"  # a run (which, and what it is instead)
    RANDOM_TEXTS = "random_texts"  # random weights: their texts mean nothing
    RANDOM_OUTLIERS = "random_outliers"  # random weights have no outlier columns, which take LLM.int8 its time
    OTHER_DEVICE = "other_device"  # (which two)
    UNKNOWN_FIGURE = "unknown_figure"  # (which, of which run)
    NO_INTERVAL = "no_interval"


@dataclass(frozen=True)
class Hindrance:
    """What keeps a claim from being tested."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Pair:
    """The two runs that a claim compares, rows of the runs, or what keeps it from comparing any."""

    model: str | None = None
    precision: str | None = None
    engine: str | None = None
    against: str | None = None
    run: pd.Series = None
    reference: pd.Series = None
    hindrance: Hindrance | None = None


def verdict(claim: Claim, estimate: float, low: float, high: float) -> Verdict:
    """Return the verdict on a claim of a statistic's estimate and its interval [low, high].

    Supported if the interval lies within the claim's region, contradicted if wholly outside, inconclusive if it overlaps, not
    testable here if one of the three is NaN. An exact quantity has low = high = estimate.
    """
    least, most = claim.region
    if any(math.isnan(value) for value in (estimate, low, high)):
        return Verdict.NOT_TESTABLE
    if least <= low and high <= most:
        return Verdict.SUPPORTED
    return Verdict.CONTRADICTED if high < least or low > most else Verdict.INCONCLUSIVE


def verdicts(claims: Sequence[Claim], runs: pd.DataFrame, estimate_of: Callable[[str, str, str], Estimate]) -> pd.DataFrame:
    """Return the verdict on each claim for each model, or pair of models, that it is about: a frame of COLUMNS.

    runs: one row a run, {run_id, model, precision, engine, parameters, bits (of a weight; 0 where unknown), status, weights
    (trained or random), device, peak_kind, weights_bytes, peak_bytes, emotion_f1, latency_s}, empty where unknown.
    estimate_of(statistic, run_id, reference_run_id) returns an Estimate: of a difference of F1 in [-1, 1], of a ratio of
    latencies, or of a saving as a share; NaN where it cannot be estimated. It is asked for complete runs alone. A claim that is
    about no model here has one row without a model.
    """
    runs = runs.astype({name: float for name in ("parameters", *(statistic.column for statistic in STATISTICS.values()))})
    rows = [_judged(claim, pair, estimate_of) for claim in claims for pair in _pairs(claim, runs)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _pairs(claim: Claim, runs: pd.DataFrame) -> Iterator[Pair]:
    return _of_one_model(claim, runs) if claim.peaks_within is None else _of_two_models(claim, claim.peaks_within, runs)


def _of_one_model(claim: Claim, runs: pd.DataFrame) -> Iterator[Pair]:
    """Yield the pair of each model that the claim is about; if there is none, one that says so."""
    about_any = False
    for model, of_model in runs.groupby("model", sort=False):
        parameters = of_model["parameters"].iloc[0]
        unknown = claim.models != "all" and math.isnan(parameters)
        if not (unknown or claim.models == "all" or claim.least <= parameters < claim.below):
            continue
        about_any = True
        for engine, rows in _by_engine(claim, of_model):
            by_precision = {row["precision"]: row for _, row in rows.iterrows()}
            missing = [str(precision) for precision in (claim.precision, claim.against) if precision not in by_precision]
            hindrance = Hindrance(Reason.NO_RUN, " and ".join(missing)) if missing else None
            if unknown:
                hindrance = Hindrance(Reason.UNKNOWN_SIZE)
            run, reference = by_precision.get(claim.precision), by_precision.get(claim.against)
            yield Pair(model, claim.precision, engine, claim.against, run, reference, hindrance)
    if not about_any:
        yield Pair(None, claim.precision, claim.engine, claim.against, hindrance=Hindrance(Reason.NO_MODEL))


def _by_engine(claim: Claim, of_model: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the runs of one model on each engine that a claim is about: its own, or all that have both of its precisions.

    Where none has both, the first stands for all: the claim then says what is missing.
    """
    engines = [(str(engine), rows) for engine, rows in of_model.groupby("engine", sort=False)]
    if claim.engine is not None:
        return [named for named in engines if named[0] == claim.engine] or [(claim.engine, of_model[:0])]
    return [named for named in engines if {claim.precision, claim.against} <= {*named[1]["precision"]}] or engines[:1]


def _of_two_models(claim: Claim, within: float, runs: pd.DataFrame) -> Iterator[Pair]:
    """Yield each pair on one engine of a larger model at a lower precision and a smaller at a higher whose peaks are similar."""
    by_id, about_any = {row["run_id"]: row for _, row in runs.iterrows()}, False
    for pair in choose.similar_peaks(runs, within).itertuples():
        small, large = sorted((by_id[pair.run_id], by_id[pair.other_run_id]), key=lambda run: run["parameters"])
        about = all(claim.least <= run["parameters"] < claim.below for run in (small, large))  # not so where unknown
        fewer_bits = 0 < large["bits"] < small["bits"]
        same_engine = large["engine"] == small["engine"] and claim.engine in (None, large["engine"])
        if about and large["parameters"] > small["parameters"] and fewer_bits and same_engine:
            about_any = True
            against = f"{small['model']} {small['precision']}"
            yield Pair(large["model"], large["precision"], large["engine"], against, large, small)
    if not about_any:
        yield Pair(hindrance=Hindrance(Reason.NO_PAIR, f"{within:.0%}"))


def _judged(claim: Claim, pair: Pair, estimate_of: Callable[[str, str, str], Estimate]) -> dict[str, object]:
    # A direction's end is the number next to no difference, and it has no other end.
    low, high = (math.nan if math.isinf(end) else round(end, 12) + 0.0 for end in claim.region)
    row: dict[str, object] = {"claim": claim.id, "claimed": claim.sentence, "statistic": claim.statistic, "models": claim.models}
    row |= {"claimed_low": low, "claimed_high": high, "model": pair.model, "precision": pair.precision}
    row |= {"engine": pair.engine, "against": pair.against}
    row |= {"estimate": math.nan, "low": math.nan, "high": math.nan, "verdict": Verdict.NOT_TESTABLE, "detail": ""}
    hindrance = pair.hindrance or _hindrance(claim.statistic, pair.run, pair.reference)
    if not hindrance:
        row |= {name: pair.run[name] for name in ("device", "peak_kind")}
        *figures, row["estimand"] = estimate_of(claim.statistic, pair.run["run_id"], pair.reference["run_id"])
        row |= dict(zip(("estimate", "low", "high"), figures, strict=True))
        row["verdict"] = verdict(claim, *figures)
        hindrance = Hindrance(Reason.NO_INTERVAL) if row["verdict"] == Verdict.NOT_TESTABLE else None
    return row | ({"reason": hindrance.reason, "detail": hindrance.detail} if hindrance else {})


def _hindrance(statistic: str, run: pd.Series, reference: pd.Series) -> Hindrance | None:
    """Return what keeps a statistic of two runs from being estimated; None where nothing does."""
    both, column = (run, reference), STATISTICS[statistic].column
    named = [f"{row['model']} at {row['precision']}" for row in both]
    statuses = [Status(row["status"]) for row in both]
    if lost := [f"{name} is {status}" for name, status in zip(named, statuses, strict=True) if not status.has_figures]:
        return Hindrance(Reason.NOT_COMPLETE, " and ".join(lost))
    if "random" in (run["weights"], reference["weights"]):
        if statistic == "emotion_f1_difference":
            return Hindrance(Reason.RANDOM_TEXTS)
        if statistic == "latency_ratio" and "int8" in (run["precision"], reference["precision"]):
            return Hindrance(Reason.RANDOM_OUTLIERS)
    if statistic in ("latency_ratio", "peak_saving") and run["device"] != reference["device"]:
        return Hindrance(Reason.OTHER_DEVICE, f"{run['device']} and {reference['device']}")
    if unknown := [f"{column} of {name} is unknown" for name, row in zip(named, both, strict=True) if math.isnan(row[column])]:
        return Hindrance(Reason.UNKNOWN_FIGURE, " and ".join(unknown))
    if statistic != "emotion_f1_difference" and not reference[column]:
        return Hindrance(Reason.UNKNOWN_FIGURE, f"{column} of {named[1]} is 0, of which nothing is a share")
    return None


def study_verdicts(compared: Compared, records: Sequence[Reading], summary: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts on the study's claims: see `verdicts`. summary: that of the records."""
    by_id = {record.run.id: record for record in records}

    def estimate_of(statistic: str, run_id: str, other_id: str) -> Estimate:
        if statistic == "emotion_f1_difference":
            if not compared.has(run_id) or not compared.has(other_id):
                return np.nan, np.nan, np.nan, "not judged"
            difference = compared.f1_difference(run_id, other_id)
            return float(difference.estimate), float(difference.low), float(difference.high), compare.PROMPTS_LIKE_THESE
        ratio, estimand = costs.ratio(FIGURES[statistic], by_id[run_id], by_id[other_id])
        estimate, low, high = (float(end) for end in (ratio.estimate, ratio.low, ratio.high))
        return (estimate, low, high, estimand) if statistic == "latency_ratio" else (1 - estimate, 1 - high, 1 - low, estimand)

    parameters = {record.run.model.name: count for record in records if not np.isnan(count := _parameters(record))}
    runs = summary.assign(parameters=[parameters.get(record.run.model.name, np.nan) for record in records])
    runs["bits"] = [held_bits(record.run.model, record.run.precision) for record in records]
    return verdicts(read_claims(compared.study.claims), runs, estimate_of)


def _parameters(record: Reading) -> float:
    """Return the number of a model's parameters, as loading counted them where its weights are not here; nan where it did not."""
    try:
        return record.run.model.parameters
    except InputError:
        return sum(row["elements"] for row in record.measurements()["census"]) or np.nan if record.complete else np.nan
