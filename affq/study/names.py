"""What the names in a study file stand for: models, engines, judges, files of prompts and references."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.models import ENGINES, OPENAI, STORED, AskedEngine, Source, check_address, quantized, sources, weights
from affq.results import METRICS, OF_OTHER_TEXTS
from affq.scoring import Judge, classifiers
from affq.scoring import packaged as packaged_judges
from affq.study.claims import read_claims
from affq.study.prompts import read_prompts, read_references
from affq.study.settings import SHORT, Document
from affq.study.study import Study
from affq.study.study_file import CLAIM_SETS, PROMPT_SETS, REFERENCE_SETS, NamedEngine, NamedJudge, NamedModel, StudyFile

MOST_TEXTS = 1_000_000  # of a run


@dataclass(frozen=True)
class Names:
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
