"""Copies of the packaged notebooks for people to change, with their parameters set to a study and its results."""

import json
import os
import re
from pathlib import Path

import nbformat

from affq.errors import InputError, command
from affq.results import NOTEBOOKS, records, study_folder
from affq.study import load_study, packaged


def copy_explorer(study: str, results: Path) -> Path:
    """Copy the explorer's notebook into the folder of a study's results, unless it is there, and return its path.

    Its parameters say where the study and the results are as seen from there, so that the folder can be moved with them. Raises
    InputError if no run is complete.
    """
    loaded = load_study(study)
    if not any(record.complete for record in records(results, loaded)):
        problem = f"no run of study {loaded.name} in {results} is complete"
        raise InputError(problem, value=study, remedy=f"{command('run', study, results)} first")
    folder = study_folder(results, loaded)
    path = folder / "4_explore.ipynb"
    if not path.exists():  # it may have been changed
        seen = study if study in packaged() else _from(folder, Path(study))
        _copy(path, study=seen, results="..")
    return path


def common_folder(study: str, results: Path) -> Path:
    """Return the folder that holds the results, the study's file and the current folder, however far apart they are."""
    places = [Path.cwd(), results.resolve(), *([] if study in packaged() else [Path(study).resolve().parent])]
    return Path(os.path.commonpath(places))


def copy_all(folder: Path, results: Path) -> list[Path]:
    """Copy the notebooks into a folder, their parameter `results` set to the results as seen from there; return their paths.

    Raises InputError, and copies none, if one of them is there already.
    """
    copies = [folder / path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    if there := [path for path in copies if path.exists()]:
        raise InputError(f"{there[0]} is there already", value=there[0], remedy="name another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for path in copies:
        _copy(path, results=_from(folder, results))
    return copies


def _from(folder: Path, path: Path) -> str:
    """Return a path as seen from a folder."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _copy(path: Path, **parameters: str) -> None:
    """Copy the packaged notebook of this name, with some of its parameters set."""
    node = nbformat.read(NOTEBOOKS / path.name, as_version=4)
    cell = next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", ()))
    for name, value in parameters.items():
        before, after = re.split(rf"^{name} = \"[^\"]*\"", cell.source, flags=re.M)
        cell.source = f"{before}{name} = {json.dumps(value)}{after}"
    nbformat.write(node, path)
