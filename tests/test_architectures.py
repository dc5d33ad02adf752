"""Random weights in a model's shape: measured as trained ones are, never judged, never on the host at once."""

import csv
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from conftest import SIZES
from hypothesis import given
from hypothesis import strategies as st

from affq.errors import InputError
from affq.inference import generate
from affq.models import architectures, memory, weights
from affq.models import loading as models
from affq.study import load_study

AFFQ = Path(sys.executable).with_name("affq")
LLAMA = {"model_type": "llama", "vocab_size": 512, **SIZES}
MIXTRAL = {"model_type": "mixtral", "vocab_size": 512, "num_local_experts": 4, "num_experts_per_tok": 2, **SIZES}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")


def made(config):
    architectures.make(config)
    return architectures.folder(config)


def parameters_of(folder, precision, seed):
    return dict(models.load(folder, precision, "cpu", seed)[0].named_parameters())


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, {**LLAMA, "tie_word_embeddings": True}], ids=["llama", "mixtral", "tied"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_random_weights_take_what_is_predicted_and_prove_their_precision(config, precision):
    folder = made(config)
    models.import_for(folder, precision, seed=0)
    model, tokenizer = models.load(folder, precision, "cpu", seed=0)
    models.prove(models.census(model), precision)
    with torch.inference_mode():
        model(torch.arange(200)[None])  # experts are packed for the CPU when a token is first sent to them
    rows = models.census(model)
    assert sum(row["elements"] for row in rows) == architectures.parameters(config)
    predicted = memory.predict(config, precision, "cpu", memory.Sizes(1, 8, 8))
    assert sum(row["bytes"] for row in rows) == predicted["weights_bytes"]
    (text,), _ = generate.texts(model, tokenizer, [REQUEST], 4)
    assert text["prompt"] == REQUEST["request"]


REQUEST = {"prompt_id": "p", "kind": "general", "emotion": "joy", "sample": 0, "request": "Write a note full of joy."}


def test_mixtral_of_random_weights_has_its_experts_at_8_bits():
    model, _ = models.load(made(MIXTRAL), "int8", "cpu", seed=0)
    experts = [row for row in models.census(model) if "experts" in row["name"]]
    assert len(experts) == 2 * 4 * 3 and {row["dtype"] for row in experts} == {"int8"}


def test_matrices_are_normal_norms_are_ones_biases_are_zeros():
    folder = made({"model_type": "qwen2", "vocab_size": 512, "initializer_range": 0.05, **SIZES})
    found = parameters_of(folder, "fp32", seed=3)
    assert {name.rpartition(".")[2] for name in found} == {"weight", "bias"}
    for name, parameter in found.items():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            # 8,192 draws at least: the deviation's own error is under 0.8 %, the mean's under 0.0006.
            assert parameter.std().item() == pytest.approx(0.05, rel=0.04) and abs(parameter.mean().item()) < 0.003


def test_same_seed_gives_the_same_weights_another_seed_others():
    folder = made(LLAMA)
    first, again, other = (parameters_of(folder, "fp32", seed) for seed in (1, 1, 2))
    name = "model.layers.0.mlp.up_proj.weight"
    assert all(torch.equal(again[n], parameter) for n, parameter in first.items())
    assert not torch.equal(other[name], first[name])
    assert not torch.equal(first[name], first["model.layers.1.mlp.up_proj.weight"])


def test_a_weight_is_made_one_at_a_time_when_it_is_read(monkeypatch):
    """A model that was made whole before it is quantized would be at 16 bits on the host: 280 GB of Llama-2 70B at fp32."""
    alive, most = set(), []
    drawn = architectures.Drawn.__getitem__

    def counted(self, everything):
        tensor = drawn(self, everything)
        key = id(tensor)
        alive.add(key)
        most.append(len(alive))
        weakref.finalize(tensor, alive.discard, key)
        return tensor

    monkeypatch.setattr(architectures.Drawn, "__getitem__", counted)
    models.load(made(LLAMA), "int8", "cpu", seed=0)
    stays = 2 + 5 + 1  # embedding and head, norms; and the one that is being quantized
    assert len(most) == 2 + 5 + 2 * 7 and max(most) <= stays


@given(st.integers(300, 40_000))
def test_stand_in_tokenizer_fits_every_vocabulary(tmp_path_factory, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "cache", lambda: tmp_path_factory.getbasetemp() / "tokenizers")
        tokenizer = transformers.AutoTokenizer.from_pretrained(made({**LLAMA, "vocab_size": size}))
    tokens = tokenizer("Write a short message to a friend, ¿über 日本? \x00")["input_ids"]
    assert max(tokens) < size and tokenizer.decode(tokens) == "Write a short message to a friend, ¿über 日本? \x00"


def test_stand_in_tokenizer_needs_about_as_many_tokens_as_published_ones():
    tokenizer = transformers.AutoTokenizer.from_pretrained(made({**LLAMA, "vocab_size": 32_000}))
    study = load_study("paper-random")
    asked = study.requests
    tokens = sum(len(tokenizer(request["request"])["input_ids"]) for request in asked)
    assert 1.2 < tokens / sum(len(request["request"].split()) for request in asked) < 1.8  # published ones: 1.2 to 1.4


def test_packaged_study_has_the_papers_shapes_and_needs_no_network():
    runs = load_study("paper-random").runs()
    assert len(runs) == 16 and {run.settings["weights"] for run in runs} == {"random"}
    assert {run.model.stored_dtype for run in runs} == {None} and all("--" in run.id for run in runs)
    assert runs[0].model.parameters == 6_738_415_616  # Touvron et al. 2023


def test_random_and_trained_weights_are_other_runs(write_study, tiny_llama):
    ids = {
        run.id for kind in ("trained", "random") for run in load_study(write_study(models=[str(tiny_llama)], weights=kind)).runs()
    }
    assert len(ids) == 4


@pytest.mark.parametrize("value", ["no-such-model", "owner/name", "model.gguf"])
def test_what_has_no_shape_is_refused_with_the_choices(write_study, tmp_path, tiny_gguf, value):
    (tmp_path / "model.gguf").write_bytes(tiny_gguf.read_bytes())
    with pytest.raises(InputError, match="unknown model .* or a folder with its config.json"):
        load_study(write_study(models=[value], weights="random"))


@pytest.mark.full
def test_random_weights_are_measured_and_reported_and_never_judged(tmp_path, write_study):
    """Through the commands, from a folder that holds a configuration and nothing else."""
    (tmp_path / "shape").mkdir()
    (tmp_path / "shape" / "config.json").write_text(json.dumps(MIXTRAL))
    write_study(models=["shape"], precisions=["int8"], weights="random")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}

    def affq(*words):
        return subprocess.run([AFFQ, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = affq("run", "toy.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert affq("score", "toy.yaml").stderr.startswith("affq: study toy has random weights")
    done = affq("report", "toy.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "reports" / "toy" / "tables" / "summary.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["status"], row["weights"], row["note"].split("; ")[0]) == ("ok", "random", "random weights")
    assert row["emotion_f1"] == row["rougeL"] == row["texts"] == row["stored_dtype"] == ""
    assert int(row["weights_bytes"]) > 0 and float(row["latency_s"]) > 0 and int(row["peak_bytes"]) > 0
    page = (tmp_path / "reports" / "toy" / "index.html").read_text()
    assert "The weights are random" in page and "The judge" not in page and "emotion F1" not in page
    charts = {path.stem for path in (tmp_path / "reports" / "toy" / "charts").iterdir()}
    assert charts == {"memory", "latency"}
    (run,) = (tmp_path / "reports" / "toy" / "runs").glob("shape--int8--*")
    assert not (run / "scores").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "int8", "nf4"])
def test_random_weights_are_drawn_on_the_gpu(precision):
    folder, drawn = made(MIXTRAL), architectures.draw
    model, _ = models.load(folder, precision, "cuda", seed=0)
    models.prove(models.census(model), precision)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    empty = models.load(folder, "fp32", "cpu", seed=0)[0]
    assert all(weight[...].is_cuda for weight in drawn(empty, torch.float16, "cuda", 0).values())
