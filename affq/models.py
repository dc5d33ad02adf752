"""Load a model and its tokenizer at a precision, and prove that the precision took effect."""

import logging
from collections import Counter

import torch
import transformers
from safetensors import SafetensorError

from affq.precisions import PRECISIONS

transformers.utils.logging.disable_progress_bar()
# bitsandbytes warns at every CPU product whose inputs are not float16: tens of thousands of lines, inside timed code.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# Code that comes with a model is never run; said outright, since transformers would otherwise ask at the keyboard.
NO_CODE = {"trust_remote_code": False}

# What may stay unquantized when the linear layers are quantized. Anything else that does fails the run.
MAY_STAY = ("embedding", "head", "norm", "router gate", "bias")


class LoadError(RuntimeError):
    """The weights, the configuration or the tokenizer could not be loaded."""


class PrecisionError(RuntimeError):
    """The model, or the device, cannot be had as asked for."""


def resolve_device(asked):
    """Give the torch device for `auto`, `cpu` or `cuda`; raise PrecisionError for a cuda that is not there."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise PrecisionError("the study asks for device 'cuda', and torch sees none here; use device: cpu, or auto")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def import_for(folder, precision):
    """Import all that loading and generating will need, by building the model without memory (on the meta device).

    Call it before the memory base is read: the base then holds the code, and what comes above it is the model's.
    """
    if PRECISIONS[precision].quantization:
        import bitsandbytes  # noqa: F401

    with _explained(folder), torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(folder, **NO_CODE)
        if before := getattr(config, "quantization_config", None):
            # transformers would load it as it was quantized before, whatever is asked for.
            method = before.get("quant_method", "an unnamed method")
            raise PrecisionError(f"{folder.name} is quantized already, by {method}; give the weights it was made from")
        transformers.AutoModelForCausalLM.from_config(config, **NO_CODE)


def load(folder, precision, device):
    """Load (model, tokenizer) from a safetensors folder at a precision of the table, prompts padded on the left.

    Raises LoadError if it cannot be loaded.
    """
    entry = PRECISIONS[precision]
    options = {"dtype": getattr(torch, entry.compute_dtype), "device_map": {"": device}, "use_safetensors": True}
    # Weights that stay in the mapped file are as fast as the page cache happens to lie (fp32 took 2.1 or 3.0 s for one text);
    # only the precision that needs no conversion would stay there. Read into memory, all precisions are alike.
    options["disable_mmap"] = device == "cpu"
    if entry.quantization:
        options["quantization_config"] = transformers.BitsAndBytesConfig(**entry.quantization)
    with _explained(folder):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options, **NO_CODE).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left", **NO_CODE)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


class _explained:
    """Turns what transformers raises for an unusable folder into a LoadError that names the folder."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        if isinstance(error, (OSError, ValueError, KeyError, SafetensorError)):
            words = str(error).replace(str(self.folder), self.folder.name)  # messages are published, the user's folders are not
            raise LoadError(f"cannot load {self.folder.name}: {words}") from error


def census(model):
    """Count every parameter once: a list of {name, role, dtype, elements, bytes}.

    elements: of the unquantized shape. bytes: what is really stored, quantization state and scales counted.
    role: embedding, head, norm, router gate, bias, or else weight.
    """
    head, seen, rows = model.get_output_embeddings(), set(), []
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue  # tied: the head of many models is the embedding
            seen.add(id(parameter))
            state = getattr(parameter, "quant_state", None)
            shape = state.shape if state is not None else parameter.shape
            tensors = {t.data_ptr(): t.nbytes for t in _stored(module, parameter, state)}
            rows.append(
                {
                    "name": f"{path}.{name}",
                    "role": _role(module, name, head),
                    "dtype": str(parameter.dtype).removeprefix("torch."),
                    "elements": torch.Size(shape).numel(),
                    "bytes": sum(tensors.values()),
                }
            )
    return rows


def _stored(module, parameter, state):
    """Yield the tensors that hold one parameter: itself, and what bitsandbytes keeps beside it."""
    yield parameter.data
    # LLM.int8 keeps rows and scales on the parameter, and moves them to the layer's state at the first product.
    for holder in (parameter, getattr(module, "state", None)):
        for name in ("CB", "SCB"):
            if torch.is_tensor(tensor := getattr(holder, name, None)):
                yield tensor
    while state is not None:  # 4 bits: block scales, code book, and the same again if the scales are quantized
        yield from (t for t in (state.absmax, state.code, getattr(state, "offset", None)) if torch.is_tensor(t))
        state = getattr(state, "state2", None)


def _role(module, name, head):
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


def prove(rows, precision):
    """Raise PrecisionError unless a census shows the precision: every weight is held by its weight_dtype.

    Where it quantizes, MAY_STAY may be held by its compute_dtype instead. The share that a message gives is of all
    parameters, by elements.
    """
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


def by_role(rows):
    """Sum a census over (role, dtype): a list of {role, dtype, parameters, elements, bytes}."""
    parameters, elements, stored = Counter(), Counter(), Counter()
    for row in rows:
        key = (row["role"], row["dtype"])
        parameters[key] += 1
        elements[key] += row["elements"]
        stored[key] += row["bytes"]
    return [
        {"role": key[0], "dtype": key[1], "parameters": count, "elements": elements[key], "bytes": stored[key]}
        for key, count in parameters.items()
    ]


def described(model):
    """Say what serves this loaded model: attention implementation, dtype of activations, class, library of its products."""
    quantized = getattr(model, "is_quantized", False)
    return {
        "class": type(model).__name__,
        "attention": model.config._attn_implementation,
        "compute_dtype": str(model.dtype).removeprefix("torch."),
        "kernels": "bitsandbytes" if quantized else "torch",
    }
