"""Kernels of real models, profiled: what they are there for, and when."""

from functools import partial

import pandas as pd
import pytest

from affq.inference import generate, kernels
from affq.models import loading as models

REQUEST = {"prompt_id": "a", "emotion": "joy", "sample": 0, "request": "Write a note full of joy about the sea."}


def profiled(folder, precision, tokens=6):
    model, tokenizer = models.load(folder, precision, "cpu")
    inputs = generate.prepare(model, tokenizer, [REQUEST])
    return pd.DataFrame(kernels.profile(partial(generate.exactly, model, tokenizer), inputs, tokens, on_gpu=False))


@pytest.fixture(scope="module")
def int8(tiny_llama):
    return profiled(tiny_llama, "int8")


def test_quantized_products_are_counted_at_prefill_and_at_decode(int8):
    # Two layers of seven linear layers each, quantized: once at prefill, and for each of five further tokens.
    of = int8[int8["kernel"] == "bitsandbytes::int8_linear_matmul"].set_index("phase")
    assert of.loc["prefill", "calls"] == 14 and of.loc["decode", "calls"] == 5 * 14
    assert set(of["group"]) == {kernels.QUANTIZED}


def test_activations_are_quantized_once_for_each_product(int8):
    of = int8[int8["kernel"] == "bitsandbytes::int8_vectorwise_quant"].set_index("phase")
    assert of.loc["decode", "calls"] == 5 * 14 and set(of["group"]) == {kernels.ACTIVATIONS}


def test_what_a_quantized_product_calls_counts_as_quantized(int8):
    # A CPU with AVX-512 multiplies int8 itself; without it bitsandbytes multiplies what it has made floats of.
    products = int8[int8["kernel"].isin(["aten::_int_mm", "aten::mm", "aten::addmm"])]
    assert products[products["group"] == kernels.QUANTIZED].groupby("phase")["calls"].sum().to_dict() == {
        "prefill": 14,
        "decode": 70,
    }
    # The head is left at bfloat16: one plain product a token.
    plain = int8[(int8["kernel"] == "aten::mm") & (int8["group"] == kernels.PLAIN)].set_index("phase")
    assert plain.loc["prefill", "calls"] == 1 and plain.loc["decode", "calls"] == 5


def test_plain_precision_has_no_quantized_kernel(tiny_llama):
    found = profiled(tiny_llama, "fp32")
    assert set(found["group"]) == {kernels.PLAIN, kernels.ATTENTION, kernels.REST}
    products = found[found["kernel"] == "aten::mm"].set_index("phase")["calls"]
    assert products["prefill"] == 15 and products["decode"] == 5 * 15


def test_four_bits_are_quantized_products_without_quantized_activations(tiny_llama):
    found = profiled(tiny_llama, "nf4")
    groups = found.groupby("group")["seconds"].sum()
    assert groups[kernels.QUANTIZED] > 0 and kernels.ACTIVATIONS not in groups


def test_every_kernel_has_time_a_group_and_a_phase(int8):
    assert (int8["seconds"] >= 0).all() and int8["seconds"].sum() > 0 and (int8["calls"] > 0).all()
    assert set(int8["group"]) <= set(kernels.EVERY) and list(int8["phase"].unique()) == ["prefill", "decode"]
    assert kernels.FIRST_TOKEN not in set(int8["kernel"])


@pytest.mark.gpu
def test_kernels_of_a_gpu_have_the_gpus_time(tiny_llama):
    model, tokenizer = models.load(tiny_llama, "int8", "cuda")
    inputs = generate.prepare(model, tokenizer, [REQUEST])
    found = pd.DataFrame(kernels.profile(partial(generate.exactly, model, tokenizer), inputs, 6, on_gpu=True))
    assert found.groupby("group")["seconds"].sum()[kernels.QUANTIZED] > 0
