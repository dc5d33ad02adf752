"""The studies that `make gpu` runs: how much of each the minutes allow, on a card and in a rehearsal on its small twins."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from affq.models.engines import COMPILED
from affq.models.weights import catalog
from affq.study import packaged

PAPER = yaml.safe_load(packaged()["paper"].read_text(encoding="utf-8"))
RANDOM = yaml.safe_load(packaged()["paper-random"].read_text(encoding="utf-8"))
DEFAULT = "smollm2-135m"
# The first two of the packaged prompts: with seven emotions they fill one batch of study default.
PROMPTS = "\n".join(packaged()["default"].parents[1].joinpath("prompt_sets/default.csv").read_text().splitlines()[:3]) + "\n"
TOO_LARGE = {"hidden_size": 65536, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 64}
TOO_LARGE |= {"model_type": "llama", "num_key_value_heads": 64, "vocab_size": 2**31 - 1}  # 560 TB: no address space holds it
SEVENS = "llama-2-7b-chat"


@dataclass(frozen=True)
class Sizes:
    """How much is run. Seconds: what a stage, and a run of it, takes at most, and what must be left for a run to begin."""

    stage_s: dict[str, int]
    run_s: int
    least_s: int
    precisions: list[str]  # of the default model
    default: dict[str, Any]  # settings of its study
    random: dict[str, Any]  # settings of the studies with random weights
    models: list[str]  # of the paper
    paper: list[str]  # the precisions that they are run at
    throughput: dict[str, Any]  # its measurement


CARD = Sizes(
    stage_s={
        "tests": 60,
        "default": 165,
        "paper": 190,
        "too_large": 50,
        "compiled": 110,
        "throughput": 240,
    },  # the last has what they leave
    run_s=150,
    least_s=15,
    precisions=["fp32", "bf16", "fp16", "int8", "nf4"],
    default={"device": "cuda", "measurement": {"texts": 4, "token_texts": 0}},
    random={
        "device": "cuda",
        "generation": {"max_new_tokens": 16},
        "measurement": {"texts": 2, "new_tokens": 16, "warmup_tokens": 4, "token_texts": 0},
    },
    models=PAPER["models"],
    paper=PAPER["precisions"],
    throughput={"texts": 2, "new_tokens": 16, "warmup_tokens": 4, "token_texts": 0, "throughput": 4096},
)
_FEW = {"texts": 1, "new_tokens": 3, "warmup_tokens": 1, "token_texts": 0}
_SMALL = {"device": "cpu", "emotions": ["joy", "sadness"], "batch": 4, "generation": {"max_new_tokens": 3}, "measurement": _FEW}
REHEARSAL = Sizes(
    stage_s=dict.fromkeys(("tests", "default", "paper", "too_large", "compiled", "throughput"), 300),
    run_s=300,
    least_s=2,
    precisions=["fp32", "int8"],
    default=_SMALL,
    random=_SMALL,
    models=[SEVENS, "mistral-7b-instruct", "mixtral-8x7b-instruct"],
    paper=["fp32", "int8"],
    throughput={**_FEW, "throughput": 2},
)


def twins(folder: Path) -> None:
    """Write the small twins' configurations, one folder a model, and that of a model that no memory holds."""
    from twins import scaled_down  # of the tests: it needs pytest, as a rehearsal does

    configs = {name: scaled_down(catalog()[name]["config"]) for name in PAPER["models"]} | {"too-large": TOO_LARGE}
    for name, config in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write(folder: Path, name: str, **settings: Any) -> Path:
    """Write a study of few prompts; return its path. Models that have a folder beside it are meant by it."""
    (folder / "few.csv").write_text(PROMPTS, encoding="utf-8")
    settings["models"] = [f"./{model}" if (folder / model).is_dir() else model for model in settings["models"]]
    path = folder / f"gpu-{name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def default(folder: Path, sizes: Sizes) -> Path:
    """Write the study of the default model: as study default but for its precisions and how much is timed."""
    few = {"prompts": "few.csv"} if sizes is REHEARSAL else {}
    return write(folder, "default", models=[DEFAULT], precisions=sizes.precisions, perplexity=None, **few, **sizes.default)


def paper(folder: Path, sizes: Sizes) -> Path:
    """Write the study of the paper's models with random weights: on a card at its three precisions, fifteen configurations."""
    asked = RANDOM | {"models": sizes.models, "precisions": sizes.paper, "prompts": "few.csv"}
    return write(folder, "paper", **asked | sizes.random)


def too_large(folder: Path, sizes: Sizes, model: str, precision: str) -> Path:
    """Write the study of a model that does not fit at a precision, and of one that does, which comes after it."""
    asked = RANDOM | {"models": [model, SEVENS], "precisions": [precision], "prompts": "few.csv"}
    return write(folder, "too-large", **asked | sizes.random)


def compiled(folder: Path, sizes: Sizes) -> Path:
    """Write the study of compiled decoding, text by text: each size of batch would be compiled for itself."""
    asked = RANDOM | {"models": [SEVENS], "precisions": ["fp16"], "engines": [COMPILED], "prompts": "few.csv"}
    return write(folder, "compiled", **asked | sizes.random | {"emotions": ["joy"], "batch": 1})


def throughput(folder: Path, sizes: Sizes) -> Path:
    """Write the study of throughput by batch size."""
    asked = RANDOM | {"models": [SEVENS], "precisions": ["fp16", "int8"], "prompts": "few.csv"}
    return write(folder, "throughput", **asked | sizes.random | {"measurement": sizes.throughput})
