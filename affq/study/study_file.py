"""What a study file may say: its settings with their types, ranges, choices and defaults; its JSON schema."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, Field, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator, field_validator
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ValidationError

from affq.emotions import EMOTIONS, REFERENCES
from affq.errors import InputError
from affq.models import ENGINES, OPENAI, weights
from affq.scoring import packaged as packaged_judges
from affq.study.settings import SHORT, OneOf, Precision, Settings

HERE = Path(__file__).parent
PROMPT_SETS = {path.stem: path for path in sorted((HERE / "prompt_sets").glob("*.csv"))}
REFERENCE_SETS = {"synthetic": REFERENCES}
CLAIM_SETS = {"paper": HERE / "claims.yaml", "engines": HERE / "claims-engines.yaml"}
HOTTEST = 100  # of temperatures: every token is about as likely there
YEAR_S = 31_536_000
MOST = 1_000_000_000  # of what anybody can spend
MOST_COUNTED = 1_000_000  # texts, tokens, rounds: more would never end


def _suggest(names: Callable[[], Iterable[str]]) -> Any:
    """Return the field of a name that may be another one: editors suggest those that affq knows."""
    return Field(json_schema_extra=lambda schema: schema.update(examples=list(names())))


Count = Annotated[int, Field(ge=1, le=MOST_COUNTED)]
CountFromZero = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # as numpy and torch both take it
Seconds = Annotated[int, Field(ge=1, le=YEAR_S)]
Amount = Annotated[float, Field(gt=0, lt=MOST)]
Emotion = Annotated[str, OneOf(EMOTIONS), Field(title="emotion")]
Model = Annotated[str, _suggest(weights.generating)]
EngineName = Annotated[str, OneOf([name for name in ENGINES if name != OPENAI]), Field(title="engine")]
JudgeName = Annotated[str, _suggest(packaged_judges)]
Name = Annotated[str, Field(pattern=r"^[\w][\w.@ -]{0,59}$")]


class Generation(Settings):
    """How tokens are chosen. Greedy decoding has no temperature."""

    decoding: Literal["greedy", "sampled"] = "greedy"
    max_new_tokens: Count = 64
    temperature: Annotated[float, Field(gt=0, lt=HOTTEST)] | None = Field(default=None, validate_default=True)
    thinking: bool = Field(default=False, exclude_if=lambda thinking: not thinking)  # so that ids stay what they were

    @field_validator("temperature")
    @classmethod
    def _of_sampled_decoding(cls, temperature: float | None, info: ValidationInfo) -> float | None:
        decoding = info.data.get("decoding")
        if decoding == "greedy" and temperature is not None:
            raise InputError("temperature in {place} goes with decoding: sampled, not greedy", value=temperature)
        if decoding == "sampled" and temperature is None:
            raise InputError(f"temperature in {{place}} must be between 0 and {HOTTEST}; found None")
        return temperature


class Measurement(Settings):
    """The resource pass: what is timed, and how often. Several rounds have an aim that ends them."""

    texts: Count = 10
    new_tokens: Annotated[int, Field(ge=2, le=MOST_COUNTED)] = 64  # one, and one further
    warmup_tokens: Count = 8
    rounds: Count = 1
    token_texts: CountFromZero = 2
    processes: Count = 1
    throughput: CountFromZero = 0
    aim: Annotated[float, Field(gt=0, lt=1)] | None = 0.05
    profile: bool = False

    @field_validator("aim")
    @classmethod
    def _of_several_rounds(cls, aim: float | None, info: ValidationInfo) -> float | None:
        rounds = info.data.get("rounds")
        if rounds is not None and rounds > 1 and aim is None:
            remedy = "aim: 0.03 ends them when the median's interval is 3 % wide"
            raise InputError(f"measurement in {{place}} has {rounds} rounds and no aim", remedy=remedy)
        return aim


class Load(Settings):
    """Texts that are asked for at the same time, level by level, of engines that serve.

    streams: closed loop, so many texts under way. rates: open loop, texts a second, drawn as a Poisson process. texts: of each
    level and repetition. ttft_s, token_s: a text counts as good that keeps both.
    """

    streams: list[Count] = [1, 2, 4, 8, 16]
    rates: list[Amount] = []
    texts: Count = 80
    repetitions: Count = 3
    ttft_s: Amount | None = None
    token_s: Amount | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """Return what decides how texts are asked for: the limits do not."""
        return self.model_dump(exclude={"ttft_s", "token_s"})

    @field_validator("rates")
    @classmethod
    def _something_to_do(cls, rates: list[float], info: ValidationInfo) -> list[float]:
        if not rates and not info.data.get("streams", True):
            raise InputError("load in {place} has neither streams nor rates", remedy="streams: [1, 2, 4, 8] for instance")
        return rates


class Limits(Settings):
    """What takes longer, in seconds, is ended."""

    cell_s: Seconds = 21_600
    run_s: Seconds = 86_400


class Budget(Settings):
    """What the user can spend; None is no limit."""

    memory_gb: Amount | None = None
    seconds_a_text: Amount | None = None
    price_per_hour: Amount | None = None
    price_per_kwh: Amount | None = None


class NamedModel(Settings):
    """A model by what it is found by, and the name that tables give it."""

    model: Model
    name: Name | None = None


class NamedJudge(Settings):
    """A judge by its name, and the emotions that its labels stand for."""

    judge: JudgeName
    labels: dict[str, str] = {}


class NamedEngine(Settings):
    """An engine by its name, or a server by its address and the name of a model there.

    precisions: its own, where they are not the study's. of: the study's model that a server serves, where there are several.
    name: what tables call a server.
    """

    engine: EngineName | None = None
    openai: str | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    of: str | None = None
    name: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,29}$", examples=["my-server"])] | None = None
    precisions: list[Precision] | None = Field(default=None, min_length=1)


def _named_engine(value: Any) -> Any:
    """Return the settings of an engine that is given by its name alone."""
    return {"engine": value} if isinstance(value, str) else value


def _or_its_name(kind: type[Settings], form: str) -> WrapValidator:
    """Return the validator of what may be given by its name alone, the first of its fields; form: all of them, for messages."""
    first = next(iter(kind.model_fields))

    def read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, dict) and (unknown := [key for key in value if key not in kind.model_fields]):
            raise InputError(f"unknown key {SHORT.repr(unknown[0])}", value=unknown[0], choices=kind.model_fields)
        try:
            return handler({first: value} if isinstance(value, str) else value)
        except ValidationError:
            problem = f"a {first} in {{place}} must be a name, or {form}; found {SHORT.repr(value)}"
            raise InputError(problem, value=value) from None

    return WrapValidator(read, json_schema_input_type=get_type_hints(kind, include_extras=True)[first] | kind)


class StudyFile(Settings):
    """A study file: names, not yet what they stand for. Study `default` explains each key."""

    models: list[Annotated[NamedModel, _or_its_name(NamedModel, "{model: its name, name: another}")]] = Field(min_length=1)
    precisions: list[Precision] = Field(min_length=1)
    engines: list[Annotated[NamedEngine, BeforeValidator(_named_engine, json_schema_input_type=EngineName | NamedEngine)]] = (
        Field(default=[NamedEngine(engine=ENGINES[0])], min_length=1)
    )
    weights: Literal["trained", "random"] = Field(default="trained", title="kind of weights")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    offload: bool = False
    prompts: Annotated[str, _suggest(lambda: PROMPT_SETS)] = "default"
    emotions: list[Emotion] = Field(default=list(EMOTIONS), min_length=1)
    samples: Count = 1
    batch: Count = 80
    seed: Seed = 0
    generation: Generation = Generation()
    measurement: Measurement = Measurement()
    load: Load | None = None
    limits: Limits = Limits()
    judges: list[Annotated[NamedJudge, _or_its_name(NamedJudge, "{judge: its name, labels: {its label: emotion}}")]] = Field(
        default=[NamedJudge(judge="minilm-lora"), NamedJudge(judge="minilm-goemotions")], min_length=1
    )
    references: Annotated[str, _suggest(lambda: REFERENCE_SETS)] = "synthetic"
    perplexity: Model | None = "smollm2-135m"
    claims: Annotated[str, _suggest(lambda: CLAIM_SETS)] = "paper"
    budget: Budget = Budget()


def schema() -> dict[str, Any]:
    """Return the JSON schema of a study file, for editors: the comment of a key in study `default` is its description."""
    whole = section = StudyFile.model_json_schema()
    default = (HERE / "studies" / "default.yaml").read_text(encoding="utf-8")
    for indent, key, comment in re.findall(r"^( *)(\w+):[^#]*# (.*)$", default, re.M):
        described = (section if indent else whole)["properties"][key]
        described["description"] = comment
        if "$ref" in described:
            section = whole["$defs"][described["$ref"].rpartition("/")[2]]
    return {"$schema": GenerateJsonSchema.schema_dialect, **whole}
