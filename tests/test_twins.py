"""The paper's fifteen configurations as small twins: all of them load, prove their precision, generate and are measured."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
import twins
from conftest import said_of, summary_of

from affq.models import loading as models
from affq.models import memory
from affq.models.weights import catalog
from affq.study import load_study

AFFQ = Path(sys.executable).with_name("affq")
# One of each architecture goes through the command and papermill; the others run in this process.
THROUGH_PAPERMILL = "llama-2-7b-chat--int8*,llama-2-13b-chat--fp16*,llama-2-70b-chat--fp32*,mistral*--fp16*,mixtral*--int8*"


pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub cache that holds the twins, for this process and those that it starts."""
    cache = tmp_path_factory.mktemp("hub")
    twins.put_twins(tmp_path_factory.mktemp("twins"), cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield cache


@pytest.fixture(scope="module")
def ran(hub, tmp_path_factory):
    """The records of all fifteen runs, five of them made by affq run."""
    folder = tmp_path_factory.mktemp("study")
    study = twins.write_study(folder)
    done = subprocess.run(
        [AFFQ, "run", "twins.yaml", "--only", THROUGH_PAPERMILL], cwd=folder, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0 and "5 of 5 chosen runs are done" in done.stdout, done.stdout + done.stderr
    return twins.run_the_others(study, folder / "reports")


def of(ran, model, precision):
    return next(r for r in ran if (r.run.model.name, r.run.precision) == (model, precision))


def test_twins_keep_what_makes_their_kind():
    scaled = {name: twins.scaled_down(catalog()[name]["config"]) for name in twins.PAPER["models"]}
    heads = {name: (c["num_attention_heads"], c["num_key_value_heads"]) for name, c in scaled.items()}
    assert heads == {
        "llama-2-7b-chat": (4, 4),
        "llama-2-13b-chat": (5, 5),
        "llama-2-70b-chat": (8, 1),
        "mistral-7b-instruct": (4, 1),
        "mixtral-8x7b-instruct": (4, 1),
    }
    assert scaled["mistral-7b-instruct"]["sliding_window"] == 12 and not scaled["mixtral-8x7b-instruct"].get("sliding_window")
    mixtral = transformers.AutoConfig.for_model(**scaled["mixtral-8x7b-instruct"])
    assert (mixtral.num_local_experts, mixtral.num_experts_per_tok) == (8, 2)


def test_all_fifteen_runs_are_ok_and_have_their_texts(ran):
    assert [said_of(record) for record in ran] == 15 * [("ok", "")]
    assert Counter(r.run.precision for r in ran) == {"fp32": 5, "fp16": 5, "int8": 5}
    assert all(len(record.generations()) == 6 for record in ran)
    table = summary_of(ran)
    assert list(table["status"]) == 15 * ["ok"] and table["peak_bytes"].notna().all() and (table["latency_s"] > 0).all()


def linear_elements(config):
    """Count by hand: q, o of all heads, k, v of the groups; gate, up and down of each expert."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    experts = 8 if config["model_type"] == "mixtral" else 1
    return twins.LAYERS * (2 * hidden * hidden + 2 * hidden * keys + experts * 3 * hidden * inner)


@pytest.mark.parametrize("model", twins.PAPER["models"])
@pytest.mark.parametrize("precision, dtype", [("fp32", "float32"), ("fp16", "float16"), ("int8", "int8")])
def test_census_counts_every_linear_layer_at_its_precision(ran, model, precision, dtype):
    record, config = of(ran, model, precision), twins.scaled_down(catalog()[model]["config"])
    census = record.measurements()["census"]
    hidden, gates = config["hidden_size"], 8 if config["model_type"] == "mixtral" else 0
    by_role = {(part["role"], part["dtype"]): part["elements"] for part in census}
    stays = "bfloat16" if precision == "int8" else dtype
    expected = {
        ("weight", dtype): linear_elements(config),
        ("embedding", stays): twins.VOCABULARY * hidden,
        ("head", stays): twins.VOCABULARY * hidden,
        ("norm", stays): (2 * twins.LAYERS + 1) * hidden,
    }
    assert by_role == expected | ({("router gate", stays): twins.LAYERS * gates * hidden} if gates else {})


def test_stored_weights_are_those_predicted_from_the_configuration(ran):
    for record in ran:
        stored = sum(part["bytes"] for part in record.measurements()["census"])
        assert record.about()["predicted"]["weights_bytes"] == stored


def test_published_dtype_is_recorded_beside_the_precision(ran):
    """fp32 of these is an upcast, and says so."""
    for record in ran:
        assert record.about()["stored_dtype"] == catalog()[record.run.model.name]["stored_dtype"] in ("float16", "bfloat16")


def test_mixtral_at_int8_is_served_with_its_experts_apart(ran):
    served = {r.run.precision: r.measurements()["model"]["class"] for r in ran if r.run.model.name.startswith("mixtral")}
    assert served == {"fp32": "MixtralForCausalLM", "fp16": "MixtralForCausalLM", "int8": "UnfusedMixtralForCausalLM"}


def test_sliding_window_of_mistral_is_in_force(ran):
    """What lies outside the window changes no logits in one layer of reading back: 2 layers see 2·(12 - 1) tokens back."""
    folder = of(ran, "mistral-7b-instruct", "fp32").run.model.folder
    model, _ = models.load(folder, "fp32", "cpu")
    tokens = torch.randint(1, 512, (1, 40), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[0, :10] = 7
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits[0, -1], model(other).logits[0, -1])
        other[0, 30] = 7
        assert not torch.equal(model(tokens).logits[0, -1], model(other).logits[0, -1])
    sizes = memory.Sizes(1, 30, 8)
    config = json.loads((folder / "config.json").read_text())
    # Worked by hand: keys and values of two layers, one head of 64, 12 - 1 tokens, 4 bytes.
    assert memory.predict(config, "fp32", "cpu", sizes)["kv_bytes"] == 2 * 2 * 64 * 11 * 4


def test_plan_shows_fifteen_rows_done_and_what_int8_saves(ran):
    folder = ran[0].folder.parents[3]
    command = [AFFQ, "plan", "twins.yaml", "--json"]
    rows = json.loads(subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True).stdout)
    assert [row["status"] for row in rows] == 15 * ["ok"] and load_study(folder / "twins.yaml").runs()[0].id == rows[0]["run_id"]
    for model in twins.PAPER["models"]:
        stored = {r["precision"]: r["weights_bytes"] for r in rows if r["model"] == model}
        assert stored["fp32"] == 2 * stored["fp16"] and stored["int8"] < 0.65 * stored["fp16"]
