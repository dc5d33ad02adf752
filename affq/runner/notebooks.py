"""Copies of the packaged notebooks for people to change, with their parameters set to a study and its results."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import nbformat

from affq import files
from affq.errors import InputError, command
from affq.results import NOTEBOOKS, records, study_folder
from affq.study import load_study, packaged


def copy_explorer(study: str, results: Path, say: Callable[[str], None] = print) -> Path:
    """Copy the explorer's notebook into the folder of a study's results, unless it is there, and return its path.

    Its parameters say where the study and the results are as seen from there, so that the folder can be moved with them. One
    that is there on another study of the same name gets this one's, and say(words) is told so. Raises InputError if no run is
    complete.
    """
    loaded = load_study(study, results)
    if not any(record.complete for record in records(results, loaded)):
        problem = f"no run of study {loaded.name} in {results} is complete"
        raise InputError(problem, value=study, remedy=f"{command('run', study, results)} first")
    folder = study_folder(results, loaded)
    path = folder / "4_explore.ipynb"
    seen = study if study in packaged() else _from(folder, Path(study))
    if not path.exists():
        _set(NOTEBOOKS / path.name, path, study=seen, results="..")
    elif (before := _study_of(path)) not in (None, seen):  # the rest of it may have been changed, and stays
        _set(path, path, study=seen)
        say(f"{path} showed {before}, another study of this name; now it shows {seen}")
    return path


def common_folder(study: str, results: Path) -> Path:
    """Return the folder that holds the results, the study's file and the current folder, however far apart they are."""
    places = [Path.cwd(), results.resolve(), *([] if study in packaged() else [Path(study).resolve().parent])]
    return Path(os.path.commonpath(places))


def _study_of(notebook: Path) -> str | None:
    """Return what study a notebook's parameters name; None where they name none in the way that affq writes it."""
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (ValueError, KeyError, AttributeError, TypeError):  # what a reader of a damaged notebook raises
        remedy = "move it away, and affq explore makes another"
        raise InputError("{place} is damaged: it is no notebook", place=notebook, remedy=remedy) from None
    named = (re.search(_parameter("study"), cell.source, re.M) for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    return next((json.loads(match[1]) for match in named if match), None)


def _parameter(name: str) -> str:
    """Return the regular expression of a parameter's line, up to its value's end."""
    return rf'^{name} = ("[^"\n]*")'


def copy_all(folder: Path, results: Path) -> list[Path]:
    """Copy the notebooks into a folder, their parameter `results` set to the results as seen from there; return their paths.

    Raises InputError, and copies none, if one of them is there already.
    """
    copies = [folder / path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    if there := [path for path in copies if path.exists()]:
        raise InputError(f"{there[0]} is there already", value=there[0], remedy="name another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for path in copies:
        _set(NOTEBOOKS / path.name, path, results=_from(folder, results))
    return copies


def _from(folder: Path, path: Path) -> str:
    """Return a path as seen from a folder."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _set(notebook: Path, copy: Path, **parameters: str) -> None:
    """Write a notebook, with some of its parameters set, as `copy`."""
    node = nbformat.read(notebook, as_version=4)
    cell = next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", ()))
    for name, value in parameters.items():
        cell.source = re.sub(_parameter(name), lambda _: f"{name} = {json.dumps(value)}", cell.source, flags=re.M)  # noqa: B023
    files.write(copy, nbformat.writes(node))
