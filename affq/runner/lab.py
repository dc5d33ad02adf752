"""A notebook of one's own to explore a study with: a copy of the packaged one, its parameters set, to be opened in JupyterLab."""

import json
import os
from pathlib import Path

import nbformat

from affq.errors import InputError
from affq.results import NOTEBOOKS, records, study_folder
from affq.study import load_study, packaged


def copy(study, results):
    """Copy the notebook into the folder of a study's results, unless it is there, where it may have been changed; give its path.

    Its parameters say where the study and the results are as seen from there, so that the folder can be moved with them. Raises
    InputError if no run is complete.
    """
    loaded = load_study(study)
    if not any(record.complete for record in records(results, loaded)):
        raise InputError(f"no run of study {loaded.name} in {results} is complete; affq run {study} first")
    folder = study_folder(results, loaded)
    path = folder / "4_explore.ipynb"
    if not path.exists():
        node = nbformat.read(NOTEBOOKS / path.name, as_version=4)
        cell = next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", ()))
        seen = study if study in packaged() else Path(os.path.relpath(study, folder)).as_posix()
        cell.source = f'study = {json.dumps(seen)}\nresults = ".."'
        nbformat.write(node, path)
    return path
