"""Claims about precisions, read from a file, and the verdict that a study's figures give on each."""

import math
import re
import sys
from dataclasses import dataclass

from affq import InputError
from affq.precisions import PRECISIONS
from affq.settings import SHORT, Settings, read_yaml

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE = "supported", "contradicted", "inconclusive", "not testable here"
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE)
COLUMNS = "claim model precision against statistic estimate low high estimand verdict sentence".split()
DIRECTIONS = ("higher", "lower")
COMPLETE = ("ok", "stale")  # the statuses of runs that have figures
BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "uint8": 4}  # of a weight; uint8 holds two


@dataclass(frozen=True)
class Statistic:
    """What is estimated of one run against another: a title, what size may be claimed of it, the value of no difference."""

    title: str
    column: str  # of the runs: what each must have a value of
    least: float
    most: float
    neutral: float
    number: str  # how a value, times `scale`, is written
    unit: str = ""
    scale: int = 100

    def figure(self, *values):
        """Write a value, or several with `to` between them, and their unit."""
        return " to ".join(f"{self.scale * value:{self.number}}" for value in values) + self.unit


STATISTICS = {
    "weights_saving": Statistic("saving of stored weights", "weights_bytes", 0, 1, 0, ".1f", " %"),
    "peak_saving": Statistic("saving of peak memory", "peak_bytes", 0, 1, 0, ".1f", " %"),
    "latency_ratio": Statistic("ratio of seconds a text", "latency_s", 0, math.inf, 1, ".2f", scale=1),
    "emotion_f1_difference": Statistic("difference of emotion F1", "emotion_f1", -1, 1, 0, "+.1f", " points"),
}


@dataclass(frozen=True)
class Claim:
    """One claim. What is None is not claimed: a claim has precision and against, or peaks_within; direction or size, or both.

    least and below: how many parameters a model has that it speaks of.
    """

    id: str
    sentence: str
    statistic: str
    source: str
    precision: str | None = None
    against: str | None = None
    peaks_within: float | None = None
    direction: str | None = None
    size: float | None = None
    tolerance: float | None = None
    models: str = "all"
    least: float = 0
    below: float = math.inf

    @property
    def region(self):
        """Give (low, high), both within it, of the values that the claim allows; low is above high where none is."""
        neutral, low, high = STATISTICS[self.statistic].neutral, -math.inf, math.inf
        if self.direction == "higher":
            low = math.nextafter(neutral, math.inf)  # no difference is no direction
        elif self.direction == "lower":
            high = math.nextafter(neutral, -math.inf)
        if self.size is not None:
            # In binary 0.8 less 0.1 is a little more than 0.7: an interval at the edge shall be within.
            low, high = max(low, round(self.size - self.tolerance, 12)), min(high, round(self.size + self.tolerance, 12))
        return low, high

    @property
    def claimed(self):
        """Say the region in words."""
        statistic, words = STATISTICS[self.statistic], []
        if self.direction:
            words.append(f"{'above' if self.direction == 'higher' else 'below'} {statistic.neutral}")
        if self.size is not None:
            words.append(statistic.figure(self.size - self.tolerance, self.size + self.tolerance))
        return ", and ".join(words)


KEYS = dict.fromkeys("sentence statistic precision against peaks_within direction size tolerance models source".split())
KEYS["models"] = "all"


def read_claims(path):
    """Read the claims of a YAML file, a mapping of each claim's id to its keys: a list of Claims, in the file's order.

    affq/claims.yaml explains the keys. Raises InputError with the value, the place (file and line) and the choices.
    """
    values, lines = read_yaml(path, "claims", "their ids")
    claims = []
    for name, given in values.items():
        if not isinstance(name, str):
            raise InputError(f"the claim {name!r} in {path} must have a name that is text; put it in quotes")
        within = {(): lines[()]}  # a merged mapping has no line of its own
        within |= {place[1:]: line for place, line in lines.items() if place[:1] == (name,)}
        if not isinstance(given, dict):
            raise InputError(f"claim {name!r} in {path}, line {within[()]} must be a mapping with keys of: {', '.join(KEYS)}")
        claims.append(_Reader(path, given, within, KEYS).claim(name))
    return claims


class _Reader(Settings):
    """Makes a Claim of the keys of one."""

    def need(self, name, keys, such):
        if missing := [key for key in keys if self.values[key] is None]:
            raise InputError(f"claim {name!r} in {self.where()} names no {missing[0]}; {such}")

    def text(self, key):
        if not isinstance(value := self.values[key], str) or not value.strip():
            raise InputError(f"{key} in {self.where(key)} must be a text; found {SHORT.repr(value)}")
        return value

    def number(self, key, least, most):
        value = self.values[key]
        if type(value) not in (int, float) or not least <= value <= min(most, sys.float_info.max):
            upto = "" if most == math.inf else f" to {most}"
            raise InputError(f"{key} in {self.where(key)} must be a number from {least}{upto}; found {SHORT.repr(value)}")
        return float(value)

    def compared(self, name):
        """Read which runs are compared: two precisions of a model, or two models at similar memory."""
        if self.values["peaks_within"] is not None:
            if other := [key for key in ("precision", "against") if self.values[key] is not None]:
                raise InputError(f"claim {name!r} in {self.where()} has both peaks_within and {other[0]}; it compares by one")
            return {"peaks_within": self.between(0, 1, "peaks_within")}
        self.need(name, ("precision", "against"), "it compares by precision and against, or by peaks_within")
        pair = {key: self.one_of(key, tuple(PRECISIONS), "precision") for key in ("precision", "against")}
        if pair["precision"] == pair["against"]:
            raise InputError(f"claim {name!r} in {self.where('against')} compares {pair['against']} with itself")
        return pair

    def region(self, name, statistic):
        """Read what is claimed of the statistic."""
        found = {}
        if self.values["direction"] is not None:
            found["direction"] = self.one_of("direction", DIRECTIONS, "direction")
        if not found or self.values["size"] is not None or self.values["tolerance"] is not None:
            self.need(name, ("size", "tolerance"), "it claims a direction, or a size and its tolerance")
            found["size"] = self.number("size", statistic.least, statistic.most)
            found["tolerance"] = self.number("tolerance", 0, math.inf)
        return found

    def spoken_of(self):
        """Read which models the claim speaks of."""
        models = self.values["models"]
        if models == "all":
            return {}
        if not (found := re.fullmatch(r"(at least|below) (\d+(?:\.\d+)?(?:e\d{1,2})?)", str(models))):
            self.refuse("unknown models", models, ("models",), ["all", "at least 13e9", "below 10e9 (any number of parameters)"])
        return {"models": models, {"at least": "least", "below": "below"}[found[1]]: float(found[2])}

    def claim(self, name):
        self.need(name, ("sentence", "statistic", "source"), "a claim needs sentence, statistic and source")
        known = self.one_of("statistic", tuple(STATISTICS), "statistic")
        about = {"id": name, "sentence": self.text("sentence"), "statistic": known, "source": self.text("source")}
        claim = Claim(**about, **self.compared(name), **self.region(name, STATISTICS[known]), **self.spoken_of())
        if claim.region[0] > claim.region[1]:
            raise InputError(f"claim {name!r} in {self.where()} allows no value: its direction and its size exclude each other")
        return claim


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
    import pandas as pd  # a study reads its claims without it

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
    from affq import choose

    at, found = {row.run_id: row for row in runs.itertuples()}, False
    for pair in choose.similar_peaks(runs, claim.peaks_within).itertuples():
        small, large = sorted((at[pair.run_id], at[pair.other_run_id]), key=lambda run: run.parameters)
        spoken_of = all(claim.least <= run.parameters < claim.below for run in (small, large))  # not so where unknown
        if spoken_of and large.parameters > small.parameters and _bits(large.precision) < _bits(small.precision):
            found = True
            place = {"model": large.model, "precision": large.precision, "against": f"{small.model} {small.precision}"}
            yield place, large, small, None
    if not found:
        of = "" if claim.models == "all" else f" ({claim.models} parameters)"
        why = (
            f"no larger model{of} at a lower precision has a peak within {claim.peaks_within:.0%} of a smaller one's at a higher"
        )
        yield {"model": None, "precision": None, "against": None}, None, None, why


def _bits(precision):
    return BITS[PRECISIONS[precision].weight_dtype]


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
