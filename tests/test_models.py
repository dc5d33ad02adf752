import json
import re
import shutil

import accelerate
import bitsandbytes
import pytest
import torch
import transformers
from bitsandbytes.functional import has_avx512bf16
from conftest import A_PROMPT, SIZES, save_tiny

from affq.models import checkpoints
from affq.models import loading as models
from affq.runner.trials import tried


def loaded(folder, precision):
    model, _ = models.load(folder, precision, "cpu")
    return model, models.census(model)


def test_census_counts_every_parameter_once_with_its_stored_bytes(tiny_llama):
    model, rows = loaded(tiny_llama, "fp32")
    # By hand, from the configuration: embedding 512·128; two layers of q, o 128·128, k, v 64·128, three of 256·128, two norms
    # of 128; a last norm; and the head, which is not tied: 512·128.
    elements = 2 * 512 * 128 + 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128 + 2 * 128) + 128
    assert sum(row["elements"] for row in rows) == elements == model.num_parameters()
    assert sum(row["bytes"] for row in rows) == 4 * elements


@pytest.mark.parametrize("precision", tried("cpu"))
def test_each_precision_takes_effect_and_keeps_the_elements(tiny_llama, precision):
    _, rows = loaded(tiny_llama, precision)
    models.prove(rows, precision)
    _, full = loaded(tiny_llama, "fp32")
    assert sum(row["elements"] for row in rows) == sum(row["elements"] for row in full)


@pytest.mark.parametrize(
    "raised, kind, said",
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 64 bytes"), MemoryError, "can't allocate memory: 64 bytes"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB."), torch.OutOfMemoryError, "CUDA out of memory. Tried 2 GiB."),
        (AssertionError("odd"), models.LoadError, "cannot load tiny-llama: AssertionError: odd"),
    ],
)
@pytest.mark.parametrize("level", ["warning", "critical"])
def test_what_ends_the_quantizing_of_a_weight_is_said_though_transformers_catches_it(
    tiny_llama, monkeypatch, raised, kind, said, level
):
    def full(*_, **__):
        raise raised

    monkeypatch.setattr(bitsandbytes.functional, "int8_vectorwise_quant", full)
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.log_levels[level])  # a user may have asked for silence
    try:
        with pytest.raises(kind, match=re.escape(said)):
            models.load(tiny_llama, "int8", "cpu")
        assert transformers.logging.get_verbosity() == transformers.logging.log_levels[level]
    finally:
        transformers.logging.set_verbosity(before)


def test_int8_stores_a_byte_a_weight_and_a_float_a_row(tiny_llama):
    _, rows = loaded(tiny_llama, "int8")
    (gate,) = [row for row in rows if row["name"] == "model.layers.0.mlp.gate_proj.weight"]
    held = {"dtype": "int8", "method": "bitsandbytes", "bits": 8, "elements": 256 * 128, "bytes": 256 * 128 + 4 * 256}
    assert gate == {"name": gate["name"], "role": "weight", **held}


def test_nf4_stores_half_a_byte_a_weight_a_float_a_block_of_64_and_its_code_book(tiny_llama):
    _, rows = loaded(tiny_llama, "nf4")
    (gate,) = [row for row in rows if row["name"] == "model.layers.0.mlp.gate_proj.weight"]
    assert (gate["dtype"], gate["elements"]) == ("uint8", 256 * 128)
    assert gate["bytes"] == 256 * 128 // 2 + 4 * 256 * 128 // 64 + 4 * 16


@pytest.mark.parametrize("precision", ["nf4-dq", "fp4-dq"])
def test_double_quantization_stores_a_byte_a_block_a_float_for_256_blocks_and_their_code_book(tiny_llama, precision):
    _, rows = loaded(tiny_llama, precision)
    (gate,) = [row for row in rows if row["name"] == "model.layers.0.mlp.gate_proj.weight"]
    blocks = 256 * 128 // 64
    assert gate["bytes"] == 256 * 128 // 2 + 4 * 16 + blocks + 4 * blocks // 256 + 4 * 256 + 4  # the last: their mean


def test_fp4_and_nf4_are_other_weights(tiny_llama):
    of = {name: models.load(tiny_llama, name, "cpu")[0] for name in ("fp32", "nf4", "fp4")}
    with torch.inference_mode():
        logits = {name: model(torch.arange(20)[None]).logits for name, model in of.items()}
    off = {name: (found - logits["fp32"]).norm() for name, found in logits.items()}
    assert 0 < off["nf4"] < off["fp4"]  # NormalFloat is made for normal weights (Dettmers et al. 2023)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_census_after_generating_finds_the_same_weights(tiny_llama, precision):
    """int8 moves its scales to the layer's state; nf4 repacks itself for some processors, with scales of half the size."""
    model, before = loaded(tiny_llama, precision)
    with torch.inference_mode():
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False)
    after = models.census(model)
    models.prove(after, precision)
    assert [row["elements"] for row in after] == [row["elements"] for row in before]
    scales = 4 * sum(row["elements"] for row in before if row["role"] == "weight") // 64 if precision == "nf4" else 0
    assert sum(row["bytes"] for row in before) - sum(row["bytes"] for row in after) in (0, scales // 2)


def test_room_places_a_model_and_what_it_cannot_hold_is_never_read_from_disk(tiny_llama):
    """The CPU in the place of a GPU: accelerate would leave on disk what no device has room for."""
    model, tokenizer = models.load(tiny_llama, "bf16", "cpu", room={"cpu": 10_000_000})
    assert models.described(model, tokenizer)["placed"] == "cpu"
    with pytest.raises(torch.OutOfMemoryError, match="cannot hold the weights"):
        models.load(tiny_llama, "bf16", "cpu", room={"cpu": 500_000})


def test_weights_that_are_offloaded_are_counted_as_the_others(tiny_llama):
    model, rows = loaded(tiny_llama, "bf16")
    accelerate.cpu_offload(model, execution_device="cpu")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert models.census(model) == rows


def test_blocks_on_several_devices_are_counted(tiny_llama):
    model, tokenizer = models.load(tiny_llama, "bf16", "cpu")
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "lm_head": "cpu"}
    assert models.described(model, tokenizer)["placed"] == "cuda:0 2 blocks, cuda:1 1 blocks, cpu 1 blocks"


def test_tied_head_is_counted_once(tmp_path):
    config = transformers.LlamaConfig(vocab_size=512, tie_word_embeddings=True, **SIZES)
    _, rows = loaded(save_tiny(tmp_path / "tied", config), "bf16")
    assert [row["role"] for row in rows].count("embedding") == 1 and "head" not in {row["role"] for row in rows}


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_experts_that_stay_unquantized_fail_their_proof(tiny_moe, precision):
    _, rows = loaded(tiny_moe, precision)
    with pytest.raises(models.PrecisionError, match=rf"{precision} did not take effect: .*experts.gate_up_proj \(bfloat16\)"):
        models.prove(rows, precision)


def test_mixtral_at_a_plain_precision_is_proved(tiny_mixtral):
    _, rows = loaded(tiny_mixtral, "bf16")
    models.prove(rows, "bf16")
    assert {"embedding", "head", "norm", "router gate", "weight"} == {row["role"] for row in rows}


def test_a_model_at_another_dtype_fails_its_proof(tiny_llama):
    _, rows = loaded(tiny_llama, "bf16")
    with pytest.raises(models.PrecisionError, match="fp32 did not take effect: 100.0% of all parameters are not float32"):
        models.prove(rows, "fp32")


def test_biases_of_quantized_layers_may_stay(tmp_path):
    config = transformers.Qwen2Config(vocab_size=512, **SIZES)
    _, rows = loaded(save_tiny(tmp_path / "qwen", config), "int8")
    models.prove(rows, "int8")
    assert {row["dtype"] for row in rows if row["role"] == "bias"} == {"bfloat16"}


def test_summed_by_role_a_census_keeps_its_totals(tiny_llama):
    _, rows = loaded(tiny_llama, "int8")
    summed = models.by_role(rows)
    assert sum(r["bytes"] for r in summed) == sum(r["bytes"] for r in rows)
    assert sum(r["parameters"] for r in summed) == len(rows)
    assert {(r["role"], r["dtype"]) for r in summed} == {
        ("weight", "int8"),
        *((role, "bfloat16") for role in ("embedding", "norm", "head")),
    }


def test_described_says_what_serves(tiny_llama):
    model, tokenizer = models.load(tiny_llama, "int8", "cpu")
    assert models.described(model, tokenizer) == {
        "class": "LlamaForCausalLM",
        "attention": "sdpa",
        "compute_dtype": "bfloat16",
        "kernels": "bitsandbytes",
        "placed": "cpu",
        "chat_template": "the tokenizer's",
        "thinking_switch": False,
        "ends": {"<|end|>": 0},
    }
    tokenizer.chat_template = None
    assert models.described(model, tokenizer)["chat_template"] == "none"


def test_what_is_held_at_another_dtype_than_its_precision_fails(tiny_llama):
    """Two bits of arithmetic apart: nf4 weights are no int8, and an embedding at float32 is no part of a bf16 model."""
    _, rows = loaded(tiny_llama, "nf4")
    with pytest.raises(
        models.PrecisionError,
        match="int8 did not take effect: .* are not int8: model.layers.0.self_attn.q_proj.weight \\(uint8\\)",
    ):
        models.prove(rows, "int8")
    _, rows = loaded(tiny_llama, "int8")
    rows[0]["dtype"] = "float32"
    with pytest.raises(models.PrecisionError, match="model.embed_tokens.weight \\(float32\\)"):
        models.prove(rows, "int8")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"num_hidden_layers": 3}, "9 parameters are in the configuration alone, as model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "9 parameters are in the weights alone, as model.layers.1.input_layernorm.weight"),
        ({"intermediate_size": 128}, r"model.layers.\d.mlp.\w+.weight has the shape \[.*\], where \[.*\] is asked for"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_configuration_that_does_not_fit_its_weights_is_a_load_error(tmp_path, tiny_llama, precision, change, said):
    """transformers would make up what is missing and drop what is too much, with a warning."""
    copy = shutil.copytree(tiny_llama, tmp_path / "changed")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(models.LoadError, match=f"the configuration of changed does not fit its weights: {said}; give the config"):
        models.import_for(copy, precision)
        models.load(copy, precision, "cpu")


def test_causal_masks_of_old_checkpoints_are_no_misfit(tmp_path):
    """GPT-2's early checkpoints hold them as buffers; its class no longer reads them."""
    from safetensors.torch import load_file, save_file

    config = transformers.GPT2Config(vocab_size=512, n_embd=64, n_layer=1, n_head=2, n_positions=64)
    folder = save_tiny(tmp_path / "gpt2", config)
    stored = load_file(folder / "model.safetensors")
    masks = {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file({**stored, **masks}, folder / "model.safetensors", {"format": "pt"})
    models.load(folder, "fp32", "cpu")
    save_file({**stored, "transformer.h.0.attn.other": torch.tensor(-1e4)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(models.LoadError, match="1 parameters are in the weights alone"):
        models.load(folder, "fp32", "cpu")


def test_generation_settings_of_a_checkpoint_do_not_weigh_in(tmp_path, tiny_llama):
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    own = json.loads((copy / "generation_config.json").read_text())
    extra = {"suppress_tokens": list(range(1, 500)), "max_time": 1e-9, "guidance_scale": 3.0}
    (copy / "generation_config.json").write_text(json.dumps({**own, **extra}))
    inputs = torch.tensor([[5, 6, 7]])
    made = [
        models.load(folder, "fp32", "cpu")[0].generate(inputs, do_sample=False, max_new_tokens=6) for folder in (tiny_llama, copy)
    ]
    assert torch.equal(*made)


def test_sharded_weights_are_those_of_the_whole(tmp_path, tiny_llama):
    whole, tokenizer = models.load(tiny_llama, "fp32", "cpu")
    whole.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    tokenizer.save_pretrained(tmp_path / "sharded")
    assert len(checkpoints.weight_files(tmp_path / "sharded")) > 2
    sharded, _ = models.load(tmp_path / "sharded", "fp32", "cpu")
    assert all((sharded.state_dict()[name] == tensor).all() for name, tensor in whole.state_dict().items())
    assert checkpoints.examine(tmp_path / "sharded") == checkpoints.examine(tiny_llama)


@pytest.mark.parametrize("without", [("pad_token",), ("pad_token", "eos_token")])
def test_tokenizer_without_a_pad_token_pads_with_the_end_of_text(tmp_path, tiny_llama, without):
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k not in without}))
    _, tokenizer = models.load(copy, "fp32", "cpu")
    assert tokenizer.pad_token == "<|end|>"


@pytest.mark.skipif(not has_avx512bf16(), reason="4-bit kernels of a CPU without AVX-512 bf16 take any width")
def test_precision_without_a_kernel_for_the_model_is_said_before_generating(tmp_path):
    """bitsandbytes' 4-bit kernels of a CPU with AVX-512 bf16 refuse a width that is no multiple of their block."""
    config = transformers.LlamaConfig(vocab_size=512, **{**SIZES, "intermediate_size": 100})
    model, rows = loaded(save_tiny(tmp_path / "odd", config), "nf4")
    models.prove(rows, "nf4")
    with pytest.raises(models.PrecisionError, match="nf4 cannot be computed on cpu for this model: .*; choose another precision"):
        models.compute_once(model, "nf4", A_PROMPT)


def test_operation_that_the_device_lacks_is_said_before_generating(tiny_llama):
    model, _ = loaded(tiny_llama, "fp32")
    model.model.layers[0].mlp.forward = lambda states: torch.fft.fft(states.half())  # no CPU has it at float16
    with pytest.raises(models.PrecisionError, match="fp32 cannot be computed on cpu .*; choose another precision"):
        models.compute_once(model, "fp32", A_PROMPT)


def test_precision_with_its_kernels_computes(tiny_llama):
    for precision in tried("cpu"):
        model, _ = loaded(tiny_llama, precision)
        models.compute_once(model, precision, A_PROMPT)


def test_precision_whose_kernels_are_for_cuda_alone_says_so_on_a_cpu(tiny_llama):
    with pytest.raises(
        models.PrecisionError, match="int4wo cannot be computed on cpu: torchao has kernels for it on CUDA alone; choose"
    ):
        models.load(tiny_llama, "int4wo", "cpu")


def test_torchao_stores_a_byte_a_weight_and_a_float_a_row_and_of_int8_a_zero_point(tiny_llama):
    for precision, dtype, row_bytes in (("int8wo", "int8", 5), ("int8dq", "int8", 5), ("fp8wo", "float8_e4m3fn", 4)):
        _, rows = loaded(tiny_llama, precision)
        (gate,) = [row for row in rows if row["name"] == "model.layers.0.mlp.gate_proj.weight"]
        assert (gate["dtype"], gate["method"], gate["bits"], gate["elements"]) == (dtype, "torchao", 8, 256 * 128)
        assert gate["bytes"] == 256 * 128 + row_bytes * 256


def test_truncated_weights_are_a_load_error(tmp_path, tiny_llama):
    copy = shutil.copytree(tiny_llama, tmp_path / "cut")
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(models.LoadError, match="cannot load cut: "):
        models.load(copy, "fp32", "cpu")


def test_unloadable_folder_is_a_load_error_that_names_it(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(models.LoadError, match=f"cannot load {tmp_path.name}: "):
        models.load(tmp_path, "fp32", "cpu")


def test_cuda_where_there_is_none_is_refused():
    if torch.cuda.is_available():
        assert models.resolve_device("auto") == models.resolve_device("cuda") == "cuda"
    else:
        assert models.resolve_device("auto") == models.resolve_device("cpu") == "cpu"
        with pytest.raises(models.PrecisionError, match="asks for device 'cuda'"):
            models.resolve_device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", tried("cuda"))
def test_each_precision_takes_effect_on_a_gpu(tiny_llama, precision):
    model, _ = models.load(tiny_llama, precision, "cuda")
    models.prove(models.census(model), precision)
