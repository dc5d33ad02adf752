"""Checkpoints whose weights are quantized already: by which method, to how many bits, what loads them, which layers they are."""

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import safe_open

from affq.models.precisions import PRECISIONS, STORED

BITSANDBYTES, TORCHAO, COMPRESSED_TENSORS, GGUF = "bitsandbytes", "torchao", "compressed-tensors", "gguf"

# The packages by which transformers loads each method, as pip names them; torchao's range is that of affq's own extra.
PACKAGES = {
    BITSANDBYTES: ("bitsandbytes",),
    TORCHAO: ("torchao",),
    COMPRESSED_TENSORS: ("compressed-tensors",),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
}
# What transformers computes with kernels that it fetches from the hub while it runs, and without them turns into bf16.
FETCHES_KERNELS = ("eetq", "fbgemm_fp8", "fp8", "metal", "mxfp4", "mxfp8", "nvfp4")
# Others that transformers knows: an engine may load them, affq's transformers does not.
OTHERS = (
    *("aqlm", "auto-round", "bitnet", "fouroversix", "fp_quant", "gemma", "higgs", "hqq", "quanto", "quark", "sinq", "spqr"),
    "vptq",
)
METHODS = (*PACKAGES, *FETCHES_KERNELS, *OTHERS)
COMPILED = (TORCHAO,)  # the methods whose models torch compiles whole; what compressed-tensors unpacks, in pieces

CUDA_ONLY = "torchao has kernels for it on CUDA alone"

BITS_BY_NAME = re.compile(r"(?:fp|float)(\d+)")  # fp8, mxfp4
BITS_OF_TORCHAO = re.compile(r"(\d+)Weight")  # Int8DynamicActivationInt4WeightConfig
NUMBERS = ("I8", "U8", "I16", "I32", "F8_E4M3", "F8_E5M2")  # what holds packed weights, as safetensors names dtypes


@dataclass(frozen=True)
class Quantized:
    """How the weights of a checkpoint are quantized. bits: of a weight, scales not counted; None where that is not said."""

    method: str
    bits: int | None = None

    def __str__(self) -> str:
        return self.method if self.bits is None else f"{self.method} at {self.bits} bits"


def of_configuration(config: dict[str, Any]) -> Quantized | None:
    """Return how a checkpoint is quantized by its config.json, as checked; None for one that is not."""
    settings = config.get("quantization_config")
    return Quantized(method(settings), _bits(settings)) if settings else None


def method(settings: Any) -> str:
    """Return the method that a quantization_config names, as transformers takes it: by its keys of old, bitsandbytes."""
    if not isinstance(settings, dict):
        return str(settings)
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):
        return BITSANDBYTES
    return str(settings.get("quant_method", "an unnamed method"))


def _bits(settings: dict[str, Any]) -> int | None:
    """Return how many bits a quantization_config gives a weight; None where it does not say, or says several."""
    name = method(settings)
    bits: Any = None
    try:
        if name == BITSANDBYTES:
            bits = 4 if settings.get("load_in_4bit") else 8
        elif name == TORCHAO:
            kind = settings["quant_type"]["default"]
            named = BITS_OF_TORCHAO.search(kind["_type"]) or re.search(r"(\d+)", kind["_data"]["weight_dtype"]["_data"])
            bits = int(named[1]) if named else None
        elif name == COMPRESSED_TENSORS:
            (bits,) = {group["weights"]["num_bits"] for group in settings["config_groups"].values()}
        else:
            named = BITS_BY_NAME.search(name)
            bits = settings.get("bits", settings.get("w_bit", int(named[1]) if named else None))
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    return bits if type(bits) is int else None


def already(stored: Quantized) -> str:
    """Return why weights that are quantized already cannot be had at a precision of the table."""
    return f"its weights are quantized already, by {stored}; name precision {STORED}, or give the weights it was made from"


def needed(stored: Quantized | None, precision: str) -> tuple[str, ...]:
    """Return the packages, as pip names them, by which transformers loads a checkpoint at a precision, besides torch.

    stored: how the checkpoint is quantized.
    """
    if precision == STORED:
        return PACKAGES.get(stored.method, ()) if stored else ()
    library = PRECISIONS[precision].library
    return (library,) if library else ()


def lacks(stored: Quantized | None, precision: str) -> str | None:
    """Return which of those packages are not installed here, and how to get them; None where all are."""
    if not (missing := lacking(needed(stored, precision))):
        return None
    what = f"a checkpoint of {stored.method}" if stored and precision == STORED else precision
    wanted = "'affq[torchao]'" if missing == [TORCHAO] else " ".join(missing)
    return f"{what} needs {' and '.join(missing)}, not installed here: pip install {wanted}"


def lacking(packages: Sequence[str]) -> list[str]:
    """Return which of some packages, as pip names them, are not installed here."""
    here = versions(packages)
    return [name for name in packages if name not in here]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed here, by its name."""
    here = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            here[name] = version(name)
    return here


def layers(files: Iterable[Path]) -> set[str]:
    """Return the names of the layers whose weights safetensors files hold packed: matrices of whole numbers, or of 8-bit floats.

    Of bytes those of more dimensions are masks, which old checkpoints hold.
    """
    names = set()
    for file in files:
        with safe_open(file, framework="np") as opened:
            for key in opened.keys():
                tensor = opened.get_slice(key)
                dimensions = len(tensor.get_shape())
                if tensor.get_dtype() in NUMBERS and dimensions > 1 and (dimensions < 4 or tensor.get_dtype() != "U8"):
                    names.add(key.rpartition(".")[0])
    return names
