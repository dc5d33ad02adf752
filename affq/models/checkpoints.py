"""Look at a model folder without loading it: what its files say, and whether it can be loaded at all."""

import json
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from affq.errors import InputError
from affq.files import read_text
from affq.models import configuration, quantized

A_MODEL = "a model is a folder with config.json, safetensors weights and a tokenizer"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}
DTYPES |= {"F8_E5M2": "float8_e5m2", "I32": "int32", "I8": "int8", "U8": "uint8"}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # what families of models call how many layers they have
SETTINGS = ("generation_config.json", "special_tokens_map.json")  # what loading reads besides two other files of settings
DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")  # or, by the same name, tiktoken's
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
# What transformers reads of a folder besides the weights: an evaluation's results, or a trainer's state, is none of it.
CONFIGURATIONS = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"),
    *("vocab.json", "entity_vocab.json", "emoji.json", "byte_maps.json", "vocab.txt", "merges.txt", "dict.txt"),
)
TOKENIZER_PATTERNS = ("*.model", "*.jinja", "tokenizer.*.json", "additional_chat_templates/*.jinja")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")

# What a model is to do: write texts, or judge them.
GENERATION, CLASSIFICATION = "generation", "classification"

# Heads that do not write a text from left to right, as the names of architectures end.
OTHER_TASKS = (
    *("ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    *("ForMultipleChoice", "ForImageClassification", "ForSpeechSeq2Seq"),
)


class LoadError(RuntimeError):
    """The weights, the configuration or the tokenizer could not be loaded."""


@dataclass(frozen=True)
class Checkpoint:
    """What the headers of a folder's weight files say.

    stored_dtype: the torch dtype that takes most bytes. parameters: elements of all tensors, packed ones as they are stored.
    stored_bytes: of those tensors.
    """

    stored_dtype: str
    parameters: int
    stored_bytes: int


def examine(folder: Path, task: str = GENERATION) -> Checkpoint:
    """Read a model folder's configuration and the headers of its safetensors files.

    Raises InputError, with the file and the remedy, for a folder that cannot be loaded: no readable configuration or weights,
    pickle weights only, shards that are missing or cut, weights quantized by nobody knows what, code of its own, no tokenizer.
    """
    config = check_configuration(folder, task)
    bytes_of: dict[str, int] = {}
    parameters = tensors = 0
    for file in weight_files(folder):
        for dtype, elements, size in _tensors(file):
            bytes_of[dtype] = bytes_of.get(dtype, 0) + size
            parameters += elements
            tensors += 1
    if not parameters:
        raise InputError("the weight files of {place} hold no tensor", place=folder, remedy="copy the model again")
    layers = max((config[name] for name in LAYERS if type(config.get(name)) is int), default=0)
    if layers > tensors:
        # Said here, since building so many would take long.
        problem = f"{{place}} asks for {layers:,} layers, and the weights hold {tensors:,} tensors in all"
        raise InputError(problem, value=layers, place=folder / "config.json")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        problem = "{place} has no tokenizer (such as tokenizer.json)"
        raise InputError(problem, place=folder, remedy="copy it beside the weights")
    _need_tokenizer_libraries(folder)
    most = max(bytes_of, key=bytes_of.__getitem__)
    return Checkpoint(DTYPES.get(most, most.lower()), parameters, sum(bytes_of.values()))


def _need_tokenizer_libraries(folder: Path) -> None:
    """Raise InputError for a tokenizer in a format that transformers reads with libraries that are not here."""
    alone = [folder / name for name in SENTENCEPIECE if (folder / name).is_file()]
    if not alone or any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        return
    with open(alone[0], "rb") as opened:
        of_tiktoken = TIKTOKEN_LINE.match(opened.read(1000))
    needed = ("tiktoken",) if of_tiktoken else ("sentencepiece", "protobuf")
    if lacking := quantized.lacking(needed):
        libraries = " and ".join(lacking)
        problem = f"{{place}} has its tokenizer in {alone[0].name} alone, which is read with {libraries}: not installed here"
        remedy = f"pip install {' '.join(lacking)}, or copy the tokenizer.json that was made of it into the folder"
        raise InputError(problem, value=alone[0].name, place=folder, remedy=remedy)


def check_configuration(folder: Path, task: str = GENERATION) -> dict[str, Any]:
    """Return a folder's config.json; raise InputError unless it is that of a model that affq loads for the task.

    Nor may it, or the settings beside it, ask for code that is not transformers' own, or be of a size that no model has.
    """
    file = folder / "config.json"
    if (folder / "adapter_config.json").exists():
        remedy = "merge it into its model (PEFT's merge_and_unload), and name what comes of it"
        raise InputError("{place} holds an adapter", place=folder, remedy=remedy)
    if not file.is_file():
        hints = [*sorted(folder.glob("snapshots/*/config.json")), *sorted(folder.glob("*.gguf"))]
        hint = f"; did you mean {hints[0].parent if hints[0].suffix == '.json' else hints[0]}?" if hints else ""
        raise InputError("{place} has no config.json", place=folder, remedy=f"{A_MODEL}{hint}")
    config = _mapping(file)
    if not isinstance(config.get("model_type"), str):
        raise InputError("{place} names no model_type", place=file, remedy="is it a model's configuration?")
    if "transformers_weights" in config:
        problem = "{place} names weight files of its own (transformers_weights)"
        raise InputError(problem, place=file, remedy="name them as usual")
    if config.get("quantization_config"):
        _check_quantized(folder, config["quantization_config"], task)
    _refuse_unknown(folder, config)
    configuration.check_values(config, file)
    configuration.check_amounts(config, file)
    (_refuse_other_tasks if task == GENERATION else _refuse_no_classifier)(folder, config)
    for name in SETTINGS:
        if (settings := folder / name).is_file():
            configuration.check_values(_mapping(settings), settings)
    if (settings := folder / "tokenizer_config.json").is_file():
        configuration.check_tokenizer(_mapping(settings), config["model_type"], settings)
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up a folder's weights: model.safetensors, or the shards that its index names.

    Raises InputError where there are none, or not all of them.
    """
    index = folder / "model.safetensors.index.json"
    there = sorted(file.name for file in folder.iterdir() if file.is_file())
    if others := [name for name in there if DISTRIBUTED.fullmatch(name)]:
        problem = (
            f"{{place}} holds a distributed checkpoint ({others[0]}), which transformers would read in the place of the weights"
        )
        raise InputError(
            problem, value=others[0], place=folder, remedy="save the model with save_pretrained, and name that folder"
        )
    if (single := folder / "model.safetensors").is_file():
        return [single]
    if index.is_file():
        shards = _mapping(index).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise InputError("{place} has no weight_map from tensors to files", place=index, remedy="copy it again")
        names = sorted(set(shards.values()))
        # Names of files, not paths: what an index says must not lead out of its folder.
        if lost := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
            problem = f"{{place}} lacks {len(lost)} of its {len(names)} shards of weights: {lost[0]}"
            raise InputError(problem, value=lost[0], place=folder, remedy="fetch them again")
        return [folder / name for name in names]
    if pickles := [name for name in there if name.lower().endswith(PICKLES)]:
        problem = f"{{place}} has pickle weights only ({pickles[0]}), which can run code and are never loaded"
        remedy = "save the model as safetensors (save_pretrained does), or take a revision that has them"
        raise InputError(problem, value=pickles[0], place=folder, remedy=remedy)
    if ggufs := [name for name in there if name.lower().endswith(".gguf")]:
        remedy = f"name the file itself: {folder / ggufs[0]}"
        raise InputError("{place} has a GGUF file and no safetensors weights", place=folder, remedy=remedy)
    raise InputError("no weights", place=folder, remedy=A_MODEL)


def read_by_loading(folder: Path) -> list[Path]:
    """Return the files of a folder that loading reads, by name: weights, where it has some, configuration, tokenizer."""
    index = folder / "model.safetensors.index.json"
    try:
        weights = weight_files(folder)
    except InputError:
        weights = []  # the shape alone, whose weights are random
    named = [folder / name for name in (*CONFIGURATIONS, *TOKENIZER_FILES)]
    matching = [path for pattern in TOKENIZER_PATTERNS for path in folder.glob(pattern)]
    sharded = [index] if weights and weights[0].name != "model.safetensors" else []
    return sorted(path for path in {*weights, *sharded, *named, *matching} if path.is_file())


def _mapping(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{{place}}: {error.msg}", place=f"{path}, line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InputError("{place} is nested too deeply", place=path) from None
    if not isinstance(value, dict):
        raise InputError(f"{{place}} must hold a JSON object; it holds {type(value).__name__}", place=path)
    return value


def _tensors(file: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (dtype, elements, bytes) of each tensor in a safetensors file: 8 bytes of length, a JSON header, the data."""
    size = file.stat().st_size
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length) if length <= size - 8 else b""
    try:
        header = json.loads(text)
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        tensors = [(e["dtype"], prod(e["shape"]), e["data_offsets"][1] - e["data_offsets"][0]) for e in entries]
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
        plain = all(isinstance(d, str) and type(n) is int and type(b) is int and n >= 0 and b >= 0 for d, n, b in tensors)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        plain = False
    if not plain:
        problem = "{place} is no safetensors file"
        remedy = "a pointer that Git LFS left, or a download that was cut? Copy it again"
        raise InputError(problem, place=file, remedy=remedy)
    if end != size:
        problem = f"{{place}} has {size:,} bytes where its header asks for {end:,}"
        raise InputError(problem, value=size, place=file, remedy="it was cut: copy or fetch it again")
    yield from tensors


def _check_quantized(folder: Path, settings: Any, task: str) -> None:
    """Raise InputError unless a quantization_config is data, of a method that transformers knows, and of a model for texts."""
    method = quantized.method(settings)
    if method not in quantized.METHODS or not isinstance(settings, dict) or task != GENERATION:
        kind = "" if task == GENERATION else ", and a classifier is loaded as it was trained"
        problem = f"{{place}} is quantized already, by {reprlib.repr(method)[1:-1]}{kind or ', which transformers does not know'}"
        raise InputError(problem, value=method, place=folder, remedy="give the weights it was made from")
    configuration.check_quantization(settings, folder / "config.json")


def _refuse_other_tasks(folder: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # transformers would give an encoder's weights to a class that reads them from left to right, and such texts mean nothing.
    kind, architecture = config["model_type"], _architecture(config)
    other = architecture is not None and architecture.endswith(OTHER_TASKS)
    if other or (kind in CONFIG_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        problem = f"{{place}} holds no model that continues a text ({architecture or kind})"
        remedy = "choose one whose architecture in config.json ends with ForCausalLM or LMHeadModel"
        raise InputError(problem, value=architecture or kind, place=folder, remedy=remedy)


def _refuse_no_classifier(folder: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    architecture = _architecture(config) or config["model_type"]
    if not architecture.endswith("ForSequenceClassification") or config["model_type"] not in KNOWN:
        problem = f"{{place}} holds no classifier of texts ({architecture})"
        remedy = "choose one whose architecture in config.json ends with ForSequenceClassification"
        raise InputError(problem, value=architecture, place=folder, remedy=remedy)


def _architecture(config: dict[str, Any]) -> str | None:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else None


def _refuse_unknown(folder: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if (model_type := config["model_type"]) in CONFIG_MAPPING_NAMES:
        return
    if "auto_map" in config:
        problem = f"{{place}} needs code of its own (auto_map in config.json; model_type {model_type!r}), which affq never runs"
        raise InputError(problem, value=model_type, place=folder, remedy="choose a model that transformers knows")
    problem = f"transformers {version('transformers')} knows no model_type {reprlib.repr(model_type)} ({{place}})"
    raise InputError(problem, value=model_type, place=folder / "config.json", remedy="is it a newer kind? Update transformers")
