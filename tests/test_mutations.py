"""A thousand and more broken inputs: each is refused in one sentence, or means exactly what it says.

The mutations are drawn from a seed; a failure names it. Refused is an InputError or, once loading, a LoadError.
"""

import csv
import json
import random
import shutil

import pytest
import torch
import transformers
import yaml
from conftest import save_tiny
from safetensors.torch import load_file

from affq.errors import InputError
from affq.models import loading as models
from affq.results.provenance import PACKAGE
from affq.study.prompts import read_prompts
from affq.study.study import load_study

STUDIES = PROMPTS = 400
FOLDERS = 240  # together 1,040
ODD = [None, True, -1, 0, 1, 3, 0.5, "", "x", [], {}, [None], {"a": 1}, "2026-13-01", 10**30]
TOKENS = [
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    '"',
    "'",
    "&a ",
    "*a",
    "!!int ",
    "|",
    "#",
    "\n",
    "\t",
    "\x00",
    "\u2028",
    "\ufeff",
    "é",
    "%",
]


def broken_bytes(rng, whole):
    """Cut, double, drop, flip or insert at a random place, one to three times."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(whole) + 1), rng.randint(1, 20)
        kind = rng.choice(["cut", "double", "drop", "flip", "insert"])
        if kind == "cut":
            whole = whole[: max(at, 1)]
        elif kind == "double":
            whole = whole[:at] + whole[at : at + length] * 2 + whole[at + length :]
        elif kind == "drop":
            whole = whole[:at] + whole[at + length :]
        elif kind == "flip":
            whole = whole[:at] + bytes(b ^ rng.randrange(1, 256) for b in whole[at : at + 1]) + whole[at + 1 :]
        else:
            whole = whole[:at] + rng.choice(TOKENS).encode() + whole[at:]
    return whole


def broken_values(rng, values):
    """Put odd values, names and keys into a mapping, one to three times."""
    values = json.loads(json.dumps(values))
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(list(values) or ["x"])
        odd = rng.choice(ODD)
        if isinstance(values.get(key), dict) and values[key] and rng.random() < 0.7:
            values[key][rng.choice(list(values[key]))] = odd
        elif isinstance(values.get(key), list) and rng.random() < 0.7:
            values[key].insert(0, odd)
        elif rng.random() < 0.2:
            values[rng.choice(["modles", "Batch", "x"])] = odd
        else:
            values[key] = odd
    return values


def means_what_it_says(study, values):
    """Every value of the file is the study's: no default in its place."""
    assert list(study.precisions) == values["precisions"] and [model.name for model in study.models] == values["models"]
    for key in ("device", "samples", "batch", "seed"):
        assert getattr(study, key) == values.get(key, getattr(study, key))
    assert list(study.emotions) == values.get("emotions", list(study.emotions))
    assert [judge.name for judge in study.judges] == values.get("judges", [judge.name for judge in study.judges])
    for key in ("generation", "measurement"):
        given = {name: value for name, value in values.get(key, {}).items() if (name, value) != ("temperature", None)}
        settings = getattr(study, key).model_dump()
        assert {**settings, **given} == settings


def one_sentence(error):
    assert "\n" not in str(error) and len(str(error)) < 1500, str(error)


@pytest.mark.parametrize("chunk", range(4))
def test_broken_studies(tmp_path, chunk):
    whole = (PACKAGE / "study" / "studies" / "default.yaml").read_text(encoding="utf-8")
    refused = 0
    for seed in range(chunk * STUDIES // 4, (chunk + 1) * STUDIES // 4):
        rng, path = random.Random(seed), tmp_path / f"study-{seed}.yaml"
        if seed % 2:
            path.write_bytes(broken_bytes(rng, whole.encode()))
        else:
            path.write_text(yaml.safe_dump(broken_values(rng, yaml.safe_load(whole))), encoding="utf-8")
        try:
            study = load_study(path)
        except InputError as error:
            one_sentence(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {path.read_bytes()!r}") from error
        else:
            means_what_it_says(study, yaml.safe_load(path.read_text(encoding="utf-8")))
    assert STUDIES // 8 < refused < STUDIES // 4  # some are whole still: a word of a comment was hit


@pytest.mark.parametrize("chunk", range(4))
def test_broken_prompts(tmp_path, chunk):
    whole = (PACKAGE / "study" / "prompt_sets" / "default.csv").read_bytes()
    refused = 0
    for seed in range(chunk * PROMPTS // 4, (chunk + 1) * PROMPTS // 4):
        path = tmp_path / f"{seed}.csv"
        path.write_bytes(broken_bytes(random.Random(seed), whole))
        try:
            rows = read_prompts(path)
        except InputError as error:
            one_sentence(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {path.read_bytes()!r}") from error
        else:
            with open(path, encoding="utf-8-sig", newline="") as file:
                assert rows == list(csv.DictReader(file))
            assert all("{emotion}" in row["text"] and "{emotion}" not in row["text_without_emotion"] for row in rows)
    assert PROMPTS // 40 < refused < PROMPTS // 4


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    config = transformers.LlamaConfig(vocab_size=512, eos_token_id=0, pad_token_id=0, **sizes)
    return save_tiny(tmp_path_factory.mktemp("smallest") / "mine", config)


def break_folder(rng, folder):
    file = folder / rng.choice(["config.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
    kind = rng.choice(["values", "bytes", "bytes", "head", "remove", "empty"])
    if kind == "values" and file.suffix == ".json":
        file.write_text(json.dumps(broken_values(rng, json.loads(file.read_text()))))
    elif kind == "head":
        whole = file.read_bytes()
        file.write_bytes(broken_bytes(rng, whole[:400]) + whole[400:])
    elif kind == "remove":
        file.unlink()
    elif kind == "empty":
        file.write_bytes(b"")
    else:
        file.write_bytes(broken_bytes(rng, file.read_bytes()))


@pytest.mark.parametrize("chunk", range(4))
def test_broken_model_folders(tmp_path, smallest, chunk):
    """What is accepted has the weights of the file, all of them and no others."""
    refused = 0
    for seed in range(chunk * FOLDERS // 4, (chunk + 1) * FOLDERS // 4):
        folder = shutil.copytree(smallest, tmp_path / str(seed) / "mine")
        break_folder(random.Random(seed), folder)
        (folder.parent / "study.yaml").write_text("models: [./mine]\nprecisions: [fp32]\n")
        try:
            load_study(folder.parent / "study.yaml")
            models.import_for(folder, "fp32")
            model, _ = models.load(folder, "fp32", "cpu")
        except (InputError, models.LoadError) as error:
            assert len(str(error)) < 3000
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        else:
            stored, loaded = load_file(folder / "model.safetensors"), dict(model.named_parameters())
            assert {name: tuple(t.shape) for name, t in stored.items()} == {name: tuple(p.shape) for name, p in loaded.items()}
            assert all(torch.equal(loaded[n].nan_to_num(), tensor.float().nan_to_num()) for n, tensor in stored.items())
        shutil.rmtree(folder)
    assert FOLDERS // 16 < refused < FOLDERS // 4
