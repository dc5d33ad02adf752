"""Write the study of a model of one's own: what `affq run --model` runs."""

import os
import re
from pathlib import Path

import yaml

from affq.errors import InputError
from affq.files import slug
from affq.study.settings import read_yaml
from affq.study.study import load_study, packaged


def write(model, precisions=None, revision=None, prompts=None, emotions=None, device=None, name=None):
    """Write the study of one model to <name>.yaml in the current folder, unless just that is there: (file, whether it is new).

    What is None stays as in study `default`. Raises InputError, and leaves nothing, for a study that is refused.
    """
    if revision is not None and Path(model).exists():
        raise InputError(f"--revision {revision} goes with a hub id, and {model} is a folder or a file here; leave it out")
    if name is None:
        name = slug(Path(os.path.expanduser(model.partition("@")[0])).resolve().name.removesuffix(".gguf"))
    elif name != slug(name):
        raise InputError(f"--name {name!r} is to name a file and a folder; take {slug(name)} say")
    if name in packaged():
        raise InputError(f"{name!r} is the name of a packaged study; give another --name")
    path, named = Path(f"{name}.yaml"), model if revision is None else f"{model}@{revision}"
    defaults, _ = read_yaml(packaged()["default"])
    study = {"models": [named], "precisions": defaults["precisions"] if precisions is None else precisions}
    given = {"prompts": prompts, "emotions": emotions, "device": device}
    study |= {key: value for key, value in given.items() if value is not None}
    lines = yaml.safe_dump(study, default_flow_style=None, allow_unicode=True, width=1000, sort_keys=False)
    text = f"# What is not here is as in study default: affq study default shows it.\n{lines}"
    if (there := path.exists()) and path.read_bytes() != text.encode():
        raise InputError(f"{path} is there already and is another study: affq run {path} runs it, --name names a new one")
    path.write_text(text, encoding="utf-8")
    try:
        load_study(path)
    except InputError as error:
        if there:
            raise
        path.unlink()  # a study that was refused leaves nothing, and its lines are no place to look at
        raise InputError(re.sub(rf" in {re.escape(str(path.resolve()))}, line \d+", "", str(error))) from None
    return str(path), not there
