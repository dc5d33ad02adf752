"""A study: what is compared, and its runs, in order and with ids."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from affq.errors import InputError
from affq.files import ascii_name
from affq.inference import Request, Sampling
from affq.models import ENGINES, PRECISIONS, AskedEngine, Source, held_bits, why_not
from affq.scoring import Judge
from affq.study.prompts import cross, read_prompts
from affq.study.study_file import Budget, Generation, Limits, Load, Measurement

LONG = 256  # tokens, from which on a text is asked where it begins to repeat itself


def run_label(model: str, precision: str, engine: str) -> str:
    """Return what a run is called in a sentence: its engine is named where it is not the first of ENGINES."""
    return f"{model} {precision}" + ("" if engine == ENGINES[0] else f" {engine}")


def on_engine(engine: object) -> str:
    """Return ` on <engine>`, which goes behind a model at a precision; "" for the first of ENGINES, and for none."""
    return f" on {engine}" if isinstance(engine, str) and engine != ENGINES[0] else ""


@dataclass(frozen=True)
class Run:
    """One (model, precision, engine) of a study."""

    study: "Study"
    model: Source
    precision: str
    engine: AskedEngine

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Return whatever changes a text or a reading; the device is not in it, it is recorded."""
        study = self.study
        return {
            "model": self.model.name,
            "revision": self.model.revision,
            "weights": study.weights,
            "precision": {"name": self.precision, **asdict(PRECISIONS[self.precision])},
            "engine": self.engine.settings,
            "offload": study.offload,
            "prompts_sha256": study.prompts_sha256,
            "emotions": list(study.emotions),
            "samples": study.samples,
            "batch": study.batch,
            "seed": study.seed,
            "generation": study.generation.model_dump(exclude_none=True),
            "measurement": study.measurement.model_dump(),
        }

    @property
    def label(self) -> str:
        """Return what the run is called in a sentence."""
        return run_label(self.model.name, self.precision, self.engine.label)

    @property
    def random_seed(self) -> int | None:
        """Return the seed of random weights; None for trained ones."""
        return None if self.study.judged else self.study.seed

    @cached_property
    def id(self) -> str:
        """Return `<model>--<precision>--<digest>`, the digest being that of the settings; without it for weights not known.

        The engine stands before the digest where it is not the first of ENGINES.
        """
        name = f"{ascii_name(self.model.name)}--{self.precision}"
        name += f"--{ascii_name(self.engine.label)}" if self.engine.name != ENGINES[0] else ""
        return name if self.settings["revision"] is None else f"{name}--{_sha256(self.settings)[:10]}"


@dataclass(frozen=True)
class Study:
    """What is compared. Paths are resolved; `source` is what `load_study` was given: notebooks run in the same folder.

    engines: each with its precisions. perplexity: the model that says how likely texts are; None for none. notes: what to know of
    models that are not here.
    """

    name: str
    source: str
    models: tuple[Source, ...]
    engines: tuple[tuple[AskedEngine, tuple[str, ...]], ...]
    weights: str
    device: str
    offload: bool
    prompts: Path
    emotions: tuple[str, ...]
    samples: int
    batch: int
    seed: int
    generation: Generation
    measurement: Measurement
    load: Load | None
    limits: Limits
    judges: tuple[Judge, ...]
    references: Path
    perplexity: Source | None
    claims: Path
    budget: Budget
    notes: tuple[str, ...] = ()

    def runs(self) -> list[Run]:
        """Return the runs: model by model, engine by engine, each from its highest precision down."""
        return [run for run, why in self._combinations() if why is None]

    def left_out(self) -> list[tuple[Run, str]]:
        """Return the combinations of model, precision and engine that cannot be had, each with the reason."""
        return [(run, why) for run, why in self._combinations() if why is not None]

    def _combinations(self) -> list[tuple[Run, str | None]]:
        # Made anew each time: a model that was fetched since has a revision now, and its runs other ids.
        return [one for model in self.models for engine, _ in self.engines for one in self._on(engine, model)]

    def _on(self, engine: AskedEngine, model: Source) -> list[tuple[Run, str | None]]:
        """Return the runs of a model on an engine from the highest precision down, each with why it cannot be had, or None."""
        precisions = sorted(dict(self.engines)[engine], key=lambda precision: _from_highest(model, precision))
        return [(Run(self, model, name, engine), why_not(model, name, engine, self.device)) for name in precisions]

    @property
    def precisions(self) -> tuple[str, ...]:
        """Return the precisions that the study names for any engine, from the highest down."""
        named = {precision for _, precisions in self.engines for precision in precisions}
        return tuple(precision for precision in PRECISIONS if precision in named)

    @cached_property
    def prompts_sha256(self) -> str:
        """Return the hash of what the prompts say: an empty line more in their file is the same prompts."""
        return _sha256(read_prompts(self.prompts))

    @cached_property
    def requests(self) -> list[Request]:
        """Return what each run is asked for, the control's requests last, as `prompts.cross` orders them."""
        return cross(read_prompts(self.prompts), self.emotions, self.samples)

    @property
    def texts_wanted(self) -> int:
        """Return the number of texts of each run, the control's among them."""
        return len(self.requests)

    @cached_property
    def texts_asked(self) -> int:
        """Return the number of texts of each run that are asked for an emotion."""
        return sum(request["emotion"] is not None for request in self.requests)

    @property
    def sampling(self) -> Sampling | None:
        """Return what tokens are drawn with; None where decoding is greedy, which has no temperature."""
        temperature = self.generation.temperature
        return None if temperature is None else {"temperature": temperature, "seed": self.seed}

    @property
    def writes_long(self) -> bool:
        """Return whether texts may be as long as LONG."""
        return self.generation.max_new_tokens >= LONG

    @property
    def judged(self) -> bool:
        """Return whether the texts have a quality to judge; those of random weights mean nothing."""
        return self.weights != "random"

    @property
    def scorers(self) -> tuple[str, ...]:
        """Return the ids of what scores the texts: the judges and metrics."""
        also = ("perplexity",) if self.perplexity else ()
        return (*(judge.name for judge in self.judges), "rouge-references", "rouge-baseline", "text-quality", *also)

    def run(self, model: str, precision: str, engine: str = ENGINES[0]) -> Run:
        """Return one run by its model's name, its precision and its engine's label. Raises InputError if there is none."""
        runs = {(run.model.name, run.precision, run.engine.label): run for run in self.runs()}
        if (model, precision, engine) not in runs:
            known = ", ".join(run.label for run in runs.values())
            on = "" if engine == ENGINES[0] else f" on {engine!r}"
            problem = f"study {self.name} has no run of {model!r} at {precision!r}{on}"
            raise InputError(problem, remedy=f"it has: {known}")
        return runs[model, precision, engine]

    def baseline(self, run: Run) -> Run:
        """Return the run that a run's paired figures are taken against: its model's highest precision on the same engine."""
        return next(other for other, why in self._on(run.engine, run.model) if why is None)


def _from_highest(model: Source, precision: str) -> tuple[float, int]:
    """Return what sorts precisions of a model from the highest down: what holds most bits first, then by the table."""
    return -held_bits(model, precision), list(PRECISIONS).index(precision)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
