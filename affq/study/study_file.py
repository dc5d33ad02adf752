"""What a study file may say, as types: its settings, their ranges and choices."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

HOTTEST = 100  # of temperatures: every token is about as likely there
YEAR_S = 31_536_000
MOST = 1_000_000_000  # of what anybody can spend

Seconds = Annotated[int, Field(ge=1, le=YEAR_S)]
Amount = Annotated[float, Field(gt=0, lt=MOST)]


class Settings(BaseModel):
    """Settings that do not change, and of which none is unknown."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Generation(Settings):
    """How tokens are chosen. Greedy decoding has no temperature."""

    decoding: Literal["greedy", "sampled"]
    max_new_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(gt=0, lt=HOTTEST)] | None = None


class Measurement(Settings):
    """The resource pass: what is timed, and how often."""

    texts: Annotated[int, Field(ge=1)]
    new_tokens: Annotated[int, Field(ge=2)]  # one, and one further
    warmup_tokens: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=1)]
    token_texts: Annotated[int, Field(ge=0)]
    processes: Annotated[int, Field(ge=1)]
    throughput: Annotated[int, Field(ge=0)]
    aim: Annotated[float, Field(gt=0, lt=1)]
    profile: bool


class Limits(Settings):
    """What takes longer, in seconds, is ended."""

    cell_s: Seconds
    run_s: Seconds


class Budget(Settings):
    """What the user can spend; None is no limit."""

    memory_gb: Amount | None = None
    seconds_a_text: Amount | None = None
    price_per_hour: Amount | None = None
