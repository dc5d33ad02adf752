"""Write the study of one model."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from affq import files
from affq.errors import InputError, command
from affq.files import slug
from affq.models import STORED, quantized, sources
from affq.study.load import load_study, need_name, packaged, resolve
from affq.study.settings import Document
from affq.study.study import Study


@dataclass(frozen=True)
class Draft:
    """The study of one model, checked: its file, and what is to be written there."""

    path: Path
    text: str
    study: Study

    def write(self) -> bool:
        """Write the file; return False if just that is there already."""
        if self.path.exists():
            return False
        files.write(self.path, self.text)
        return True


def draft(
    model: str,
    out: Path | None = None,
    precisions: Sequence[str] = (),
    revision: str | None = None,
    prompts: str | None = None,
    emotions: Sequence[str] = (),
    device: str | None = None,
) -> Draft:
    """Return the study of one model: a folder, a GGUF file, a name of the hub or of the catalog. Nothing is written.

    out: the file that is to be written; None for one in the current folder that is named as the model. What else is not given
    stays as in study `default`. Raises InputError for a study that is refused, and for a file that is there and is another study.
    """
    if revision is not None and Path(model).exists():
        problem = f"--revision {revision} goes with a hub id, and {model} is a folder or a file here"
        raise InputError(problem, value=revision, remedy="leave it out")
    path = out or Path(f"{_name(model)}.yaml")
    _need_free(path)
    values = {
        "models": [_beside(model, path) if revision is None else f"{model}@{revision}"],
        "precisions": list(precisions or _precisions(model)),
        "prompts": prompts and _beside(prompts, path),
        "emotions": list(emotions) or None,
        "device": device,
    }
    values = {key: value for key, value in values.items() if value is not None}
    # These settings are in no file yet: an error has no line to point to.
    study = resolve(Document("study", values, {(): 1}, None), path.resolve(), str(path))
    lines = yaml.safe_dump(values, default_flow_style=None, allow_unicode=True, width=1000, sort_keys=False)
    text = f"# What is not here is as in study default: affq study default shows it.\n{lines}"
    if path.exists() and path.read_bytes() != text.encode():
        remedy = f"{command('run', path)} runs it, {command('new', model)} -o NAME.yaml writes another"
        raise InputError(f"{path} is there already and is another study", value=path, remedy=remedy)
    return Draft(path, text, study)


def _name(model: str) -> str:
    """Return the name of a model's study: that of its folder, file or repository."""
    path = Path(os.path.expanduser(model.partition("@")[0])).resolve()
    return slug(path.stem if path.suffix.lower() == ".gguf" else path.name)


def _precisions(model: str) -> tuple[str, ...]:
    """Return the precisions of a model's study that names none: as it is stored, if that is quantized already."""
    with contextlib.suppress(InputError):  # which the study's own check says in its words
        if (source := sources.find(model, Path())) and source.quantized and source.quantized.method != quantized.GGUF:
            return (STORED,)
    return load_study("default").engines[0][1]


def _need_free(path: Path) -> None:
    """Raise InputError unless a study of one's own can have this file name."""
    if path.suffix.lower() not in {".yaml", ".yml"}:
        remedy = f"it ends with .yaml: -o {path.with_suffix('.yaml')}"
        raise InputError(f"{path} is not the name of a study file", value=path, remedy=remedy)
    if path.stem in packaged():
        raise InputError(f"{path.stem!r} is the name of a packaged study", value=path, remedy="name another file with -o")
    need_name(path, str(path))


def _beside(path: str, study: Path) -> str:
    """Return a path as seen from the folder of the study's file; what is no path here stays as it is."""
    folder = study.resolve().parent
    if folder == Path.cwd() or Path(path).is_absolute() or not Path(path).exists():
        return path
    return f"./{Path(os.path.relpath(path, folder)).as_posix()}"
