"""Load a model and its tokenizer at a precision, and prove that the precision took effect."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any, TypedDict

import torch
import transformers
from safetensors import safe_open
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

from affq import imports
from affq.inference import chat, generate
from affq.models import architectures, quantized
from affq.models.checkpoints import LoadError, check_configuration, examine, weight_files
from affq.models.configuration import LOCAL, NO_CODE
from affq.models.precisions import PRECISIONS, STORED, Precision, PrecisionError
from affq.models.quantized import Quantized

imports.models_of_transformers()
transformers.utils.logging.disable_progress_bar()
# bitsandbytes warns at every CPU product whose inputs are not float16: tens of thousands of lines, inside timed code.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# Buffers that old checkpoints of these models hold, and that their classes no longer read: causal masks.
OLD_MASKS = {"gpt2", "gpt_neo", "gptj"}, re.compile(r"(^|\.)attn(\.attention)?\.(masked_)?bias$")

# The last line of a traceback, in transformers' report of what it could not load.
RAISED = re.compile(r"^((?:\w+\.)*\w+Error: .+)$", re.M)

# What may stay unquantized when the linear layers are quantized. Anything else that does fails the run.
MAY_STAY = ("embedding", "head", "norm", "router gate", "bias")

# What a layer of a quantized checkpoint keeps of its one weight, each as a parameter or a buffer of its own.
OF_ONE_WEIGHT = re.compile(
    r"weight|(weight|input|output)_(packed|shape|scale|scale_inv|global_scale|zero_point|g_idx)|qweight|qzeros|scales|g_idx"
)
PLAIN = ("float64", "float32", "float16", "bfloat16")


class Stored(TypedDict):
    """One parameter as it is stored, counted once.

    role: embedding, head, norm, router gate, bias, or else weight. elements: of the unquantized shape. bytes: what is really
    stored, quantization state, scales and zero points counted. dtype: of the tensor that holds the weight itself; bits: of that
    one, for each element. method: what quantized it; None for a parameter that is a plain floating-point number.
    """

    name: str
    role: str
    dtype: str
    method: str | None
    bits: float
    elements: int
    bytes: int


def resolve_device(asked: str) -> str:
    """Return the torch device for `auto`, `cpu` or `cuda`; raise PrecisionError for a cuda that is not there."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise PrecisionError("the study asks for device 'cuda', and torch sees none here; use device: cpu, or auto")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def import_for(folder: Path, precision: str, seed: int | None = None) -> None:
    """Import all that loading and generating will need, by building the model without memory (on the meta device).

    Call it before the memory base is read: the base then holds the code, and what comes above it is the model's. Raises
    LoadError for weights of another shape than the configuration's: transformers does not look where it quantizes; and for a
    library that is not installed. seed: as for `load`, and then there are no weights to look at.
    """
    with _explained(folder):
        stored = quantized.of_configuration(check_configuration(folder))
    _need_precision(stored, precision)
    if words := quantized.lacks(stored, precision):
        raise LoadError(words)
    for package in quantized.needed(stored, precision):
        imports.quantizer(package)
    with _explained(folder):
        empty = empty_of(transformers.AutoConfig.from_pretrained(folder, **LOCAL), precision)
        if seed is not None or stored:  # packed weights have shapes of their own, and are held against their layers' names
            return
        asked: Any = {name: list(parameter.shape) for name, parameter in empty.named_parameters()}
        mapping = get_model_conversion_mapping(empty)
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        renamings: list[Any] = [entry for entry in mapping if entry not in converters]
        for file in weight_files(folder):
            with safe_open(file, framework="pt") as opened:
                for key in sorted(opened.keys()):
                    name, converted = rename_source_key(key, renamings, converters, empty.base_model_prefix, asked)
                    stored = opened.get_slice(key).get_shape()
                    if not converted and name in asked and stored != asked[name]:
                        raise _misfit(folder, f"{name} has the shape {stored}, where {asked[name]} is asked for")


def empty_of(config: transformers.PretrainedConfig, precision: str) -> transformers.PreTrainedModel:
    """Build a configuration's model on the meta device, where no weight takes memory, of the class that serves a precision."""
    unfused = _unfused(config, precision)
    with torch.device("meta"):
        return unfused(config) if unfused else transformers.AutoModelForCausalLM.from_config(config, **NO_CODE)


def _unfused(config: transformers.PretrainedConfig, precision: str) -> type[transformers.PreTrainedModel] | None:
    """Return the class that keeps a model's experts apart, or None: for a precision that does not quantize, or another model."""
    if not PRECISIONS[precision].quantization:
        return None
    from affq.models.experts import UNFUSED  # which imports Mixtral's code: only where it is needed

    return UNFUSED.get(config.model_type)


def load(
    folder: Path, precision: str, device: str, seed: int | None = None, room: dict[int | str, int] | None = None
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a safetensors folder at a precision of the table, prompts padded on the left.

    seed: draw random weights by it, whatever weights there are. room: bytes that each device may hold, as memory.room gives
    them; else all goes to one. Raises LoadError if it cannot be loaded, or if the configuration does not fit the weights.
    """
    entry = PRECISIONS[precision]
    with _explained(folder):
        stored = quantized.of_configuration(check_configuration(folder))
        config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
        unfused = _unfused(config, precision)
    _need_precision(stored, precision)
    if entry.cuda_only and device == "cpu":
        raise PrecisionError(f"{precision} cannot be computed on cpu: {quantized.CUDA_ONLY}; choose another precision")
    name = entry.compute_dtype
    if precision == STORED and not stored and (name := examine(folder).stored_dtype) not in PLAIN:
        raise LoadError(f"{folder.name} holds its weights as {name}, and config.json does not say how they were quantized")
    # What was quantized says itself what it is computed over.
    dtype = "auto" if stored else getattr(torch, name)
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}, "use_safetensors": True}
    if room:
        # One GPU is filled after the other: a model that fits one is on one, and the fewest wait for each other.
        options |= {"device_map": "sequential", "max_memory": room}
    # Weights that stay in the mapped file are as fast as the page cache happens to lie; only the precision that needs no
    # conversion would stay there. Read into memory, all precisions are alike. Experts are too large for that: they are read
    # weight by weight from the mapped file, so that a model which fits at 8 bits need not fit at 16.
    options["disable_mmap"] = device == "cpu" and not unfused
    if entry.quantization:
        options["quantization_config"] = _quantization(entry)
    with _explained(folder):
        if seed is None:
            loader: Any = unfused or transformers.AutoModelForCausalLM
            source: Path | None = folder
        else:
            empty, source = empty_of(config, precision), None
            loader, options["config"] = type(empty), config
            options["state_dict"] = architectures.draw(empty, options["dtype"], device, seed)
        model, names = loader.from_pretrained(source, output_loading_info=True, **options, **LOCAL)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left", **LOCAL)
    _names_fit(folder, model.config.model_type, names)
    if "disk" in getattr(model, "hf_device_map", {}).values():
        raise torch.OutOfMemoryError("the devices cannot hold the weights, and accelerate would read some from disk at each use")
    if unfused:
        for parameter in filter(torch.is_floating_point, model.parameters()):
            parameter.data = parameter.data.clone()  # out of the mapped file
    with _explained(folder):
        ends = ends_of(folder, tokenizer)
    # A checkpoint's own settings (suppressed tokens, time limits, penalties) would weigh in otherwise.
    start = model.generation_config.bos_token_id
    model.generation_config = transformers.GenerationConfig(bos_token_id=start, eos_token_id=ends or None)
    embedded = model.config.get_text_config().vocab_size
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= embedded:
        # What fills a shorter prompt is masked: any token that the model has will do, and the end of a text is the custom.
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(next((end for end in ends if end < embedded), 0))
    return model.eval(), tokenizer


def _need_precision(stored: Quantized | None, precision: str) -> None:
    """Raise PrecisionError for a precision that weights which are quantized already cannot be had at."""
    if stored and precision != STORED:
        raise PrecisionError(f"{precision} cannot be had of this model: {quantized.already(stored)}")


def _quantization(entry: Precision) -> Any:
    """Return what tells transformers to quantize to a precision."""
    if entry.library == quantized.BITSANDBYTES:
        return transformers.BitsAndBytesConfig(**entry.quantization)
    from torchao import quantization

    options = dict(entry.quantization)
    return transformers.TorchAoConfig(getattr(quantization, options.pop("torchao"))(**options))


def tokenizer_of(folder: Path) -> tuple[transformers.PretrainedConfig, transformers.PreTrainedTokenizerBase, list[int]]:
    """Return the configuration and the tokenizer of a folder, and the ids that end a text, as `load` has them; no weights."""
    with _explained(folder):
        check_configuration(folder)
        config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
        return config, tokenizer, ends_of(folder, tokenizer)


def ends_of(folder: Path, tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the tokens that end a text, wherever they are declared, the tokenizer's own first.

    The files are asked, not the model's configuration: that makes up what they leave out.
    """
    turn = chat.turn_end(tokenizer)
    declared: list[Any] = [tokenizer.eos_token_id, None if turn is None else tokenizer.convert_tokens_to_ids(turn)]
    for file in filter(Path.is_file, (folder / "generation_config.json", folder / "config.json")):
        settings = json.loads(file.read_bytes())
        for part in (settings, settings.get("text_config") or {}):
            ends = part.get("eos_token_id")
            declared += ends if isinstance(ends, list) else [ends]
    return list(dict.fromkeys(end for end in declared if type(end) is int and end >= 0))


def positions(model: transformers.PreTrainedModel) -> int | None:
    """Return how many tokens a model has positions for; None where they have no end, or it was trained with none.

    Those of RoBERTa and its kin begin after the padding's.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is None or most < 1:  # XLNet's have no end
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            return most - module.padding_idx - 1
    return most


def _names_fit(folder: Path, model_type: str, names: dict[str, Any]) -> None:
    """Raise LoadError for parameters that configuration or weights alone have: transformers would make them up, or drop them."""
    types, mask = OLD_MASKS
    if model_type in types:
        names["unexpected_keys"] = [name for name in names["unexpected_keys"] if not mask.search(name)]
    for kind, whose in (("missing_keys", "configuration"), ("unexpected_keys", "weights")):
        if names[kind]:
            raise _misfit(folder, f"{len(names[kind])} parameters are in the {whose} alone, as {min(names[kind])}")


def _misfit(folder: Path, words: str) -> LoadError:
    remedy = "give the config.json that was saved with these weights"
    return LoadError(f"the configuration of {folder.name} does not fit its weights: {words}; {remedy}")


def compute_once(model: transformers.PreTrainedModel, precision: str, inputs: Mapping[str, torch.Tensor]) -> None:
    """Compute the logits of a prompt; raise PrecisionError if this device has no kernel for the model at the precision.

    And if they are no numbers: weights beyond the range of float16, or damaged ones, would silently give empty texts. inputs: as
    generate.prepare makes them.
    """
    try:
        with torch.inference_mode():
            logits = model(**inputs).logits
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        _raise_if_memory(str(error), error)
        words = str(error).split("\n")[0]
        raise PrecisionError(
            f"{precision} cannot be computed on {model.device.type} for this model: {words}; choose another precision"
        ) from error
    if not torch.isfinite(logits).all():
        raise PrecisionError(f"{precision} gives logits of this model that are not finite numbers; {generate.NO_NUMBERS}")


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what transformers raises for an unusable folder into a LoadError that names the folder."""
    # transformers catches what quantizing a weight raises: its own error refers to the report that it logs.
    report, logger = BufferingHandler(capacity=1_000), logging.getLogger("transformers.modeling_utils")
    level, shown, logger.propagate = logger.level, logger.propagate, logger.propagate and logger.isEnabledFor(logging.WARNING)
    logger.setLevel(logging.WARNING)  # the report is needed also where its reader asked transformers to be quiet
    logger.addHandler(report)
    try:
        yield
    except (LoadError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged configuration or tokenizer ends in whatever its reader trips over
        caught = RAISED.findall("\n".join(record.getMessage() for record in report.buffer))
        named = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        words = caught[-1] if caught else f"{named}{error}"
        _raise_if_memory(words, error)
        words = words.replace(str(folder), folder.name)  # messages are published, the user's folders are not
        raise LoadError(f"cannot load {folder.name}: {words}") from error
    finally:
        logger.removeHandler(report)
        logger.setLevel(level)
        logger.propagate = shown


def _raise_if_memory(words: str, error: Exception) -> None:
    if "can't allocate memory" in words:  # torch's own words on a CPU, in a RuntimeError
        raise MemoryError(words) from error
    if "CUDA out of memory" in words:
        raise torch.OutOfMemoryError(words) from error


def census(model: transformers.PreTrainedModel) -> list[Stored]:
    """Count every parameter once; a tied one is the same parameter."""
    head = model.get_output_embeddings()
    method = method_of(model)
    seen: set[int] = set()
    rows: list[Stored] = []
    for path, module in model.named_modules():
        for name, elements, held in _held(module, seen):
            tensors = {tensor.data_ptr(): tensor for tensor in held}  # one that is kept under two names is one
            dtype = str(held[0].dtype).removeprefix("torch.")
            rows.append(
                {
                    "name": f"{path}.{name}",
                    "role": _role(module, name, head),
                    "dtype": dtype,
                    "method": None if dtype in PLAIN else method,
                    "bits": round(8 * held[0].nbytes / elements, 2) if elements else 0.0,
                    "elements": elements,
                    "bytes": sum(tensor.nbytes for tensor in tensors.values()),
                }
            )
    return rows


def method_of(model: transformers.PreTrainedModel) -> str | None:
    """Return what quantized a model, as its configuration names it; None for a model that is not."""
    method = getattr(model, "quantization_method", None)
    return None if method is None else str(getattr(method, "value", method))


def _held(module: torch.nn.Module, seen: set[int]) -> Iterator[tuple[str, int, list[torch.Tensor]]]:
    """Yield (name, elements, tensors that hold it, the weight itself first) of each parameter of a module that was not `seen`.

    What a layer keeps of one weight in several parameters and buffers is one, called weight.
    """
    parameters = dict(module.named_parameters(recurse=False))
    every = parameters | dict(module.named_buffers(recurse=False))
    parts = {name: tensor for name, tensor in every.items() if OF_ONE_WEIGHT.fullmatch(name)}
    if parts.keys() - {"weight"} and not seen.intersection(map(id, parts.values())):
        yield "weight", _elements(module, parts), _unwrapped(*parts.values())
        seen.update(map(id, parts.values()))
    for name, parameter in parameters.items():
        if id(parameter) in seen:
            continue  # tied: the head of many models is the embedding
        seen.add(id(parameter))
        state = getattr(parameter, "quant_state", None)
        shape = state.shape if state is not None else parameter.shape
        yield name, torch.Size(shape).numel(), [*_unwrapped(parameter.data), *_beside(module, parameter, state)]


def _elements(layer: Any, parts: Mapping[str, torch.Tensor]) -> int:
    """Return how many elements the weight has that a layer keeps in parts."""
    whole = parts.get("weight")
    return whole.numel() if whole is not None else int(layer.in_features) * int(layer.out_features)


def _unwrapped(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that hold some, the largest first: or those that a class of torchao's wraps, at any depth."""
    plain: list[torch.Tensor] = []
    for tensor in tensors:
        if is_traceable_wrapper_subclass(tensor):
            plain += _unwrapped(*(getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]))
        else:
            plain.append(tensor)
    return sorted(plain, key=lambda tensor: tensor.nbytes, reverse=True)


def _beside(module: torch.nn.Module, parameter: torch.nn.Parameter, state: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that bitsandbytes keeps beside a parameter."""
    # LLM.int8 keeps rows and scales on the parameter, and moves them to the layer's state at the first product.
    for holder in (parameter, getattr(module, "state", None)):
        for name in ("CB", "SCB"):
            if torch.is_tensor(tensor := getattr(holder, name, None)):
                yield tensor
    while state is not None:  # 4 bits: block scales, code book, and the same again if the scales are quantized
        yield from (t for t in (state.absmax, state.code, getattr(state, "offset", None)) if torch.is_tensor(t))
        state = getattr(state, "state2", None)


def _role(module: torch.nn.Module, name: str, head: torch.nn.Module | None) -> str:
    kind = type(module).__name__
    if name == "bias":
        return "bias"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if module is head:
        return "head"
    if "norm" in kind.lower():
        return "norm"
    return "router gate" if kind.endswith("Router") else "weight"


def prove(rows: Sequence[Stored], precision: str, folder: Path | None = None) -> None:
    """Raise PrecisionError unless a census shows the precision: every weight is held by its weight_dtype.

    Where the precision quantizes, MAY_STAY may be held by its compute_dtype instead. Of what is loaded as it is stored, every
    layer that the files of `folder` hold packed must be. The share that a message gives is of all parameters, by elements.
    """
    if precision == STORED:
        assert folder, "what is stored is held against its folder"
        return _prove_stored(rows, folder)
    entry = PRECISIONS[precision]
    wrong = [
        row
        for row in rows
        if row["dtype"] != entry.weight_dtype and (row["role"] not in MAY_STAY or row["dtype"] != entry.compute_dtype)
    ]
    if wrong:
        share = sum(row["elements"] for row in wrong) / sum(row["elements"] for row in rows)
        first = ", ".join(f"{row['name']} ({row['dtype']})" for row in wrong[:2])
        raise PrecisionError(
            f"{precision} did not take effect: {share:.1%} of all parameters are not {entry.weight_dtype}: {first}"
            + (f" and {len(wrong) - 2} more" if len(wrong) > 2 else "")
            + "; choose another precision for this model"
        )


def _prove_stored(rows: Sequence[Stored], folder: Path) -> None:
    packed, held = quantized.layers(weight_files(folder)), set()
    for row in rows:
        if row["method"]:  # the model may call a layer by a longer name than the files do
            names = row["name"].removesuffix(".weight").split(".")
            held |= {".".join(names[place:]) for place in range(len(names))}
    if lost := sorted(packed - held):
        problem = f"{len(lost)} of the {len(packed)} layers that the files hold packed are not so when loaded, as {lost[0]}"
        raise PrecisionError(f"{STORED} did not take effect: {problem}; give the weights it was made from")
    if not packed:
        dtype = examine(folder).stored_dtype
        if others := [row["name"] for row in rows if row["dtype"] != dtype and row["role"] not in MAY_STAY]:
            raise PrecisionError(f"{STORED} did not take effect: {len(others)} weights are not {dtype}, as {others[0]}")


def by_role(rows: Sequence[Stored]) -> list[dict[str, Any]]:
    """Return the sums of a census by its columns but names: {role, dtype, method, bits, parameters, elements, bytes}."""
    sums: dict[tuple[str, str, str | None, float], dict[str, Any]] = {}
    for row in rows:
        key = (row["role"], row["dtype"], row["method"], row["bits"])
        zero = {**dict(zip(("role", "dtype", "method", "bits"), key, strict=True)), "parameters": 0, "elements": 0, "bytes": 0}
        total = sums.setdefault(key, zero)
        total["parameters"] += 1
        total["elements"] += row["elements"]
        total["bytes"] += row["bytes"]
    return list(sums.values())


def described(model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what serves a loaded model: its class, attention implementation, dtype of activations, library of its products.

    chat_template: "none" where the model is given a prompt as it stands. ends: {token: id} that a text ends at. thinking_switch:
    whether the chat template turns thinking on and off.
    """
    return {
        "class": type(model).__name__,
        "attention": str(model.config._attn_implementation),
        "compute_dtype": str(model.dtype).removeprefix("torch."),
        "kernels": method_of(model) or "torch",
        "placed": _placed(model),
        "chat_template": "the tokenizer's" if chat.template_of(tokenizer) else "none",
        "thinking_switch": chat.has_switch(tokenizer),
        "ends": {str(tokenizer.convert_ids_to_tokens(end)): end for end in model.generation_config.eos_token_id or ()},
    }


def _placed(model: transformers.PreTrainedModel) -> str:
    """Return where a loaded model is: its device, or how many of its blocks each device holds."""
    places = getattr(model, "hf_device_map", {"": model.device}).values()  # there is no map for one device
    blocks = Counter(f"cuda:{place}" if isinstance(place, int) else str(place) for place in places)
    return ", ".join(f"{device} {count} blocks" for device, count in blocks.items()) if len(blocks) > 1 else next(iter(blocks))
