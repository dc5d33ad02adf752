"""What is read of each record, as types with their ranges: a record is held against them before anything reckons with it.

A seal shows that a file is as somebody wrote it, not that it makes sense. What no reader looks at may be there unseen.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
MOST = 2**62  # of a whole number: more does not fit a frame

Count = Annotated[int, Field(ge=0, le=MOST)]
Number = Annotated[int, Field(ge=1, le=MOST)]
Unknown = Literal["unknown"]  # inference.UNKNOWN
Bytes = Annotated[int, Field(ge=-MOST, le=MOST)] | Unknown  # above a base: what was freed since makes it negative
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Took = Annotated[float, Field(gt=0, le=1e12)]  # seconds that ratios are made of
Joules = Annotated[float, Field(gt=0, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A record, or a part of one."""

    model_config = STRICT


class Row(BaseModel):
    """A part of which each field becomes a column: it has no others."""

    model_config = ConfigDict(**STRICT, extra="forbid")


class TextKey(Part):
    """inference.Key"""

    prompt_id: str
    emotion: str | None
    sample: Count


class Scoring(Part):
    """provenance.ScoringSoftware"""

    versions: dict[str, str]
    code_digest: str


class Software(Scoring):
    """provenance.Software"""

    affq: str
    python: str
    commit: str | None


class Hardware(BaseModel):
    """probes.hardware: words and numbers."""

    model_config = ConfigDict(**STRICT, extra="allow")
    __pydantic_extra__: dict[str, str | int | float | None]

    device: str


class Predicted(Row):
    """memory.Predicted"""

    weights_bytes: Count
    kv_bytes: Count
    activation_bytes: Count
    peak_bytes: Count


class Series(Part):
    """about.json of a series: what is run, on what, by what."""

    run_id: str
    began: str
    settings: dict[str, Any]
    stored_dtype: str | None
    software: Software
    hardware: Hardware
    weights_sha256: str
    engine: dict[str, str] = {}


class Run(Series):
    """run.json. Its settings are held against the run's own, value by value."""

    predicted: Predicted | None = None
    texts_kept: Count
    process: Number


class Failed(Part):
    """failed.json"""

    kind: str
    words: str
    remedy: str | None
    again: bool
    software: Software | None


class Text(TextKey):
    """A line of generations.jsonl: inference.Generation"""

    kind: str
    prompt: str
    text: str
    new_tokens: Count
    thought_tokens: Count
    ended: bool
    opens_turn: bool


class PromptIds(Part):
    """How many prompts have the same token ids by an engine's own template and tokenizer as by ours; first: one that has not."""

    compared: Count
    equal: Count
    first: str | None = None


class Model(Part):
    """What Engine.described says of a model."""

    compute_dtype: str
    chat_template: str
    ends: dict[str, Count]
    placed: str = ""
    prompt_ids: PromptIds | None = None


class Stored(Row):
    """A line of loading.by_role."""

    role: str
    dtype: str
    method: str | None = None
    bits: float | None = None
    parameters: Count
    elements: Count
    bytes: Count


class Phase(BaseModel):
    """What a probe reads in a phase."""

    model_config = ConfigDict(**STRICT, extra="allow")
    __pydantic_extra__: dict[str, Bytes]

    peak_bytes: Bytes
    held_bytes: Bytes


class Phases(BaseModel):
    """The phases that generate, and others."""

    model_config = ConfigDict(**STRICT, extra="allow")
    __pydantic_extra__: dict[str, Phase]

    prefill: Phase
    decode: Phase
    resource: Phase


class Memory(Row):
    """Readings of memory by phase."""

    kind: str
    cache_bytes: Count | Unknown
    phases: Phases
    base_bytes: Bytes = 0
    base_device_used_bytes: Bytes = 0


class Gpu(Row):
    """A GPU's load, as interference.LoadProbe reads it."""

    gpu: Count
    busy_percent: int | Unknown
    reasons: int | Unknown
    processes: Count


class Load(Row):
    """interference.between"""

    seconds: Seconds
    other_processors: float | Unknown
    stolen_processors: float
    throttled_s: float | Unknown
    hot: int | Unknown
    swapped_bytes: int
    gpus: list[Gpu] | Unknown


class Loads(Row):
    """interference.watched"""

    before: Load
    during: Load


class TimedText(Row):
    """measure.TextReading"""

    prompt_id: str
    emotion: str | None
    sample: Count
    round: Count
    ttft_s: Took
    latency_s: Took
    new_tokens: Annotated[int, Field(ge=2, le=MOST)]  # one, and one further
    token_ids: list[int] = []


class TimedTokens(TextKey):
    """measure.TokenReading"""

    ttft_s: Seconds
    token_s: list[Seconds]


class Window(Part):
    """energy.Window"""

    seconds: Took
    joules: dict[str, Joules]


class Energy(Part):
    """energy.Energy"""

    why: str | None
    detail: str = ""
    rest: Window | None
    used: Window | None
    texts: Count
    new_tokens: Count


class Pass(Part):
    """A resource pass: measure.Latency, and the machine's load. energy: None in records of before it was read."""

    process: Number
    steady: bool
    rounds: Number
    stopped: str
    texts: list[TimedText] = Field(min_length=1)
    too_short: Count = 0
    tokens: list[TimedTokens]
    load: Loads
    energy: Energy | None = None


class Alone(TextKey):
    """A timed text, as the model wrote it in a batch of one; None for one without a counterpart."""

    text: str | None


class Point(Part):
    """A batch size whose throughput was measured."""

    batch: Number
    seconds: list[Took] = Field(min_length=1)
    new_tokens: Number
    peak_bytes: Bytes


class Throughput(Part):
    """measure.Throughput"""

    stopped: str
    points: list[Point]


class Kernel(Row):
    """kernels.KernelTime"""

    phase: str
    group: str
    kernel: str
    calls: Count
    seconds: Seconds


class Measurements(Part):
    """measurements.json"""

    model: Model
    census_loaded: list[Stored] = []
    census: list[Stored]
    memory: Memory
    passes: list[Pass] = Field(min_length=1)
    alone: list[Alone]
    throughput: Throughput
    kernels: list[Kernel]
    seconds: dict[Annotated[str, Field(pattern=r"^\w+_s$")], Seconds]


class KeptPass(Part):
    """passes/<n>.json"""

    conditions: dict[str, Any]
    readings: Pass


class Manifest(Part):
    """scores/<id>.manifest.json"""

    of: str
    by: dict[str, Any]
    software: Scoring
    seconds: Seconds
    sha256: str


class Judged(TextKey):
    """A text under a judge."""

    judged_emotion: str
    probabilities: dict[str, Share] = {}


class Rouge(TextKey):
    """A text against others."""

    rouge1: Share | None = None
    rouge2: Share | None = None
    rougeL: Share | None = None  # noqa: N815 - as its column is called


class Quality(TextKey):
    """A text by itself: scores.text_statistics"""

    words: Count
    distinct_1: Share | None
    distinct_2: Share | None
    seq_rep_4: Share | None
    self_bleu: Share | None
    refusal: bool
    degenerate: bool
    collapsed: bool
    repeats_from: Count | None


class Likelihood(TextKey):
    """perplexity.Likelihood"""

    nll_nats: Annotated[float, Field(ge=0, le=1e12)] | None
    tokens: Count


class LoadRow(TextKey):
    """A text that was asked for under load. All seconds are since its level began.

    number: of the request, within its level and repetition. due_s: when it should have been sent; as sent_s, in a closed loop.
    moments_s: of each piece of the text that came.
    """

    level: Count
    repetition: Count
    number: Count
    loop: Literal["closed", "open"]
    streams: Number | None
    rate: Took | None
    due_s: Seconds
    sent_s: Seconds
    first_s: Seconds | None
    end_s: Seconds
    moments_s: list[Seconds]
    new_tokens: Count
    text: str
    ended: bool
    error: str | None


class LoadReading(Part):
    """What a level of load took in one repetition.

    client_busy: processors that the client's process took on average. lag_s: how late its event loop woke, 99 times in 100 at
    most.
    """

    texts: Count
    level: Count
    repetition: Count
    loop: Literal["closed", "open"]
    streams: Number | None
    rate: Took | None
    seconds: Took
    client_busy: Annotated[float, Field(ge=0, le=1e6)]
    lag_s: Seconds
    load: Loads | None = None
    energy: Energy | None = None


class SoakRow(TextKey):
    """A text of a soak. start_s: since the soak began, without the time between its processes.

    number: of the text within its round. text: None where it is that of the first round, or failed. differs_at: the first
    character, from 0, that is not the first round's.
    """

    round: Count
    number: Count
    process: Number
    start_s: Seconds
    seconds: Seconds
    ttft_s: Seconds | None
    new_tokens: Count
    text: str | None
    differs_at: Count | None
    error: str | None


class SoakReading(Part):
    """A round of a soak: what memory held after it."""

    texts: Count
    round: Count
    process: Number
    start_s: Seconds
    seconds: Seconds
    rss_bytes: Count
    server_rss_bytes: Count | None
    allocated_bytes: Count | None
    cache_bytes: Count | None


class Note(Part):
    """A line of notes.jsonl: people.Note"""

    time: str
    id: str
    run_id: str
    prompt_id: str
    emotion: str
    sample: Count
    note: str


METRICS: dict[str, type[TextKey]] = {
    "rouge-references": Rouge,
    "rouge-baseline": Rouge,
    "text-quality": Quality,
    "perplexity": Likelihood,
}


def of_scores(scorer: str) -> type[TextKey]:
    """Return what a line of a scorer's scores holds: a metric's, or else a judge's."""
    return METRICS.get(scorer, Judged)
