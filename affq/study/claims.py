"""Claims about precisions, read from a file, and the verdict that a study's figures give on each."""

import math
import re
import sys
from dataclasses import dataclass

from affq.errors import InputError
from affq.models import PRECISIONS
from affq.study.settings import SHORT, Settings, read_yaml

DIRECTIONS = ("higher", "lower")


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
