"""Read a study by its name, its file or its records, and refuse what it does not know."""

import json
from dataclasses import replace
from pathlib import Path

from affq.errors import InputError, command
from affq.files import slug
from affq.models import sources, weights
from affq.results import kept_runs
from affq.study.names import Names
from affq.study.settings import Document, read_yaml
from affq.study.study import Run, Study
from affq.study.study_file import HERE, StudyFile


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
    names = Names(document, document.read_as(StudyFile), path.parent, bool(kept))
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
