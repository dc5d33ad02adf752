"""Small twins of the five models of study paper, laid out as the hub's cache is, and their fifteen runs."""

import json
import math

import torch
import transformers
import yaml
from conftest import put_into_hub_cache, save_tiny

from affq.models.weights import catalog
from affq.results.provenance import NOTEBOOKS
from affq.results.record import records
from affq.study import load_study, packaged

LAYERS, VOCABULARY, POSITIONS, WINDOW = 2, 512, 256, 12  # a window that is shorter than a prompt
PAPER = yaml.safe_load(packaged()["paper"].read_text())
SETTINGS = {
    "emotions": ["joy", "sadness"],
    "batch": 2,
    "generation": {"max_new_tokens": 8},
    "measurement": {"texts": 2, "new_tokens": 8, "warmup_tokens": 1},
}
PROMPTS = "id,kind,text,text_without_emotion\nnote,general,Write of {emotion}.,Write.\nday,event,Tell of {emotion}.,Tell.\n"


def scaled_down(config):
    """Scale a published configuration: an eighth of its heads, of 64 wide each, everything else that makes its kind kept."""
    heads, groups = config["num_attention_heads"], config["num_attention_heads"] // config["num_key_value_heads"]
    small = max(groups, heads // 8)
    ratio = config["intermediate_size"] / config["hidden_size"]
    twin = {
        **config,
        "num_attention_heads": small,
        "num_key_value_heads": small // groups,
        "hidden_size": 64 * small,
        "intermediate_size": 64 * math.ceil(ratio * small),
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
    }
    return twin | ({"sliding_window": WINDOW} if config.get("sliding_window") else {})


def put_twins(scratch, cache):
    """Save a twin of each model of study paper in shards, at the dtype that it is published at, into a hub cache."""
    for name in PAPER["models"]:
        entry = catalog()[name]
        config = transformers.AutoConfig.for_model(**scaled_down(entry["config"]), eos_token_id=0, pad_token_id=0)
        config.dtype = getattr(torch, entry["stored_dtype"])
        put_into_hub_cache(cache, entry["hub"], save_tiny(scratch / name, config, max_shard_size="500KB"))


def write_study(folder):
    """Write a study of the paper's models and precisions, with small settings, to folder/twins.yaml."""
    (folder / "two.csv").write_text(PROMPTS)
    study = {"models": PAPER["models"], "precisions": PAPER["precisions"], "prompts": "two.csv", "device": "cpu", **SETTINGS}
    (folder / "twins.yaml").write_text(yaml.safe_dump(study))
    return folder / "twins.yaml"


def run_here(study, run, results):
    """Execute the generating notebook's cells for one run in this process: the same code, into the same records."""
    parameters = {"study": str(study), "model": run.model.name, "precision": run.precision, "engine": run.engine.label}
    parameters |= {"results": str(results), "process": 1}
    cells = json.loads((NOTEBOOKS / "1_generate.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])]
    exec("\n".join("".join(cell["source"]) for cell in code), parameters)


def run_the_others(study, results):
    """Execute in this process each run of a study that is not there yet; give the records of all."""
    found = records(results, load_study(study))
    for record in found:
        if record.state().status == "missing":
            run_here(study, record.run, results)
    return found
