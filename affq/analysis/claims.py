"""The verdict that a study's figures give on each claim."""

import math

import numpy as np
import pandas as pd

from affq.analysis import choose, costs
from affq.errors import InputError
from affq.models import PRECISIONS
from affq.stats import compare
from affq.study import STATISTICS, read_claims

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE = "supported", "contradicted", "inconclusive", "not testable here"
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE)
COLUMNS = "claim model precision against statistic estimate low high estimand verdict sentence".split()
COMPLETE = ("ok", "stale")  # the statuses of runs that have figures


def verdict(claim, estimate, low, high):
    """Judge a claim by a statistic's estimate and its interval [low, high]; one of VERDICTS.

    Supported if the interval lies within the claim's region, contradicted if wholly outside, inconclusive if it overlaps, not
    testable here if one of the three is NaN. An exact quantity has low = high = estimate.
    """
    least, most = claim.region
    if any(math.isnan(value) for value in (estimate, low, high)):
        return NOT_TESTABLE
    if least <= low and high <= most:
        return SUPPORTED
    return CONTRADICTED if high < least or low > most else INCONCLUSIVE


def verdicts(claims, runs, estimate_of):
    """Judge each claim for each model, or pair of models, that it speaks of: a frame of COLUMNS.

    runs: one row a run, {run_id, model, precision, parameters, status, weights (trained or random), device, peak_kind,
    weights_bytes, peak_bytes, emotion_f1, latency_s}, empty where unknown. estimate_of(statistic, run_id, reference_run_id) →
    (estimate, low, high, estimand): an interval of differences of F1 in [-1, 1], of a ratio of latencies, or of a saving as a
    share, and what it is an interval of, in words; NaN where it cannot be estimated. It is asked for complete runs alone.
    `against` is a precision of the same model, or another model and its precision. Where no model is spoken of, a claim has one
    row without a model. Where a claim is not testable here, the sentence says why.
    """
    runs = runs.astype({name: float for name in ("parameters", *(statistic.column for statistic in STATISTICS.values()))})
    rows = [
        _judged(claim, *compared, estimate_of)
        for claim in claims
        for compared in (_of_one_model if claim.peaks_within is None else _of_two_models)(claim, runs)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_one_model(claim, runs):
    """Give (place, run, reference, why not) of each model that the claim speaks of; of none, once, where there is none."""
    place, found = {"precision": claim.precision, "against": claim.against}, False
    for model, of in runs.groupby("model", sort=False):
        parameters = of["parameters"].iloc[0]
        if claim.models != "all" and math.isnan(parameters):
            found = True
            yield {"model": model, **place}, None, None, "how many parameters it has is unknown"
        elif claim.models == "all" or claim.least <= parameters < claim.below:
            found, at = True, {row.precision: row for row in of.itertuples()}
            missing = [precision for precision in (claim.precision, claim.against) if precision not in at]
            why = f"the study has no run of it at {' and '.join(missing)}" if missing else None
            yield {"model": model, **place}, at.get(claim.precision), at.get(claim.against), why
    if not found:
        yield {"model": None, **place}, None, None, f"the study has no model that it speaks of ({claim.models} parameters)"


def _of_two_models(claim, runs):
    """Give the same of each pair: a larger model at a lower precision, a smaller one at a higher, their peaks similar."""
    at, found = {row.run_id: row for row in runs.itertuples()}, False
    for pair in choose.similar_peaks(runs, claim.peaks_within).itertuples():
        small, large = sorted((at[pair.run_id], at[pair.other_run_id]), key=lambda run: run.parameters)
        spoken_of = all(claim.least <= run.parameters < claim.below for run in (small, large))  # not so where unknown
        fewer_bits = PRECISIONS[large.precision].bits < PRECISIONS[small.precision].bits
        if spoken_of and large.parameters > small.parameters and fewer_bits:
            found = True
            place = {"model": large.model, "precision": large.precision, "against": f"{small.model} {small.precision}"}
            yield place, large, small, None
    if not found:
        of = "" if claim.models == "all" else f" ({claim.models} parameters)"
        why = (
            f"no larger model{of} at a lower precision has a peak within {claim.peaks_within:.0%} of a smaller one's at a higher"
        )
        yield {"model": None, "precision": None, "against": None}, None, None, why


def _judged(claim, place, run, reference, why, estimate_of):
    row = {"claim": claim.id, **place, "statistic": claim.statistic}
    row |= {"estimate": math.nan, "low": math.nan, "high": math.nan, "estimand": None}
    if not (why := why or _hindrance(claim.statistic, run, reference)):
        *figures, row["estimand"] = estimate_of(claim.statistic, run.run_id, reference.run_id)
        row["estimate"], row["low"], row["high"] = figures
        found = verdict(claim, *figures)
        if found != NOT_TESTABLE:
            return row | {"verdict": found, "sentence": _sentence(claim, row, found, run)}
        statistic, of = STATISTICS[claim.statistic], row["estimand"]
        why = f"its {statistic.title} of {statistic.figure(row['estimate'])} has no interval"
        why += f" ({of})" if isinstance(of, str) else ""
    of = f" for {row['model']}" if row["model"] else ""
    return row | {"verdict": NOT_TESTABLE, "sentence": f"{claim.id} is {NOT_TESTABLE}{of}: {why}."}


def _hindrance(statistic, run, reference):
    """Say what keeps a statistic of two runs from being estimated; an empty text where nothing does."""
    both, column = (run, reference), STATISTICS[statistic].column
    if lost := [f"{one.model} at {one.precision} is {one.status}" for one in both if one.status not in COMPLETE]:
        return " and ".join(lost)
    if "random" in (run.weights, reference.weights):
        if statistic == "emotion_f1_difference":
            return "its weights are random, and what they write means nothing"
        if statistic == "latency_ratio" and "int8" in (run.precision, reference.precision):
            return "its weights are random, without the outlier columns that LLM.int8 computes apart, which takes time"
    if statistic in ("latency_ratio", "peak_saving") and run.device != reference.device:
        return f"its runs were made on different devices, {run.device} and {reference.device}"
    unknown = [f"{column} of {one.model} at {one.precision} is unknown" for one in both if math.isnan(getattr(one, column))]
    return " and ".join(unknown)


def _sentence(claim, row, found, run):
    statistic = STATISTICS[claim.statistic]
    interval = "" if row["low"] == row["high"] else statistic.figure(row["low"], row["high"])
    details = "; ".join(part for part in (interval, row["estimand"]) if part)
    said = (
        f"{claim.id} is {found} for {row['model']} on {run.device}: {statistic.title}, {row['precision']} against "
        f"{row['against']}, {statistic.figure(row['estimate'])}{f' ({details})' if details else ''}, where the claim is "
        f"{claim.claimed}."
    )
    if claim.statistic == "peak_saving" and run.peak_kind == "rss":
        said += " Here that is resident memory, not a GPU's."
    return said


def study_verdicts(compared, records, summary):
    """Judge the study's claims by its runs: a frame of claims.COLUMNS, and `claimed`, in words. summary: tables.summary."""
    by_id = {record.run.id: record for record in records}

    def estimate_of(statistic, run_id, other_id):
        of = compare.PROMPTS_LIKE_THESE
        if statistic == "emotion_f1_difference":
            if not compared.has(run_id) or not compared.has(other_id):
                return np.nan, np.nan, np.nan, "not judged"
            found = compared.f1_difference(run_id, other_id)
            return float(found.estimate), float(found.low), float(found.high), of
        figure = {"weights_saving": "weights", "peak_saving": "peak", "latency_ratio": "latency"}[statistic]
        found, estimand = costs.ratio(figure, by_id[run_id], by_id[other_id])
        estimate, low, high = (float(end) for end in (found.estimate, found.low, found.high))
        return (estimate, low, high, estimand) if figure == "latency" else (1 - estimate, 1 - high, 1 - low, estimand)

    runs = summary.assign(parameters=[_parameters(record.run.model) for record in records])
    read = read_claims(compared.study.claims)
    found = verdicts(read, runs, estimate_of)
    found.insert(1, "claimed", found["claim"].map({claim.id: claim.sentence for claim in read}))
    return found


def _parameters(model):
    """Count a model's parameters; nan where its weights are not here to be counted."""
    try:
        return model.parameters
    except InputError:
        return np.nan
