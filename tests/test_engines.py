"""Engines: what turns weights and prompts into tokens."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import affq

from affq.analysis import Results
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


# In a process of its own: torch's compiler minds what else was imported, as a test's plugins import it.
COMPILE = """
import json, sys
from pathlib import Path
import torch
from affq.inference import generate
from affq.models import COMPILED, load, make_ready
model, tokenizer = load(Path(sys.argv[1]), "fp32", torch.device("cpu"))
requests, graphs = json.loads(sys.argv[2]), torch._dynamo.utils.counters["stats"]
inputs = generate.prepare(model, tokenizer, requests)
longest = inputs["input_ids"].shape[1] + 8
usual, _ = generate.texts(model, tokenizer, requests, 8)
seconds = make_ready(model, "fp32", COMPILED, inputs, longest)
first, cache_bytes = generate.texts(model, tokenizer, requests, 8)
compiled = graphs["unique_graphs"]
second, _ = generate.texts(model, tokenizer, requests[::-1], 6)
once = compiled == graphs["unique_graphs"] >= 1
print(json.dumps([usual == first, once, [text["prompt_id"] for text in second], cache_bytes / longest, seconds["compile_s"]]))
"""


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here, which torch compiles for a CPU by")
def test_compiled_texts_are_the_usual_engines_at_fp32_and_batches_of_one_size_are_compiled_once(tiny_llama):
    command = [sys.executable, "-c", COMPILE, str(tiny_llama), json.dumps(REQUESTS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same, once, ids, bytes_a_token, compile_s = json.loads(done.stdout)
    assert same and once and ids == ["b", "a"] and compile_s > 0
    # Keys and values of two layers, two heads 32 wide, four bytes each, of two texts.
    assert bytes_a_token == 2 * 2 * 2 * 32 * 4 * 2


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here, which torch compiles for a CPU by")
def test_run_of_the_compiled_engine_says_how_long_it_compiled_and_int8_is_a_row(write_study, tmp_path, tiny_llama):
    study = write_study(models=[str(tiny_llama)], engine=COMPILED)
    assert affq("run", study.name, cwd=tmp_path).returncode == 1
    results = Results(load_study(study), tmp_path / "reports")
    assert results.summary["engine"].tolist() == [COMPILED] * 2
    assert results.summary["status"].tolist() == ["ok", "failed"] and "does not compile" in results.summary["note"][1]
    assert results.time_spent["compile_s"][0] > 1
