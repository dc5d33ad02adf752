"""A configuration is data: what a model's files may say, where transformers would choose code by it, fetch some, or never end."""

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from affq.errors import InputError

# Code that comes with a model is never run, and nothing is fetched while one is loaded; said outright at every loader, since
# transformers would otherwise ask at the keyboard.
NO_CODE = {"trust_remote_code": False}
LOCAL = {**NO_CODE, "local_files_only": True}

# What a key may say, wherever it stands, besides null: transformers chooses code by it, and takes other words, such as the
# name of a repository, for code that is to be fetched.
IMPLEMENTATIONS = {
    "attn_implementation": ("eager", "sdpa"),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
DTYPES = ("float64", "float32", "float16", "bfloat16")

# Keys that may be there and say nothing: by them transformers reads other files than these, patches its classes, or fetches.
SILENT = frozenset(
    ("attribute_map", "backbone", "backbone_config", "base_model_name_or_path", "compression_config", "configuration_files")
    + ("custom_generate", "distributed_config", "extra_config_files", "extra_files", "fusion_config", "gguf_file", "init_inputs")
    + ("kernel_config", "model_args", "pretrained_cfg", "sub_configs", "sub_configs_defaults", "transformers_weights")
    + ("trust_remote_code", "use_kernels", "use_pretrained_backbone", "use_timm_backbone")
)

# What a quantization_config may say. A registry of compressed-tensors takes a word with a colon for a file of Python, and runs
# it; torchao calls whatever of its own a _type names. Names of layers may be patterns; `meta` says who made it, and is not read.
WORD = re.compile(r"[\w.+ -]{0,100}", re.ASCII)
TORCHAO_TYPE = re.compile(r"torch\.dtype|\w+(Config|Format|Algorithm|Preference|Type|Domain)|Per[A-Z]\w+", re.ASCII)
FREE = {"block_name_to_quantize", "ignore", "ignored_layers", "llm_int8_skip_modules", "module_name_preceding_first_block"}
FREE |= {"modules_in_block_to_quantize", "modules_to_convert", "modules_to_not_convert", "targets"}

# The names of transformers' tokenizers, and of what reads a tokenizer.json of whatever kind.
TOKENIZER_CLASS = re.compile(r"(?!Auto)\w+Tokenizer(Fast)?|(Tokenizers|Python|SentencePiece|MistralCommon)Backend", re.ASCII)
A_TOKENIZER = ("LlamaTokenizer", "PreTrainedTokenizerFast", "or another tokenizer of transformers")

# What is reckoned with before and after a model is built, besides the numbers of tokens.
NUMBERS = ("hidden_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "vocab_size")
LARGEST = 2**31 - 1
MAX_LENGTH = "model_max_length"  # of a tokenizer: a single number

# How much of something a model has at most, by how its key ends: several times the most of any published one. Building more
# would take hours, or the whole memory. What a text may be cut at is no size of the model.
MOST = (
    (re.compile(r"(layers?|depths?|blocks)$"), 1_000),
    (re.compile(r"(experts?|heads?|labels|groups?|codebooks)$"), 10_000),
    (re.compile(r"(?<!max_length)$"), LARGEST),
)
EXPERTS, LAYERS = re.compile(r"experts$"), re.compile(r"layers?$")
MOST_EXPERTS = 50_000  # of all layers, where those of a layer are one parameter
MOST_EXPERTS_APART = {"mixtral": 5_000}  # where affq keeps each as layers of its own: see experts.UNFUSED


def check_values(values: dict[str, Any], place: Path) -> None:
    """Raise InputError, with key and value, unless each value of a file of settings is one that affq knows to be data.

    values: what the JSON file at `place` holds: a model's configuration, its tokenizer's, or its generation settings.
    """
    for keys, value in _walk(values):
        key, inner = keys[-1], len(keys) > 1
        plain = _plain(key)
        if value and (plain in SILENT or re.fullmatch("__(?!float__).*__", key) or (plain == "auto_map" and inner)):
            remedy = "affq runs no code but that of transformers: leave it out, or choose another model"
            raise _refusal(key, value, place, remedy=remedy)
        if value and plain == "quantization_config" and inner:
            raise _refusal(key, value, place, remedy="give the weights that it was quantized from")
        if value is not None and (plain == MAX_LENGTH or not isinstance(value, (dict, list))):
            if keys[0] == "quantization_config" and plain.endswith("dtype"):
                continue  # float8_e4m3fn, torch.int8: of weights, not of the model; check_quantization holds its words
            _check_code(plain, key, value, place)


def check_quantization(settings: dict[str, Any], place: Path) -> None:
    """Raise InputError, with key and value, unless each word of a quantization_config is a plain one. place: its config.json."""
    for keys, value in _walk(settings):
        if not isinstance(value, str) or keys[-1] in FREE or keys[0] == "meta":
            continue
        if not (TORCHAO_TYPE if keys[-1] == "_type" else WORD).fullmatch(value):
            raise _refusal(keys[-1], value, place, remedy="give the weights that it was quantized from")


def check_amounts(values: dict[str, Any], place: Path) -> None:
    """Raise InputError, with key and value, for a configuration that asks for more of something than any model has."""
    experts = layers = 1
    for keys, value in _walk(values):
        if type(value) is not int:
            continue
        key = keys[-1]
        largest = next((largest for pattern, largest in MOST if pattern.search(key)), None)
        if largest is not None and abs(value) > largest:
            problem = f"{reprlib.repr(key)[1:-1]} in {{place}} is {reprlib.repr(value)}, more than any model has"
            raise InputError(problem, value=value, place=place, remedy=f"affq takes {largest:,} at most")
        experts = max(experts, value if EXPERTS.search(key) else 1)
        layers = max(layers, value if LAYERS.search(key) else 1)
    most = MOST_EXPERTS_APART.get(str(values.get("model_type")), MOST_EXPERTS)
    if experts * layers > most:
        problem = f"{{place}} asks for {experts:,} experts in each of {layers:,} layers"
        raise InputError(problem, value=experts, place=place, remedy=f"affq takes {most:,} in all at most")


def check_tokenizer(values: dict[str, Any], model_type: str, place: Path) -> None:
    """Raise InputError where a tokenizer's settings ask for code that is not transformers' own.

    values: what tokenizer_config.json holds, at `place`. model_type: of the model.
    """
    check_values(values, place)
    if "auto_map" in values:
        from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

        named = str(values.get("tokenizer_class")).removesuffix("Fast")
        if model_type not in TOKENIZER_MAPPING_NAMES and named not in {str(name) for name in TOKENIZER_MAPPING_NAMES.values()}:
            problem = f"{{place}} names code of its own (auto_map; tokenizer_class {named!r}), which affq never runs"
            raise InputError(problem, value=named, place=place, remedy="choose a model whose tokenizer transformers knows")


def _walk(values: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (keys, value) of each value under a key, within others too: a list, and then each value in it, under the list's keys.

    Under a key of IMPLEMENTATIONS the keys of a mapping are those of parts of the model: what it says is said of that key.
    """
    left: list[tuple[tuple[str, ...], Any]] = [((), values)]
    while left:
        keys, value = left.pop()
        if keys:
            yield keys, value
        if isinstance(value, dict):
            of_parts = bool(keys) and _plain(keys[-1]) in IMPLEMENTATIONS
            left += [((*keys, keys[-1] if of_parts else key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            left += [(keys, inner) for inner in value]


def _plain(key: str) -> str:
    """Return the name of an attribute that transformers keeps under others, too: _attn_implementation_internal."""
    return key.strip("_").removesuffix("_internal")


def _check_code(plain: str, key: str, value: Any, place: Path) -> None:
    """Raise InputError for a value that would choose code which affq does not know, or is no number where one is reckoned with.

    plain: the key without its marks.
    """
    if plain in IMPLEMENTATIONS and value not in IMPLEMENTATIONS[plain]:
        raise _refusal(key, value, place, IMPLEMENTATIONS[plain], "leave it out, and transformers chooses one of them")
    if plain.endswith("dtype") and isinstance(value, str) and value not in DTYPES:
        raise _refusal(key, value, place, DTYPES)
    if plain == "tokenizer_class" and not (isinstance(value, str) and TOKENIZER_CLASS.fullmatch(value)):
        raise _refusal(key, value, place, A_TOKENIZER)
    number = type(value) is int and abs(value) <= LARGEST
    if not number and (plain.endswith("_token_id") or plain in NUMBERS):
        raise _refusal(key, value, place, ("a whole number",))
    if plain == MAX_LENGTH and not (type(value) in (int, float) and value >= 1):
        raise _refusal(key, value, place, ("a number from 1",))
    if plain == "architecture" and not re.fullmatch(r"[\w.]+", str(value)):  # of a part that another library builds
        raise _refusal(key, value, place, remedy="choose a model of text alone")


def _refusal(key: str, value: Any, place: Path, choices: tuple[str, ...] = (), remedy: str | None = None) -> InputError:
    problem = f"{reprlib.repr(key)[1:-1]} in {{place}} is {reprlib.repr(value)}, which affq does not take from a model's files"
    return InputError(problem, value=value, place=place, choices=choices, remedy=remedy)
