"""Checkpoints that other tools have quantized: loaded as they are stored, each weight counted; or the sentence why not."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import A_PROMPT
from safetensors.torch import save_file

from affq.analysis import costs
from affq.errors import InputError
from affq.models import STORED, TRANSFORMERS, AskedEngine, fetch, lacks, loading, memory, sources, why_not
from affq.models.engines import COMPILED
from affq.models.quantized import Quantized
from affq.report import words
from affq.study import draft, load_study

# In a process of its own, without affq, as people make them: nf4 before its first product, which may repack it. What
# compressed-tensors holds comes from a calibration: here each scale is that of the largest weight of its row or group.
SAVE = """
import sys
from pathlib import Path
import torch, transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, apply_quantization_config
from torchao.quantization import Int8WeightOnlyConfig

tiny, out = map(Path, sys.argv[1:])
def load(**options):
    return transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16, device_map={"": "cpu"}, **options)

four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
for name, config in {
    "bnb-int8": transformers.BitsAndBytesConfig(load_in_8bit=True),
    "bnb-nf4": transformers.BitsAndBytesConfig(**four),
    "torchao-int8": transformers.TorchAoConfig(Int8WeightOnlyConfig()),
}.items():
    load(quantization_config=config).save_pretrained(out / name)
for name, bits, group in (("ct-int8", 8, None), ("ct-int4", 4, 32)):
    model, most = load(), 2 ** (bits - 1) - 1
    how = QuantizationArgs(num_bits=bits, symmetric=True, strategy="group" if group else "channel", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=how)
    apply_quantization_config(model, QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"]))
    for layer in model.modules():
        if hasattr(layer, "weight_scale"):
            largest = layer.weight.data.unflatten(1, (-1, group or layer.in_features)).abs().amax(-1)
            layer.weight_scale.data = (largest / most).to(torch.bfloat16)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(out / name)
    compressor.update_config(out / name)
"""
PLAIN = AskedEngine(TRANSFORMERS, TRANSFORMERS)

# Of a layer of 256 rows and 128 columns, worked by hand: bytes of packed weights, and what is kept beside them.
GATE_BYTES = {
    "bnb-int8": 256 * 128 + 4 * 256,  # a float32 scale a row
    "bnb-nf4": 256 * 128 // 2 + 4 * 256 * 128 // 64 + 4 * 16,  # a float32 scale for 64 weights, and the code book
    "torchao-int8": 256 * 128 + 4 * 256 + 256,  # a float32 scale and a zero point of a byte a row
    "ct-int8": 256 * 128 + 2 * 256 + 2 * 8,  # a bfloat16 scale a row, and the shape as two int64
    "ct-int4": 256 * 128 // 2 + 2 * 256 * 128 // 32 + 2 * 8,  # a bfloat16 scale for 32 weights
}
METHODS = {"bnb": "bitsandbytes", "torchao": "torchao", "ct": "compressed-tensors"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_llama):
    """A folder with the tiny model as each tool saves it."""
    out = tmp_path_factory.mktemp("saved")
    subprocess.run([sys.executable, "-c", SAVE, str(tiny_llama), str(out)], check=True, capture_output=True, text=True)
    for folder in out.iterdir():
        for file in [*tiny_llama.glob("tokenizer*"), *tiny_llama.glob("*.jinja")]:
            shutil.copy(file, folder)
    return out


@pytest.fixture
def said(tmp_path, tiny_llama):
    """A function that gives a copy of the tiny model a quantization_config, and finds it as a source."""

    def say(**settings):
        folder = shutil.copytree(tiny_llama, tmp_path / "mine", dirs_exist_ok=True)
        config = json.loads((tiny_llama / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
        return sources.find(str(folder), tmp_path)

    return say


@pytest.mark.parametrize("name", GATE_BYTES)
def test_checkpoint_is_loaded_as_it_is_stored_and_its_census_counts_what_holds_each_weight(saved, tiny_llama, name):
    folder, bits = saved / name, 4 if name.endswith("4") else 8
    source = sources.find(str(folder), saved)
    assert source.quantized == Quantized(METHODS[name.partition("-")[0]], bits)
    loading.import_for(folder, STORED)
    model, tokenizer = loading.load(folder, STORED, "cpu")
    rows = loading.census(model)
    loading.prove(rows, STORED, folder)
    assert sum(row["elements"] for row in rows) == source.parameters == sources.find(str(tiny_llama), saved).parameters
    (gate,) = [row for row in rows if row["name"] == "model.layers.0.mlp.gate_proj.weight"]
    assert (gate["method"], gate["bits"], gate["elements"]) == (source.quantized.method, bits, 256 * 128)
    assert gate["bytes"] == GATE_BYTES[name]
    assert {row["method"] for row in rows if row["role"] != "weight"} == {None}
    loading.compute_once(model, STORED, A_PROMPT)
    written = model.generate(A_PROMPT["input_ids"], max_new_tokens=4, do_sample=False)
    assert written.shape[1] > A_PROMPT["input_ids"].shape[1]
    assert loading.described(model, tokenizer)["kernels"] == source.quantized.method


def test_what_compressed_tensors_unpacks_for_good_is_said_and_nothing_else_is(saved):
    """Its weights are plain bfloat16 from the first product on: 2 bytes an element, the scales still beside them."""
    for name in ("ct-int8", "torchao-int8", "bnb-nf4"):
        model, _ = loading.load(saved / name, STORED, "cpu")
        loaded = loading.by_role(loading.census(model))
        loading.compute_once(model, STORED, A_PROMPT)
        served = loading.census(model)
        note = costs.unpacked({"census_loaded": loaded, "census": loading.by_role(served)})
        if name == "ct-int8":
            (gate,) = [row for row in served if row["name"] == "model.layers.0.mlp.gate_proj.weight"]
            assert (gate["method"], gate["bits"], gate["bytes"]) == (None, 16, 2 * 256 * 128 + 2 * 256 + 2 * 8)
            assert note == "compressed-tensors unpacked the weights when first used: 0.6 MB when loaded, 0.9 MB as they served"
        else:
            assert note is None


def test_plain_checkpoint_is_loaded_at_its_own_dtype(tmp_path, tiny_llama):
    loading.load(tiny_llama, "bf16", "cpu")[0].save_pretrained(tmp_path / "half")
    for folder, dtype in ((tiny_llama, "float32"), (shutil.copytree(tiny_llama, tmp_path / "copy"), "float32")):
        model, _ = loading.load(folder, STORED, "cpu")
        rows = loading.census(model)
        loading.prove(rows, STORED, folder)
        assert {row["dtype"] for row in rows} == {dtype}


def test_packed_weights_whose_configuration_does_not_say_how_are_refused(saved, tmp_path):
    folder = shutil.copytree(saved / "ct-int8", tmp_path / "unsaid")
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    packed = torch.zeros(128, 128, dtype=torch.int8)
    save_file({"model.norm.weight": packed, "lm_head.weight": packed.clone()}, folder / "model.safetensors")
    with pytest.raises(loading.LoadError, match="unsaid holds its weights as int8, and config.json does not say how"):
        loading.load(folder, STORED, "cpu")


def test_layer_that_is_packed_in_the_files_and_not_in_memory_fails_the_proof(saved):
    folder = saved / "ct-int8"
    model, _ = loading.load(folder, STORED, "cpu")
    loading.compute_once(model, STORED, A_PROMPT)  # which unpacks them all
    with pytest.raises(
        loading.PrecisionError, match="14 of the 14 layers that the files hold packed are not so when loaded, as "
    ):
        loading.prove(loading.census(model), STORED, folder)


def test_other_precision_of_quantized_weights_is_refused_by_the_plan_and_by_loading(saved):
    source = sources.find(str(saved / "bnb-nf4"), saved)
    why = "its weights are quantized already, by bitsandbytes at 4 bits; "
    why += "name precision stored, or give the weights it was made from"
    assert why_not(source, "bf16", PLAIN, "auto") == why and why_not(source, STORED, PLAIN, "auto") is None
    for at in (loading.import_for, lambda folder, precision: loading.load(folder, precision, "cpu")):
        with pytest.raises(loading.PrecisionError, match=f"bf16 cannot be had of this model: {why}"):
            at(saved / "bnb-nf4", "bf16")


@pytest.mark.parametrize("name, compiled", [("bnb-int8", False), ("ct-int4", False), ("torchao-int8", True)])
def test_only_what_torch_compiles_whole_is_compiled(saved, name, compiled):
    source = sources.find(str(saved / name), saved)
    why = why_not(source, STORED, AskedEngine(COMPILED, COMPILED), "auto")
    assert why is None if compiled else why == f"transformers does not compile what {source.quantized.method} has quantized"


def test_gguf_is_left_to_an_engine_that_takes_it_as_it_is(tiny_gguf, tmp_path):
    why = "transformers turns a GGUF file's weights into float32; llama.cpp takes them as they are"
    for model in (sources.find(str(tiny_gguf), tmp_path), sources.find("smollm2-135m", tmp_path)):
        assert why_not(model, STORED, PLAIN, "auto") == why
        assert why_not(model, "int8", PLAIN, "auto") is None


def test_quantized_weights_reckon_no_perplexity(said, write_study):
    folder = said(quant_method="awq", bits=4).folder
    with pytest.raises(InputError, match="perplexity is reckoned at fp32, and mine is quantized already, by awq at 4 bits; give"):
        load_study(write_study(perplexity=str(folder)))


def test_random_weights_are_stored_nowhere(tmp_path):
    shape = sources.find_architecture("smollm2-135m", tmp_path)
    assert why_not(shape, STORED, PLAIN, "auto").startswith("random weights are stored nowhere")


LACKING = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4},
        "a checkpoint of gptq needs gptqmodel and optimum, not installed here: pip install gptqmodel optimum",
    ),
    "awq": ({"quant_method": "awq", "bits": 4}, "a checkpoint of awq needs gptqmodel, not installed here: pip install gptqmodel"),
}


@pytest.mark.parametrize("method", LACKING)
def test_package_that_is_not_installed_is_named_before_anything_is_loaded(said, method):
    settings, sentence = LACKING[method]
    source = said(**settings)
    assert why_not(source, STORED, PLAIN, "auto") is None  # on another machine it is there: the study has the run
    assert lacks(source, STORED, PLAIN) == sentence
    with pytest.raises(InputError, match=sentence):
        fetch(source, STORED, PLAIN, print)
    with pytest.raises(loading.LoadError, match=sentence):
        loading.import_for(source.folder, STORED)


def test_new_study_of_a_quantized_folder_is_of_what_is_stored_and_its_plan_names_what_lacks(said, tmp_path):
    settings, sentence = LACKING["gptq"]
    study = draft(str(said(**settings).folder), tmp_path / "new.yaml").study
    assert study.precisions == (STORED,) and words.lacking([*study.runs(), *study.runs()]) == [f"Lacking: {sentence}"]


@pytest.mark.parametrize(
    "method, why",
    [("mxfp4", "transformers fetches its kernels for mxfp4 from the hub"), ("aqlm", "affq does not load what aqlm")],
)
def test_methods_that_transformers_would_fetch_kernels_for_or_that_were_never_tried_are_no_runs(said, method, why):
    assert why_not(said(quant_method=method), STORED, PLAIN, "auto").startswith(why)


def test_memory_of_what_is_stored_is_that_of_its_files_and_where_it_is_unpacked_of_plain_weights(saved, write_study):
    for name in GATE_BYTES:
        run = load_study(write_study(name, models=[str(saved / name)], precisions=[STORED])).runs()[0]
        predicted = memory.of_run(run, "cpu")
        plain = 2 * 426_624  # by hand in test_models: the elements of the tiny model, at bfloat16
        files = sum(file.stat().st_size for file in (saved / name).glob("*.safetensors"))
        assert predicted["weights_bytes"] == pytest.approx(plain if name.startswith("ct") else files, rel=0.02)
        assert predicted["peak_bytes"] > predicted["weights_bytes"]
