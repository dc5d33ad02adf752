"""Predict a run's memory before any weight is loaded: from the configuration alone, on the meta device.

The prediction is of what the quality pass and the resource pass measure: weights, key/value cache, activations, and what the
libraries take for themselves. The process around them (CONTEXT_BYTES) is in no peak, and counts where a run is to fit.
"""

import functools
import json
import math
from dataclasses import dataclass
from typing import Any, TypedDict

import psutil
import torch
import transformers

from affq import imports
from affq.errors import InputError
from affq.models import ggufs, loading, quantized
from affq.models.engines import LLAMA_CPP
from affq.models.engines.asked import AskedRun
from affq.models.precisions import PRECISIONS, STORED

BYTES = ("weights_bytes", "kv_bytes", "activation_bytes", "peak_bytes")
TOKENS_PER_WORD = 1.5  # of English; common tokenizers need 1.2 to 1.4
TEMPLATE_TOKENS = 40  # of a chat template with a system prompt of its own; most need fewer
# What torch's libraries take at the first products: scratch memory, and on a CPU the code that is read in then. Measured on a
# CPU from 17 MB (fp32) to 33 MB (int8); on a GPU cuBLAS alone takes as much, by its documentation, and nothing was measured.
LIBRARIES_BYTES = 25_000_000
# What a process holds besides its tensors: on a CPU its imports (as base_bytes of the default study's runs), on a GPU the
# driver's context with the libraries' kernels.
CONTEXT_BYTES = {"cpu": 470_000_000, "cuda": 800_000_000}


class Predicted(TypedDict):
    """The bytes that generating takes. peak_bytes: the others together, and LIBRARIES_BYTES."""

    weights_bytes: int
    kv_bytes: int
    activation_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Sizes:
    """What is generated at once: the number of texts, and of each the tokens of its prompt and the new ones."""

    batch: int
    prompt_tokens: int
    new_tokens: int


def predict(config: dict[str, Any], precision: str, device: str, sizes: Sizes) -> Predicted:
    """Predict the memory of a model at a precision, generating texts of these sizes.

    config: a mapping as in config.json. device: cpu or cuda, of this machine. Activations: of prefill, or of a decoding step
    where it needs more.
    """
    shape, packed = _shape(json.dumps(config, sort_keys=True), precision), _packs(precision, device)
    weights_bytes = sum(_stored_bytes(parameter, precision, packed) for parameter in shape.parameters)
    kv_bytes, activation_bytes = _kv_bytes(shape, precision, sizes), _activation_bytes(shape, precision, sizes, packed)
    peak_bytes = weights_bytes + kv_bytes + activation_bytes + LIBRARIES_BYTES
    return Predicted(weights_bytes=weights_bytes, kv_bytes=kv_bytes, activation_bytes=activation_bytes, peak_bytes=peak_bytes)


class Unpredictable(Exception):
    """A run whose memory cannot be predicted; it says why, in a few words."""


def of_run(run: AskedRun, device: str) -> Predicted | None:
    """Predict the pass of a run, quality or resource, that needs more; None where its model cannot be built on the meta device.

    That is so before a model is fetched that the catalog does not know.
    """
    try:
        return _of_run(run, device)
    except Unpredictable:
        return None


def _of_run(run: AskedRun, device: str, batch: int | None = None) -> Predicted:
    """Predict the pass of a run that needs more, in batches of the study's size or of another."""
    if run.engine.address:
        raise Unpredictable(f"it is that of the server at {run.engine.address}")
    study = run.study
    words = max(len(request["request"].split()) for request in study.requests)
    prompt_tokens = math.ceil(TOKENS_PER_WORD * words) + TEMPLATE_TOKENS
    largest = min(batch or study.batch, len(study.requests))
    passes = [(largest, study.generation.max_new_tokens), (1, study.measurement.new_tokens)]
    try:
        if run.engine.name == LLAMA_CPP:
            return _by_llama_cpp(run, Sizes(largest, prompt_tokens, max(new for _, new in passes)))
        predicted = [_predict(run, device, Sizes(texts, prompt_tokens, new)) for texts, new in passes]
    except Unpredictable:
        raise
    except InputError as error:
        raise Unpredictable(str(error)) from None
    except Exception as error:  # a damaged configuration ends in whatever its reader trips over
        words_of_it = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Unpredictable(f"a model cannot be built from its configuration ({words_of_it})") from None
    return max(predicted, key=lambda memory: memory["peak_bytes"])


def _predict(run: AskedRun, device: str, sizes: Sizes) -> Predicted:
    """Predict the memory of a run that generates texts of these sizes.

    What is loaded as it is stored takes the bytes of its files, and besides what a plain precision of its dtype does. Where
    layers are quantized, each is made whole for its product; compressed-tensors keeps them so.
    """
    model, config = run.model, {key: value for key, value in run.model.config.items() if key != "quantization_config"}
    if run.precision != STORED:
        return predict(config, run.precision, device, sizes)
    dtype = (config.get("dtype") or config.get("torch_dtype") or "bfloat16") if model.quantized else model.stored_dtype
    plain = next((name for name, entry in PRECISIONS.items() if entry.weight_dtype == dtype), None)
    if plain is None:
        raise Unpredictable(f"its weights are stored as {dtype}")
    predicted = predict(config, plain, device, sizes)
    if not model.quantized or model.quantized.method == quantized.COMPRESSED_TENSORS:
        return predicted
    whole = _largest_layer_bytes(_shape(json.dumps(config, sort_keys=True), plain), plain)
    more = model.stored_bytes - predicted["weights_bytes"]
    return predicted | {
        "weights_bytes": model.stored_bytes,
        "activation_bytes": predicted["activation_bytes"] + whole,
        "peak_bytes": predicted["peak_bytes"] + more + whole,
    }


@dataclass(frozen=True)
class Machine:
    """The memory at hand, in bytes of each device of a kind."""

    kind: str
    devices: int
    device_bytes: int

    def takes(self, weights_bytes: int, peak_bytes: int) -> int | None:
        """Count the devices of this kind that a run takes, its weights spread over them; None where no number would do.

        Each keeps room for all that generating needs besides the weights, as `room` leaves it.
        """
        left = self.device_bytes - CONTEXT_BYTES[self.kind] - (peak_bytes - weights_bytes)
        return math.ceil(weights_bytes / left) if left > 0 else None

    def holds(self, predicted: Predicted) -> bool:
        """Return whether the devices together hold a run."""
        devices = self.takes(predicted["weights_bytes"], predicted["peak_bytes"])
        return devices is not None and devices <= self.devices


def at_hand(device: str) -> Machine | None:
    """Return the memory that a study's `device` (auto, cpu, cuda) means here: that of the GPUs, or where there is none the RAM.

    None for cuda where there is none.
    """
    if device != "cpu" and torch.cuda.is_available():
        sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
        return Machine("cuda", len(sizes), min(sizes))
    if device == "cuda":
        return None
    return Machine("cpu", 1, psutil.virtual_memory().total)


def planned(run: AskedRun, machine: Machine | None) -> dict[str, Any]:
    """Return what affq plan shows of a run: its bytes, whether it `fits`, the `gpus` it takes; None for what is unknown.

    A run fits if the devices at hand hold it together. Without a GPU at hand it takes an unknown number. Where it does not fit,
    and would in smaller batches, batch_that_fits is the largest. Where nothing can be predicted, `unpredicted` says why.
    """
    unknown: dict[str, Any] = dict.fromkeys((*BYTES, "fits", "gpus", "batch_that_fits", "unpredicted"))
    try:
        predicted = _of_run(run, machine.kind if machine else "cuda")
    except Unpredictable as error:
        return {**unknown, "unpredicted": str(error)}
    if machine is None:
        return {**unknown, **predicted}
    gpus = machine.takes(predicted["weights_bytes"], predicted["peak_bytes"]) if machine.kind == "cuda" else None
    fits = machine.holds(predicted)
    smaller = None if fits else _batch_that_fits(run, machine)
    return {**unknown, **predicted, "fits": fits, "gpus": gpus, "batch_that_fits": smaller}


def _batch_that_fits(run: AskedRun, machine: Machine) -> int | None:
    """Return the largest batch below the study's in which a run fits; None where it does not alone."""
    fits, too_many = 0, min(run.study.batch, len(run.study.requests))
    while too_many - fits > 1:
        batch = (fits + too_many) // 2
        if machine.holds(_of_run(run, machine.kind, batch)):
            fits = batch
        else:
            too_many = batch
    return fits or None


def room(run: AskedRun, predicted: Predicted | None, device: str) -> dict[int | str, int] | None:
    """Return the bytes of weights that each GPU may hold, and with `offload` the RAM: {number or "cpu": bytes}.

    None where all goes to one device, and torch itself says if it does not fit. What generating needs besides the weights stays
    free on each GPU. Weights that are quantized are never offloaded: bitsandbytes would keep them as float32 there. Raises
    torch.OutOfMemoryError if the GPUs cannot hold the weights, and may not leave any to the RAM.
    """
    whole = not run.model.quantized if run.precision == STORED else not PRECISIONS[run.precision].quantization
    offload = run.study.offload and whole
    free = free_of_gpus() if device == "cuda" else []
    if len(free) < 2 and not (free and offload):
        return None
    beside = predicted["peak_bytes"] - predicted["weights_bytes"] if predicted else max(free) // 10
    left: dict[int | str, int] = {number: max(0, size - beside) for number, size in enumerate(free)}
    if predicted and not offload and predicted["weights_bytes"] > sum(left.values()):
        raise torch.OutOfMemoryError(
            f"the weights need {predicted['weights_bytes'] / 1e9:,.1f} GB, and {len(free)} GPUs hold "
            f"{sum(left.values()) / 1e9:,.1f} GB beside what generating needs"
        )
    return left | {"cpu": psutil.virtual_memory().available if offload else 0}


def free_of_gpus() -> list[int]:
    """Return the free bytes of each GPU."""
    return [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]


@dataclass(frozen=True)
class _Parameter:
    role: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Shape:
    config: transformers.PretrainedConfig
    parameters: tuple[_Parameter, ...]
    layers: tuple[tuple[int, int | None], ...]  # of the cache: (key and value elements of a token, tokens kept at most or None)


@functools.cache
def _shape(config: str, precision: str) -> _Shape:
    """Build the model on the meta device, and keep what counts of it."""
    model = loading.empty_of(transformers.AutoConfig.for_model(**json.loads(config)), precision)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    parameters = tuple(_Parameter(row["role"], shapes[row["name"].lstrip(".")]) for row in loading.census(model))
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = 2 * heads * _head_dim(text)
    windows = [getattr(layer, "sliding_window", None) for layer in transformers.DynamicCache(config=model.config).layers]
    windows = windows or [None] * text.num_hidden_layers
    return _Shape(text, parameters, tuple((width, window and window - 1) for window in windows))


def _head_dim(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _itemsize(precision: str) -> int:
    return getattr(torch, PRECISIONS[precision].compute_dtype).itemsize


def _quantized(parameter: _Parameter, precision: str) -> bool:
    return bool(PRECISIONS[precision].quantization) and parameter.role not in loading.MAY_STAY


def _packs(precision: str, device: str) -> bool:
    """Return whether bitsandbytes packs 4-bit layers anew at their first product: on CPUs that compute in bfloat16."""
    entry = PRECISIONS[precision]
    if device != "cpu" or entry.weight_dtype != "uint8" or entry.library != quantized.BITSANDBYTES:
        return False
    imports.bitsandbytes()
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


def _stored_bytes(parameter: _Parameter, precision: str, packed: bool) -> int:
    """Return the bytes that hold a parameter, as loading.census counts them after the first product.

    LLM.int8 keeps a float32 scale for each output row; 4 bits keep one for each block of 64 weights, which packing turns to
    bfloat16, and a code book of 16. Quantized once more, the scales are a byte, with a float32 for 256 of them, a code book of
    256 and a mean; packing undoes that, and leaves the mean. torchao keeps a float32 scale for each row of 8 bits, of int8 a zero
    point of a byte beside it; of 4 bits a scale and a zero point of 16 for each group, and rows filled up to a multiple of 1,024.
    """
    elements, entry = math.prod(parameter.shape), PRECISIONS[precision]
    if not _quantized(parameter, precision):
        return elements * _itemsize(precision)
    if entry.library == quantized.TORCHAO:
        columns = parameter.shape[-1]
        rows = elements // columns
        if entry.bits == 4:
            columns, rows = 1024 * math.ceil(columns / 1024), 8 * math.ceil(rows / 8)
            return rows * columns // 2 + 4 * rows * columns // entry.quantization["group_size"]
        return elements + rows * (5 if entry.weight_dtype == "int8" else 4)
    if entry.weight_dtype == "int8":
        return elements + 4 * elements // parameter.shape[-1]
    matrices = math.prod(parameter.shape[:-2])  # a mixture's experts are one parameter, and quantized each by itself
    blocks, double = math.ceil(elements / 64), entry.quantization["bnb_4bit_use_double_quant"]
    if packed:
        scales = 2 * blocks + double * matrices * 4
    elif double:
        scales = blocks + 4 * math.ceil(blocks / 256) + matrices * (256 * 4 + 4)
    else:
        scales = 4 * blocks
    return elements // 2 + scales + matrices * 16 * 4


def _kv_bytes(shape: _Shape, precision: str, sizes: Sizes) -> int:
    """Return the bytes of keys and values of all texts at their end; a layer with a sliding window keeps no more than that."""
    tokens = sizes.prompt_tokens + sizes.new_tokens - 1  # the last one is never read again
    elements = sum(width * min(tokens, most or tokens) for width, most in shape.layers)
    return sizes.batch * elements * _itemsize(precision)


def _activation_bytes(shape: _Shape, precision: str, sizes: Sizes, packed: bool) -> int:
    """Return the bytes of activations at the widest moment: of attention or the feed-forward layer in prefill, or of the logits.

    Counted as the layers of transformers' Llama hold them: what a line of its code reads and writes is there at once.
    """
    text, itemsize, tokens = shape.config, _itemsize(precision), sizes.batch * sizes.prompt_tokens
    hidden, heads = text.hidden_size, text.num_attention_heads * _head_dim(text)
    keys, inner = shape.layers[0][0] // 2, getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    experts = getattr(text, "num_experts_per_tok", None) or 1
    moments = {
        # Residual, its norm; gate, up and their product, for each expert that a token is sent to.
        "feed_forward": tokens * (2 * hidden + 3 * experts * inner) * itemsize,
        # Residual, its norm; queries, keys and values, rotated; keys and values repeated for each head; their output.
        "attention": tokens * (2 * hidden + 3 * heads + 3 * keys + 2 * heads * (keys < heads)) * itemsize,
        # The last token's alone, and a float32 copy of them.
        "logits": sizes.batch * text.vocab_size * (itemsize + 4),
    }
    if text._attn_implementation == "eager":
        moments["attention"] += tokens * text.num_attention_heads * sizes.prompt_tokens * (itemsize + 4)
    return max(moments.values()) + (0 if packed else _workspace_bytes(shape, precision, tokens))


def _workspace_bytes(shape: _Shape, precision: str, tokens: int) -> int:
    """Return what is needed for the largest quantized layer: its products as int32, or its weights as bfloat16."""
    if precision in ("int8", "int8dq"):
        # Inputs as float16 and as int8, products as int32 and as float16.
        layers = [parameter.shape[-2:] for parameter in shape.parameters if _quantized(parameter, precision)]
        return max(tokens * (3 * columns + 6 * rows) for rows, columns in layers)
    return _largest_layer_bytes(shape, precision) if PRECISIONS[precision].quantization else 0


def _largest_layer_bytes(shape: _Shape, precision: str) -> int:
    """Return the bytes of the largest layer that is quantized, or would be, as activations are held."""
    layers = [parameter.shape[-2:] for parameter in shape.parameters if parameter.role not in loading.MAY_STAY]
    return max((rows * columns for rows, columns in layers), default=0) * _itemsize(precision)


def _by_llama_cpp(run: AskedRun, sizes: Sizes) -> Predicted:
    """Predict what llama.cpp takes of its process's memory, where all room is made before the first text.

    Keys and values are float16, in a room of whole cells for each slot. Compute buffers are for the tokens that are computed at
    once, and with them the mask of attention; or for the logits of all slots. Each slot besides keeps its logits and its
    candidates for a token, 20 bytes for each token of the vocabulary. Measured with the llama.cpp of 2026.10 and Llama's layers.
    """
    shape = _shape(json.dumps(run.model.config, sort_keys=True), "fp32")
    text, slots = shape.config, sizes.batch
    room = ggufs.room(sizes.prompt_tokens + sizes.new_tokens)
    weights_bytes = run.model.gguf_bytes
    if run.precision in ggufs.TYPES:
        matrices = sum(math.prod(parameter.shape) for parameter in shape.parameters if len(parameter.shape) > 1)
        others = sum(math.prod(parameter.shape) for parameter in shape.parameters if len(parameter.shape) < 2)
        weights_bytes = round(matrices * ggufs.BYTES[run.precision]) + 4 * others
    kv_bytes = slots * room * 2 * sum(width for width, _ in shape.layers)
    tokens, inner = min(512, slots * room), getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    layer_bytes = 4 * tokens * (5 * text.hidden_size + 3 * inner)
    logits_bytes = 4 * (tokens * 11 * text.hidden_size // 2 + slots * text.vocab_size)
    activation_bytes = max(layer_bytes, logits_bytes) + 2 * tokens * room + slots * 20 * text.vocab_size
    peak_bytes = weights_bytes + kv_bytes + activation_bytes + LIBRARIES_BYTES
    return Predicted(weights_bytes=weights_bytes, kv_bytes=kv_bytes, activation_bytes=activation_bytes, peak_bytes=peak_bytes)
