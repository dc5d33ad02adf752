"""Read a study, refuse what it does not know, and expand it to ordered runs with ids."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from affq.emotions import EMOTIONS
from affq.errors import InputError, command
from affq.files import ascii_name, slug
from affq.inference import Request, Sampling
from affq.models import (
    ENGINES,
    OPENAI,
    PRECISIONS,
    STORED,
    AskedEngine,
    Source,
    check_address,
    held_bits,
    quantized,
    sources,
    weights,
    why_not,
)
from affq.results import METRICS, OF_OTHER_TEXTS, kept_runs
from affq.scoring import Judge, classifiers
from affq.scoring import packaged as packaged_judges
from affq.study.claims import read_claims
from affq.study.prompts import cross, read_prompts, read_references
from affq.study.settings import SHORT, Document, read_yaml
from affq.study.study_file import (
    CLAIM_SETS,
    HERE,
    PROMPT_SETS,
    REFERENCE_SETS,
    Budget,
    Generation,
    Limits,
    Load,
    Measurement,
    NamedEngine,
    NamedJudge,
    NamedModel,
    StudyFile,
)

MOST_TEXTS = 1_000_000  # of a run


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


def packaged() -> dict[str, Path]:
    """Return the packaged studies: {name: path}."""
    return {path.stem: path for path in sorted((HERE / "studies").glob("*.yaml"), key=lambda path: path.stem)}


def load_study(source: str | Path, results: Path | str | None = None) -> Study:
    """Read the packaged study or the YAML file that `source` names.

    What a study leaves out is as in study `default`; `models` and `precisions` must be there. results: the folder of all studies'
    results, for whoever reads what is done: where there are runs of the study, models and judges need not be here, and a
    model's runs are those that recorded the study's settings. Raises InputError with the value, the place (file and line) and
    the choices.
    """
    source, known = str(source), packaged()
    if source in known:
        path = known[source]
    elif Path(source).suffix.lower() in {".yaml", ".yml"}:
        path = Path(source).resolve()
        need_name(path, source)
    else:
        also = f"; or did you mean {command('run', source)}?" if names_a_model(source) else ""
        remedy = f"or give the path of a .yaml file{also}"
        raise InputError(f"unknown study {source!r}", value=source, choices=known, remedy=remedy)
    return resolve(read_yaml(path, "study", "models and precisions"), path, source, results)


def names_a_model(source: str) -> bool:
    """Return whether a word that names no study looks like a model: a folder, a GGUF file, a name of the hub or the catalog."""
    path = Path(source)
    if source in packaged() or path.suffix.lower() in {".yaml", ".yml"}:
        return False
    return path.is_dir() or path.suffix.lower() == ".gguf" or "/" in source or source in weights.generating()


def need_name(path: Path, source: str) -> None:
    """Raise InputError unless a study file has a name that its folder of results can have, and no packaged study has."""
    if path.stem.casefold().startswith("index.html") or path.stem.casefold() == "index":
        problem = f"{source!r} would have the name of the page that lists all studies"
        raise InputError(problem, value=source, remedy="rename it")
    if path.stem != slug(path.stem):
        name = slug(path.stem) if slug(path.stem) not in packaged() else f"my-{slug(path.stem)}"
        remedy = f"rename it, to {name}{path.suffix} for instance"
        raise InputError(f"{source!r} would name a folder of results", value=source, remedy=remedy)
    if path != packaged().get(path.stem, path):
        problem = f"{source} has the name of a packaged study, whose results it would replace"
        raise InputError(problem, value=source, remedy="rename the file")


def resolve(document: Document, path: Path, source: str, results: Path | str | None = None) -> Study:
    """Return the study that a document describes, with what its names stand for. Raises InputError.

    path: of the study's file, whether or not it is written yet. source: what it is called by. results: as load_study takes it.
    """
    kept = kept_runs(results, path.stem) if results is not None else []
    names = _Names(document, document.read_as(StudyFile), path.parent, bool(kept))
    return _recorded(names.study(path.stem, source), kept)


def _recorded(study: Study, kept: list[dict]) -> Study:
    """Return a study with the revisions that its runs recorded, where the weights are not here, and a note on each such model.

    kept: results.kept_runs. Of several revisions of one model the one that was begun last counts.
    """
    models, notes = list(study.models), []
    for place, model in enumerate(study.models):
        if not kept or model.revision is not None:
            continue
        wanted = [Run(study, model, precision, engine).settings for engine, own in study.engines for precision in own]
        # A folder models/mine that is gone looks like a repository of the hub; its runs are called mine.
        for name in dict.fromkeys((model.name, model.name.rpartition("/")[2])):
            revisions = _revisions(kept, [settings | {"model": name} for settings in wanted])
            if revisions:
                models[place] = sources.Called(model, name, revisions[-1])
                several = len(set(revisions))
                which = f"; of {several} revisions that were run, the one that was begun last counts" if several > 1 else ""
                notes.append(f"{name}: its weights are not here, its runs are read as they were recorded{which}")
                break
    return replace(study, models=tuple(models), notes=tuple(notes))


def _revisions(kept: list[dict], wanted: list[dict]) -> list[str]:
    """Return the revisions of the kept runs that have one of the settings but for that, in the order in which they began."""
    but_for_revision = [json.loads(json.dumps(settings)) | {"revision": None} for settings in wanted]
    like = [about["settings"] for about in kept if about["settings"] | {"revision": None} in but_for_revision]
    return [settings["revision"] for settings in like if isinstance(settings.get("revision"), str)]


@dataclass(frozen=True)
class _Names:
    """Finds what the names in a study file stand for; folder: where the file is. kept: whether what is not here may be absent."""

    document: Document
    file: StudyFile
    folder: Path
    kept: bool

    def study(self, name: str, source: str) -> Study:
        file = self.file
        if file.generation.decoding == "greedy" and file.samples != 1:
            raise InputError(
                "samples in {place} must be 1: greedy decoding gives the same text each time; "
                "generation: {decoding: sampled, temperature: 0.7} gives others",
                value=file.samples,
                place=self.document.where("samples"),
            )
        named = [model.model for model in file.models]
        self.need_once(("models",), "model", named)
        self.need_once(("precisions",), "precision", file.precisions)
        self.need_once(("emotions",), "emotion", file.emotions)
        for index, engine in enumerate(file.engines):
            self.need_once(("engines", index, "precisions"), "precision", engine.precisions or [])
        by_themselves = [None if model.name else model.model for model in file.models]
        models = sources.told_apart(by_themselves, [self.model(*entry) for entry in enumerate(file.models)], self.folder)
        if len({model.name for model in models}) < len(models):
            problem, place = "two models in {place} have the same name", self.document.where("models")
            raise InputError(problem, place=place, remedy="call one of them otherwise: {model: ./its-folder, name: another}")
        study = Study(
            name=name,
            source=source,
            models=tuple(models),
            engines=self.engines([model.name for model in models]),
            weights=file.weights,
            device=file.device,
            offload=file.offload,
            prompts=self.path("prompts", ".csv", PROMPT_SETS),
            emotions=tuple(file.emotions),
            samples=file.samples,
            batch=file.batch,
            seed=file.seed,
            generation=file.generation,
            measurement=file.measurement,
            load=file.load,
            limits=file.limits,
            judges=self.judges(),
            references=self.path("references", ".jsonl", REFERENCE_SETS),
            perplexity=self.scoring_model(),
            claims=self.path("claims", ".yaml", CLAIM_SETS),
            budget=file.budget,
        )
        # Bad lines are said now, not after a night of generating.
        self.need_few_texts(len(read_prompts(study.prompts)))
        self.need_runs(study)
        read_references(study.references, study.emotions)
        read_claims(study.claims)
        return study

    def need_few_texts(self, prompts: int) -> None:
        """Raise InputError for a run of more texts than anybody could wait for."""
        texts = prompts * (len(self.file.emotions) * self.file.samples + 1)
        if texts > MOST_TEXTS:
            problem = f"samples in {{place}} makes {texts:,} texts a run"
            place, remedy = self.document.where("samples"), f"ask for {MOST_TEXTS:,} at most"
            raise InputError(problem, value=self.file.samples, place=place, remedy=remedy)

    def need_runs(self, study: Study) -> None:
        """Raise InputError for a study none of whose combinations can be had."""
        if not study.runs():
            run, why = study.left_out()[0]
            problem = (
                f"no run is left of study {study.name} ({{place}}): {run.model.name} at {run.precision} on {run.engine.label}"
            )
            raise InputError(f"{problem}: {why}", place=self.document.where("precisions"))

    def need_once(self, keys: tuple[str | int, ...], noun: str, values: list[str]) -> None:
        for index, value in enumerate(values):
            if value in values[:index]:
                place = self.document.where(*keys, index)
                raise InputError(f"{noun} {SHORT.repr(value)} in {{place}} is named twice", value=value, place=place)

    def model(self, index: int, named: NamedModel) -> Source:
        random = self.file.weights == "random"
        value, find = named.model, sources.find_architecture if random else sources.find
        known = weights.generating()
        near = get_close_matches(value.lower(), known, n=4, cutoff=0.3) or known[:1]
        also = ["or a folder or .gguf file (beside the study)", "or owner/name of the hub (with @revision)"]
        also = ["or a folder with its config.json (beside the study)"] if random else also
        others = f"and {len(known) - len(near)} more in affq's catalog.yaml"
        model = self.here("model", value, find, ("models", index), [*near, others, *also])
        return sources.Called(model, named.name) if named.name else model

    def here(
        self,
        noun: str,
        value: str,
        find: Callable[[str, Path], Source | None],
        keys: tuple[str | int, ...],
        choices: Iterable[str],
    ) -> Source:
        """Return the source that a name stands for; where runs are kept, what stands for one that is not here."""
        try:
            if source := find(value, self.folder):
                return source
            error = self.unknown(noun, value, keys, choices)
        except InputError as refused:
            error = refused
        if not self.kept:
            raise error
        return sources.absent(value, error)

    def engines(self, models: list[str]) -> tuple[tuple[AskedEngine, tuple[str, ...]], ...]:
        """Return the engines, each with its precisions. models: their names. Raises InputError for entries that contradict."""
        engines: list[tuple[AskedEngine, tuple[str, ...]]] = []
        for index, entry in enumerate(self.file.engines):
            place = self.document.where("engines", index)
            if (entry.engine is None) == (entry.openai is None):
                problem = "an engine in {place} must be a name, or {openai: an address, model: its name there}"
                raise InputError(problem, place=place, choices=[name for name in ENGINES if name != OPENAI])
            if entry.openai is None:
                self.need_no_server(entry, place)
                engine = AskedEngine(str(entry.engine), str(entry.engine))
            else:
                engine = self.server(entry, models, place)
            if any(engine.label == other.label for other, _ in engines) or entry.name in ENGINES:
                problem, remedy = (
                    f"two engines are called {engine.label} ({{place}})",
                    "leave one out, or give a server a name: …",
                )
                raise InputError(problem, value=engine.label, place=place, remedy=remedy)
            own = (STORED,) if engine.address else self.file.precisions
            engines.append((engine, tuple(entry.precisions or own)))
        return tuple(engines)

    def need_no_server(self, entry: NamedEngine, place: str | None) -> None:
        """Raise InputError for an engine that is no server, and has a server's keys."""
        for key in ("model", "of", "name"):
            if (value := getattr(entry, key)) is not None:
                problem = f"{key} in {{place}} goes with openai: an address, not with engine: {entry.engine}"
                raise InputError(problem, value=value, place=place)

    def server(self, entry: NamedEngine, models: list[str], place: str | None) -> AskedEngine:
        """Return the engine behind an address, and which of the study's models it serves."""
        try:
            address = check_address(str(entry.openai))
        except InputError as error:
            raise error.at(place) from None
        if entry.model is None:
            raise InputError("openai in {place} needs model: the name of the model there", place=place)
        if entry.of is None and len(models) > 1:
            problem = "openai in {place} does not say which of the study's models the server has"
            raise InputError(problem, place=place, remedy=f"add of: {' | '.join(models)}")
        of = entry.of or models[0]
        if of not in models:
            raise InputError(f"of in {{place}} is no model of this study: {of!r}", value=of, place=place, choices=models)
        return AskedEngine(OPENAI, entry.name or OPENAI, address, entry.model, of)

    def scoring_model(self) -> Source | None:
        value = self.file.perplexity
        choices = [*weights.generating()[:1], "as under models", "or null"]
        model = None if value is None else self.here("model", value, sources.find, ("perplexity",), choices)
        if model and model.quantized and model.quantized.method != quantized.GGUF:
            problem = f"{{place}}: perplexity is reckoned at fp32, and {model.name} is quantized already, by {model.quantized}"
            place = self.document.where("perplexity")
            raise InputError(problem, value=value, place=place, remedy="give the weights it was made from")
        return model

    def judges(self) -> tuple[Judge, ...]:
        judges = tuple(self.judge(index, named) for index, named in enumerate(self.file.judges))
        if len({judge.name for judge in judges}) < len(judges):
            problem, place = "two judges in {place} have the same name", self.document.where("judges")
            raise InputError(problem, place=place, remedy="leave one out, or rename its folder")
        kept = {*METRICS, *(f"{judge.name}{texts}" for judge in judges for texts in OF_OTHER_TEXTS)}
        for index, judge in enumerate(judges):
            if judge.name in kept:  # scores are kept under their scorer's name: one would replace the other's
                problem = f"judge {judge.name} in {{place}} is called as other scores are"
                where, remedy = self.document.where("judges", index), "rename its folder, or leave it out"
                raise InputError(problem, value=judge.name, place=where, remedy=remedy)
        return judges

    def judge(self, index: int, named: NamedJudge) -> Judge:
        place = self.document.where("judges", index)
        try:
            judge = classifiers.find(named.judge, named.labels, self.folder, EMOTIONS, self.kept)
            if judge and judge.here:
                judge.need(self.file.emotions)
        except InputError as error:
            raise InputError(f"{{place}}: {error}", value=named.judge, place=place) from None
        if not judge:
            others = ("or a folder (beside the study)", "or owner/name of the hub (with @revision)")
            raise self.unknown("judge", named.judge, ("judges", index), [*packaged_judges(), *others])
        return judge

    def path(self, key: str, suffix: str, packaged: Mapping[str, Path]) -> Path:
        """Return the file of a packaged name, or of a path beside the study file."""
        value = getattr(self.file, key)
        if value in packaged:
            return packaged[value]
        try:
            path = (self.folder / value).resolve()
            there = path.suffix.lower() == suffix and path.is_file()
        except (OSError, ValueError):  # no name that a file could have
            there = False
        if not there:
            choices = [*packaged, f"or a {suffix} file beside the study"]
            place = self.document.where(key)
            raise InputError(f"no such {key} {SHORT.repr(value)}", value=value, place=place, choices=choices)
        return path

    def unknown(self, noun: str, value: str, keys: tuple[str | int, ...], choices: Iterable[str]) -> InputError:
        place = self.document.where(*keys)
        is_path = value.startswith((".", "/", "~")) or "\\" in value or value.endswith(".gguf")
        if is_path and not os.path.exists(os.path.join(self.folder, os.path.expanduser(value))):
            remedy = "a path counts from the folder of the study"
            return InputError(f"there is no folder or file {SHORT.repr(value)}", value=value, place=place, remedy=remedy)
        return InputError(f"unknown {noun} {SHORT.repr(value)}", value=value, place=place, choices=choices)
