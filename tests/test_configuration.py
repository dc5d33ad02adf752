"""A configuration is data: where transformers would choose code by it, or fetch some, affq refuses the value by its name.

The values are harmless, and nothing is fetched: they are refused before anything is built.
"""

import json
import os
import shutil
import socket

import pytest
import transformers
from conftest import SIZES, save_classifier, save_gguf, save_tiny
from transformers.integrations import hub_kernels

from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.models import checkpoints, configuration, experts, memory, weights
from affq.models import loading as models
from affq.models.sources import find, find_architecture
from affq.scoring import classifiers
from affq.study import load_study

FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def say(folder, file, **changes):
    """Put keys into a JSON file of a model's folder."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text() if path.exists() else "{}") | changes))
    return folder


@pytest.fixture
def mine(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "mine")


OWN = "local/name"  # no repository of anybody's
WRONG = {
    "attention": ("config.json", {"attn_implementation": OWN}, "attn_implementation .* is 'local/name', .*; known: eager, sdpa"),
    "attention, as it is kept": ("config.json", {"_attn_implementation_internal": OWN}, "known: eager, sdpa"),
    "attention of a part": ("config.json", {"_attn_implementation": {"": "sdpa", "text_config": OWN}}, "known: eager, sdpa"),
    "attention in a part": ("config.json", {"text_config": {"attn_implementation": OWN}}, "known: eager, sdpa"),
    "attention of a library": ("config.json", {"attn_implementation": "flash_attention_2"}, "'flash_attention_2'"),
    "experts": ("config.json", {"experts_implementation": OWN}, "known: eager, batched_mm, grouped_mm"),
    "dtype": ("config.json", {"torch_dtype": "load"}, "torch_dtype .* is 'load', .*; known: float64, float32, float16, bfloat16"),
    "dtype of a part": ("config.json", {"router_dtype": "hub"}, "router_dtype"),
    "quantizer of a part": (
        "config.json",
        {"text_config": {"quantization_config": {"quant_method": "x"}}},
        "quantization_config",
    ),
    "names of attributes": ("config.json", {"attribute_map": {"plain": "_attn_implementation"}}, "attribute_map"),
    "another configuration": ("config.json", {"configuration_files": ["config.4.0.0.json"]}, "configuration_files"),
    "other weights of a part": ("config.json", {"text_config": {"transformers_weights": "a"}}, "transformers_weights"),
    "code of a part": ("config.json", {"text_config": {"auto_map": {"AutoModel": "a.B"}}}, "auto_map"),
    "a backbone": ("config.json", {"vision_config": {"backbone": OWN}}, "backbone"),
    "a part of another library": ("config.json", {"vision_config": {"architecture": f"hub:{OWN}"}}, "architecture"),
    "kernels": ("config.json", {"use_kernels": True, "kernel_config": {"RMSNorm": OWN}}, "kernel"),
    "what replaces layers": ("config.json", {"fusion_config": {"patch_embeddings": True}}, "fusion_config"),
    "tokenizer that is none": ("tokenizer_config.json", {"tokenizer_class": "pipeline"}, "tokenizer_class .* is 'pipeline'"),
    "tokenizer of any kind": ("tokenizer_config.json", {"tokenizer_class": "AutoTokenizer"}, "tokenizer_class"),
    "tokenizer in the model's": ("config.json", {"tokenizer_class": "Trainer"}, "tokenizer_class"),
    "code of the tokenizer": (
        "tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": ["a.B", None]}, "tokenizer_class": "OddTokenizer"},
        r"names code of its own \(auto_map; tokenizer_class 'OddTokenizer'\), which affq never runs",
    ),
    "tokenizer's own arguments": ("tokenizer_config.json", {"init_inputs": ["a"]}, "init_inputs"),
    "tokenizer's through special tokens": ("special_tokens_map.json", {"gguf_file": "a.gguf"}, "gguf_file"),
    "end that is no token": ("generation_config.json", {"eos_token_id": [2, "é"]}, "eos_token_id .* is 'é', .*a whole number"),
    "end beyond any vocabulary": ("generation_config.json", {"eos_token_id": 10**30}, "a whole number"),
    "positions that are no number": ("config.json", {"max_position_embeddings": "many"}, "max_position_embeddings"),
    "length that is a list": ("tokenizer_config.json", {"model_max_length": []}, "known: a number from 1"),
    "length that is no number": ("tokenizer_config.json", {"model_max_length": "a/b"}, "known: a number from 1"),
    "generating of its own": ("generation_config.json", {"custom_generate": OWN}, "custom_generate"),
}


@pytest.mark.parametrize("case", WRONG)
def test_value_that_chooses_code_is_refused_with_key_value_and_file(mine, case):
    file, changes, said = WRONG[case]
    say(mine, file, **changes)
    with pytest.raises(InputError, match=said) as error:
        find(str(mine), mine)
    assert str(mine / file) in str(error.value) and "\n" not in str(error.value)


QUANTIZED = {
    "file of Python in the place of a format": (
        {"quant_method": "compressed-tensors", "format": "/tmp/evil.py:run"},
        "format .* is '/tmp/evil.py:run'",
    ),
    "one in a group that is called as layers are": (
        {"quant_method": "compressed-tensors", "config_groups": {"ignore": {"format": "/tmp/evil.py:run"}}},
        "format .* is '/tmp/evil.py:run'",
    ),
    "function of torchao": (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "autoquant", "_data": {}}}},
        "_type .* is 'autoquant'",
    ),
    "kernels of its own": ({"quant_method": "gptq", "bits": 4, "kernel_config": {"layer": OWN}}, "layer .* is "),
    "tokenizer of the hub": ({"quant_method": "gptq", "bits": 4, "tokenizer": OWN}, "tokenizer .* is "),
    "method of no library": ({"quant_method": "odd"}, "is quantized already, by odd, which transformers does not know"),
    "no settings": ("gptq", "is quantized already, by gptq, which transformers does not know"),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_quantization_that_is_more_than_words_and_numbers_is_refused(mine, case):
    settings, said = QUANTIZED[case]
    say(mine, "config.json", quantization_config=settings)
    with pytest.raises(InputError, match=said):
        find(str(mine), mine)


def test_quantization_of_words_numbers_and_patterns_of_layers_is_taken(mine):
    about = {"meta": {"quantizer": ["gptqmodel:7.7.0"], "uri": "https://example.org"}, "version": "0.10.3.a20250410+cu128"}
    layers = {"modules_to_not_convert": ["lm_head"], "ignore": ["re:.*\\.gate$"], "targets": ["Linear"]}
    dtypes = {"weight_dtype": {"_type": "torch.dtype", "_data": "int4"}, "scale_dtype": "torch.bfloat16", "expert_dtype": "fp8"}
    say(mine, "config.json", quantization_config={"quant_method": "gptq", "bits": 4, **about, **layers, **dtypes})
    assert str(find(str(mine), mine).quantized) == "gptq at 4 bits"


@pytest.mark.parametrize("case", ["attention", "code of the tokenizer"])
def test_plan_run_judge_and_loading_refuse_it_alike(mine, write_study, tmp_path, case):
    file, changes, said = WRONG[case]
    say(mine, file, **changes)
    for study in ({"models": [str(mine)]}, {"models": [str(mine)], "weights": "random"}, {"perplexity": str(mine)}):
        with pytest.raises(InputError, match=said):
            load_study(write_study(**study))
    for load in (models.import_for, lambda *given: models.load(*given, "cpu")):
        with pytest.raises(models.LoadError, match=said):
            load(mine, "fp32")


@pytest.mark.parametrize("case", ["attention", "tokenizer that is none"])
def test_judges_refuse_it_when_they_are_found_and_when_they_are_loaded(tmp_path, case):
    file, changes, said = WRONG[case]
    folder = save_classifier(tmp_path / "judge")
    found_before = classifiers.find(str(folder), {}, tmp_path, EMOTIONS)
    say(folder, file, **changes)
    with pytest.raises(InputError, match=said):
        classifiers.find(str(folder), {}, tmp_path, EMOTIONS)
    with pytest.raises(InputError, match=said):
        found_before.probabilities(["yay"])


def test_values_that_are_known_are_taken_and_nothing_is_chosen_otherwise(mine):
    say(mine, "config.json", attn_implementation="eager", torch_dtype="bfloat16", auto_map={"AutoConfig": "a.B"})
    say(mine, "config.json", quantization_config=None, text_config={"attn_implementation": {"": "sdpa"}, "auto_map": None})
    say(mine, "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast", model_max_length=10**30)
    assert find(str(mine), mine).config["attn_implementation"] == "eager"


def test_attention_of_the_models_that_are_here_stays_sdpa(tiny_llama):
    model, tokenizer = models.load(tiny_llama, "bf16", "cpu")
    assert models.described(model, tokenizer)["attention"] == "sdpa"


def test_transformers_is_told_to_fetch_no_kernels():
    assert os.environ["USE_HUB_KERNELS"] == "NO" and not hub_kernels._kernels_enabled


def test_every_kind_whose_experts_are_kept_apart_has_its_bound():
    assert set(configuration.MOST_EXPERTS_APART) == set(experts.UNFUSED)


def test_every_model_of_the_catalog_is_data_and_of_a_known_size(tmp_path):
    for name in weights.generating():
        configuration.check_values(weights.catalog()[name]["config"], tmp_path)
        configuration.check_amounts(weights.catalog()[name]["config"], tmp_path)


KINDS = [
    transformers.LlamaConfig(vocab_size=512, **SIZES),
    transformers.Qwen2Config(vocab_size=512, **SIZES),
    transformers.MixtralConfig(vocab_size=512, num_local_experts=4, sliding_window=None, **SIZES),
    transformers.GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=2),
    transformers.Gemma2Config(vocab_size=512, head_dim=32, **SIZES),
]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.model_type)
def test_what_transformers_itself_saves_is_taken(tmp_path, config):
    assert find(str(save_tiny(tmp_path / "mine", config)), tmp_path).stored_dtype == "float32"


def test_shards_of_a_distributed_checkpoint_are_not_read_in_the_place_of_the_weights(mine):
    shutil.copy(mine / "model.safetensors", mine / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(InputError, match="holds a distributed checkpoint .*; save the model with save_pretrained"):
        find(str(mine), mine)


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers", "num_layers"])
def test_layers_that_the_weights_do_not_have_are_said_at_once(mine, key):
    # Two layers of nine tensors each, embedding, norm and head.
    with pytest.raises(InputError, match="asks for 800 layers, and the weights hold 21 tensors in all"):
        find(str(say(mine, "config.json", **{key: 800})), mine)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers .* is 1000000000, more than any model has; affq takes 1,000 at most"),
        ({"n_layer": 10**9}, "n_layer"),
        ({"text_config": {"decoder_layers": 10**9}}, "decoder_layers"),
        ({"num_local_experts": 10**6}, "num_local_experts .* affq takes 10,000 at most"),
        ({"num_local_experts": 9_000, "num_hidden_layers": 900}, "9,000 experts in each of 900 layers; affq takes 50,000"),
        ({"num_local_experts": 100, "num_hidden_layers": 60, "model_type": "mixtral"}, "affq takes 5,000 in all at most"),
        ({"num_labels": 10**9}, "num_labels"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"depths": [2, 10**9]}, "depths"),
    ],
)
def test_shape_that_no_model_has_is_refused_also_of_random_weights(mine, changes, said):
    with pytest.raises(InputError, match=said):
        find_architecture(str(say(mine, "config.json", **changes)), mine)


def test_where_memory_is_not_predicted_plan_says_why(mine, write_study):
    say(mine, "config.json", num_attention_heads=0)
    planned = memory.planned(load_study(write_study(models=[str(mine)])).runs()[0], memory.Machine("cpu", 1, 10**10))
    assert planned["peak_bytes"] is None
    assert planned["unpredicted"].startswith("a model cannot be built from its configuration (")


def test_model_type_that_transformers_does_not_know_is_said(mine):
    with pytest.raises(InputError, match=r"transformers \d\S+ knows no model_type 'odd' .*; is it a newer kind\? Update"):
        find(str(say(mine, "config.json", model_type="odd")), mine)


def test_classifier_of_a_kind_that_classifies_no_texts_is_refused(tmp_path):
    folder = say(save_classifier(tmp_path / "judge"), "config.json", model_type="vit")
    with pytest.raises(InputError, match="holds no classifier of texts"):
        checkpoints.check_configuration(folder, checkpoints.CLASSIFICATION)


def test_what_lies_beside_a_gguf_file_is_not_read(tmp_path):
    gguf = save_gguf(tmp_path / "folder.gguf")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": OWN}))
    (tmp_path / "cache").mkdir()
    weights.convert_gguf(gguf, tmp_path / "cache" / "fresh")
    assert find(str(tmp_path / "cache" / "fresh"), tmp_path).parameters == find(str(gguf), tmp_path).parameters
