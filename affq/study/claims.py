"""Claims about precisions: what each says, read from a file."""

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from affq.errors import InputError
from affq.models import ENGINES
from affq.study.settings import SHORT, OneOf, Precision, Settings, read_yaml


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

    def figure(self, *values: float) -> str:
        """Return a value in its unit, or several with `to` between them."""
        return " to ".join(f"{self.scale * value:{self.number}}" for value in values) + self.unit


STATISTICS = {
    "weights_saving": Statistic("saving of stored weights", "weights_bytes", 0, 1, 0, ".1f", " %"),
    "peak_saving": Statistic("saving of peak memory", "peak_bytes", 0, 1, 0, ".1f", " %"),
    "latency_ratio": Statistic("ratio of seconds a text", "latency_s", 0, math.inf, 1, ".2f", scale=1),
    "emotion_f1_difference": Statistic("difference of emotion F1", "emotion_f1", -1, 1, 0, "+z.1f", " points"),
}


Text = Annotated[str, Field(pattern=r"\S")]
MODELS = re.compile(r"(at least|below) (\d+(?:\.\d+)?(?:e\d{1,2})?)")


class Claim(Settings):
    """One claim: by precision and against, or by peaks_within; of a direction, or a size with its tolerance, or both.

    affq/study/claims.yaml explains the keys.
    """

    id: SkipJsonSchema[str]  # a key of the file's, not of the claim's
    sentence: Text
    statistic: Annotated[str, OneOf(STATISTICS), Field(title="statistic")]
    precision: Precision | None = None
    against: Precision | None = None
    engine: Annotated[str, OneOf(ENGINES), Field(title="engine")] | None = None
    peaks_within: Annotated[float, Field(gt=0, lt=1)] | None = None
    direction: Literal["higher", "lower"] | None = None
    size: float | None = None
    tolerance: Annotated[float, Field(ge=0)] | None = None
    models: str = "all"
    source: Text

    @field_validator("against")
    @classmethod
    def _another(cls, against: str | None, info: ValidationInfo) -> str | None:
        if against is not None and against == info.data.get("precision"):
            raise InputError(f"claim {info.data['id']!r} in {{place}} compares {against} with itself", value=against)
        return against

    @field_validator("size", mode="before")
    @classmethod
    def _within_its_statistic(cls, size: Any, info: ValidationInfo) -> Any:
        if size is None or (statistic := STATISTICS.get(info.data.get("statistic", ""))) is None:
            return size
        if type(size) not in (int, float) or not statistic.least <= size <= min(statistic.most, sys.float_info.max):
            to = "" if statistic.most == math.inf else f" to {statistic.most}"
            problem = f"size in {{place}} must be a number from {statistic.least}{to}; found {SHORT.repr(size)}"
            raise InputError(problem, value=size)
        return size

    @field_validator("models", mode="before")
    @classmethod
    def _of_a_size(cls, models: Any) -> Any:
        if models != "all" and not MODELS.fullmatch(str(models)):
            choices = ("all", "at least 13e9", "below 10e9 (any number of parameters)")
            raise InputError(f"unknown models {SHORT.repr(models)}", value=models, choices=choices)
        return models

    @model_validator(mode="after")
    def _complete(self) -> "Claim":
        pair, sized = ("precision", "against"), ("size", "tolerance")
        if self.peaks_within is None:
            self._need(pair, "it compares by precision and against, or by peaks_within")
        elif other := [key for key in pair if getattr(self, key) is not None]:
            problem = f"claim {self.id!r} in {{place}} has both peaks_within and {other[0]}"
            raise InputError(problem, remedy="it compares by one")
        if self.direction is None or any(getattr(self, key) is not None for key in sized):
            self._need(sized, "it claims a direction, or a size and its tolerance")
        low, high = self.region
        if low > high:
            problem = f"claim {self.id!r} in {{place}} allows no value: its direction and its size exclude each other"
            raise InputError(problem)
        return self

    def _need(self, keys: tuple[str, ...], remedy: str) -> None:
        if missing := [key for key in keys if getattr(self, key) is None]:
            raise InputError(f"claim {self.id!r} in {{place}} names no {missing[0]}", remedy=remedy)

    @property
    def least(self) -> float:
        """Return the number of parameters that a model of this claim has at least."""
        return self._parameters("at least", 0)

    @property
    def below(self) -> float:
        """Return the number of parameters that a model of this claim has less than."""
        return self._parameters("below", math.inf)

    def _parameters(self, bound: str, otherwise: float) -> float:
        match = MODELS.fullmatch(self.models)
        return float(match[2]) if match and match[1] == bound else otherwise

    @property
    def region(self) -> tuple[float, float]:
        """Return (low, high), both within it, of the values that the claim allows; low is above high where there is none."""
        neutral, low, high = STATISTICS[self.statistic].neutral, -math.inf, math.inf
        if self.direction == "higher":
            low = math.nextafter(neutral, math.inf)  # no difference is no direction
        elif self.direction == "lower":
            high = math.nextafter(neutral, -math.inf)
        if self.size is not None and self.tolerance is not None:
            # In binary 0.8 less 0.1 is a little more than 0.7: an interval at the edge shall be within.
            low, high = max(low, round(self.size - self.tolerance, 12)), min(high, round(self.size + self.tolerance, 12))
        return low, high


KEYS = [key for key in Claim.model_fields if key != "id"]


def read_claims(path: Path) -> list[Claim]:
    """Return the claims of a YAML file, a mapping of each claim's id to its keys, in the file's order.

    Raises InputError with the value, the place (file and line) and the choices.
    """
    document = read_yaml(path, "claims", "their ids")
    claims = []
    for name, stated in document.values.items():
        if not isinstance(name, str):
            problem = f"the claim {name!r} in {{place}} must have a name that is text"
            raise InputError(problem, value=name, place=path, remedy="put it in quotes")
        part = document.part(name, "claim")
        if not isinstance(stated, dict):
            problem = f"{part.name} must be a mapping with keys of: {', '.join(KEYS)}"
            raise InputError(problem, value=stated, place=part.where())
        if "id" in stated:
            raise InputError("unknown key 'id'", value="id", place=part.where("id"), choices=KEYS)
        claims.append(part.read_as(Claim, id=name))
    return claims
