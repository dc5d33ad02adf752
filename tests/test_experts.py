"""Mixtral with its experts as linear layers: the same model as the fused one, and quantized whole."""

import json
import re
import shutil

import pytest
import torch
from conftest import A_PROMPT
from safetensors.torch import load_file, save_file

from affq.inference import generate
from affq.models import checkpoints, experts
from affq.models import loading as models

EXPERT = "model.layers.1.block_sparse_moe.experts.3."


@pytest.fixture(scope="module")
def layouts(tmp_path_factory, tiny_mixtral):
    """The same weights as save_pretrained writes them, in shards as on the hub, and fused."""
    model, tokenizer = models.load(tiny_mixtral, "fp32", "cpu")
    sharded, fused = tmp_path_factory.mktemp("layouts") / "sharded", tmp_path_factory.mktemp("layouts") / "fused"
    model.save_pretrained(sharded, max_shard_size="500KB")
    model.save_pretrained(fused, save_original_format=False)
    for folder in (sharded, fused):
        tokenizer.save_pretrained(folder)
    return {"one file": tiny_mixtral, "shards": sharded, "fused": fused}


def changed(folder, copy, config=None, weights=lambda stored: stored):
    """Copy a model of one weight file, with some of its configuration and its weights changed."""
    shutil.copytree(folder, copy)
    before = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(before | (config or {})))
    save_file(weights(load_file(copy / "model.safetensors")), copy / "model.safetensors", {"format": "pt"})
    return copy


def logits(model):
    tokens = torch.randint(512, (4, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(tokens).logits.float()


def distance(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


def fp32(folder):
    return logits(models.load(folder, "fp32", "cpu")[0])


def unfused(folder):
    model, found = experts.UNFUSED["mixtral"].from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    return model.eval()


def test_layouts_are_those_of_checkpoints(layouts):
    names = {layout: {n for file in checkpoints.weight_files(f) for n in load_file(file)} for layout, f in layouts.items()}
    assert names["one file"] == names["shards"] and EXPERT + "w1.weight" in names["shards"]
    assert len(checkpoints.weight_files(layouts["shards"])) > 4 and "model.layers.1.mlp.experts.down_proj" in names["fused"]


@pytest.mark.parametrize("layout", ["one file", "shards", "fused"])
def test_unfused_logits_are_the_fused_ones(layouts, layout):
    found, wanted = logits(unfused(layouts[layout])), fp32(layouts["one file"])
    assert distance(found, wanted) < 1e-5


def test_one_token_chooses_some_experts_alone(tiny_mixtral):
    """The first token of a model without a beginning-of-text token: two of four experts compute, the others are not asked."""
    fused, apart = models.load(tiny_mixtral, "fp32", "cpu")[0], unfused(tiny_mixtral)
    asked = []
    for number, expert in enumerate(apart.model.layers[0].mlp.experts):
        expert.register_forward_hook(lambda *_, number=number: asked.append(number))
    with torch.inference_mode():
        found, wanted = (model(torch.tensor([[5]])).logits for model in (apart, fused))
    assert len(asked) == 2 and distance(found, wanted) < 1e-5


@pytest.mark.parametrize("precision", ["int8", "nf4"])
@pytest.mark.parametrize("layout", ["one file", "shards", "fused"])
def test_every_expert_is_quantized(layouts, layout, precision):
    folder = layouts[layout]
    models.import_for(folder, precision)
    model, tokenizer = models.load(folder, precision, "cpu")
    rows = models.census(model)
    models.prove(rows, precision)
    fused, _ = models.load(layouts["one file"], "fp32", "cpu")
    assert sum(row["elements"] for row in rows) == fused.num_parameters()
    assert {row["name"].rpartition(".experts")[2] for row in rows if "experts" in row["name"]} == {
        f".{number}.{name}.weight" for number in range(4) for name in ("w1", "w2", "w3")
    }
    described = models.described(model, tokenizer)
    assert described["class"] == "UnfusedMixtralForCausalLM"
    assert described["attention"] == models.described(fused, tokenizer)["attention"]


def test_experts_at_int8_take_a_byte_a_weight_and_a_float_a_row(tiny_mixtral):
    rows = models.census(models.load(tiny_mixtral, "int8", "cpu")[0])
    of_experts = [row for row in rows if "experts" in row["name"]]
    # Two layers of four experts: two of 256·128 and one of 128·256.
    assert sum(row["bytes"] for row in of_experts) == 2 * 4 * (3 * 256 * 128 + 4 * (256 + 256 + 128))


def test_quantized_logits_stay_near_those_of_fp32(tiny_mixtral, tmp_path):
    """Rounding a row of 128 normal weights to 127 steps of its largest, some 2.7 deviations, errs by 0.6 % of a product.

    So does rounding its inputs, and bf16 by 0.4 %: a few products one after the other stay under 5 %. At 4 bits a block of 64
    has 16 steps, and errs ten times as much. Experts in each other's place are farther off than both; tokens agree by chance
    once in 512.
    """
    wanted = fp32(tiny_mixtral)
    shuffled = fp32(changed(tiny_mixtral, tmp_path / "shuffled", weights=to_the_next_expert))
    int8, nf4 = (logits(models.load(tiny_mixtral, precision, "cpu")[0]) for precision in ("int8", "nf4"))
    assert 0 < distance(int8, wanted) < 0.05 < distance(nf4, wanted) < distance(shuffled, wanted)
    agreed = [(found.argmax(-1) == wanted.argmax(-1)).float().mean() for found in (int8, nf4)]
    assert agreed[0] > 0.9 and agreed[1] > 0.3, agreed


def to_the_next_expert(stored):
    def following(match):
        return f".experts.{(int(match[1]) + 1) % 4}."

    return {re.sub(r"\.experts\.(\d)\.", following, name): tensor for name, tensor in stored.items()}


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_layouts_are_quantized_to_the_same_weights(layouts, precision):
    of = {layout: logits(models.load(folder, precision, "cpu")[0]) for layout, folder in layouts.items()}
    assert torch.equal(of["shards"], of["one file"]) and torch.equal(of["fused"], of["one file"])


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_texts_are_written_the_same_twice(tiny_mixtral, precision):
    asked = ["Write a note full of joy.", "Tell of fear."]
    batch = [{"prompt_id": p, "kind": "general", "emotion": "joy", "sample": 0, "request": p} for p in asked]
    texts = []
    for _ in range(2):
        model, tokenizer = models.load(tiny_mixtral, precision, "cpu")
        texts.append(generate.texts(model, tokenizer, batch, 12)[0])
        models.prove(models.census(model), precision)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
@pytest.mark.parametrize("lost", ["w1", "w2", "w3"])
def test_expert_that_lacks_a_weight_is_a_load_error(tiny_mixtral, tmp_path, lost, precision):
    copy = changed(
        tiny_mixtral,
        tmp_path / "lacking",
        weights=lambda stored: {n: t for n, t in stored.items() if n != f"{EXPERT}{lost}.weight"},
    )
    with pytest.raises(models.LoadError, match="lacking"):
        models.load(copy, precision, "cpu")


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_weights_that_the_configuration_does_not_ask_for_are_a_load_error(layouts, tmp_path, precision):
    folder = layouts["one file"]
    more = changed(folder, tmp_path / "more", weights=lambda s: {**s, EXPERT + "w4.weight": torch.zeros(2, 2)})
    with pytest.raises(models.LoadError, match="1 parameters are in the weights alone, as .*experts.3.w4.weight"):
        models.load(more, precision, "cpu")
    narrow = changed(folder, tmp_path / "narrow", {"intermediate_size": 128})
    with pytest.raises(models.LoadError, match=r"experts.0.w1.weight has the shape \[256, 128\], where \[128, 128\]"):
        models.import_for(narrow, precision)
    narrow = changed(layouts["fused"], tmp_path / "narrow-fused", {"intermediate_size": 128})
    with pytest.raises(models.LoadError, match="cannot load narrow-fused: "):
        models.load(narrow, precision, "cpu")


def test_plain_precisions_keep_the_experts_fused(tiny_mixtral):
    model, tokenizer = models.load(tiny_mixtral, "bf16", "cpu")
    assert models.described(model, tokenizer)["class"] == "MixtralForCausalLM"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_every_expert_is_quantized_on_a_gpu(tiny_mixtral, precision):
    model, _ = models.load(tiny_mixtral, precision, "cuda")
    models.prove(models.census(model), precision)
    models.compute_once(model, precision, A_PROMPT)
