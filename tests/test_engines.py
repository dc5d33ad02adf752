"""Engines: what turns weights and prompts into tokens."""

import shutil

import pytest
import torch

from affq.inference import generate
from affq.models import COMPILED, PrecisionError, engines, load
from affq.study.study import load_study

REQUESTS = [
    {"prompt_id": number, "kind": "note", "emotion": "joy", "sample": 0, "request": request}
    for number, request in (("a", "Write."), ("b", "Write a note full of joy."))
]


def loaded(folder, precision="fp32"):
    return load(folder, precision, torch.device("cpu"))


def test_engine_is_part_of_a_runs_settings_and_stands_in_its_id_where_it_is_not_the_usual_one(write_study):
    usual, compiled = (load_study(write_study(name, engine=name)).runs()[0] for name in engines.ENGINES)
    assert usual.settings["engine"] == "transformers" and usual.id.count("--") == 2
    assert compiled.id.startswith("smollm2-135m--fp32--transformers-compiled--")


def test_what_transformers_would_not_compile_is_refused(tiny_llama):
    model, tokenizer = loaded(tiny_llama, "int8")
    with pytest.raises(PrecisionError, match="does not compile what bitsandbytes has quantized; leave engine: "):
        engines.make_ready(model, "int8", COMPILED, generate.prepare(model, tokenizer, REQUESTS[:1]), 64)
    assert engines.make_ready(model, "int8", "transformers", generate.prepare(model, tokenizer, REQUESTS[:1]), 64) == {}
    assert model.generation_config.cache_implementation is None


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here, which torch compiles for a CPU by")
def test_compiled_texts_are_those_of_the_usual_engine_at_fp32_and_two_batches_of_a_size_are_compiled_once(tiny_llama):
    model, tokenizer = loaded(tiny_llama)
    expected, _ = generate.texts(model, tokenizer, REQUESTS, 8)
    longest = generate.prepare(model, tokenizer, REQUESTS)["input_ids"].shape[1] + 8
    torch._dynamo.utils.counters.clear()
    assert engines.make_ready(model, "fp32", COMPILED, generate.prepare(model, tokenizer, REQUESTS), longest)["compile_s"] > 0
    texts, cache_bytes = generate.texts(model, tokenizer, REQUESTS, 8)
    assert texts == expected
    # Keys and values of two layers, two heads 32 wide, four bytes each, of two texts, for the longest.
    assert cache_bytes == 2 * 2 * 2 * 32 * 4 * 2 * longest
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled >= 1
    again, _ = generate.texts(model, tokenizer, REQUESTS[::-1], 6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    assert [text["prompt_id"] for text in again] == ["b", "a"]
