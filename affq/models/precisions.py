"""The table of precisions: how a weight is stored, in what its products are computed, how a model is loaded at it."""

from dataclasses import dataclass, field
from typing import Any


class PrecisionError(RuntimeError):
    """The model, or the device, cannot be had as asked for."""


@dataclass(frozen=True)
class Precision:
    """One entry of the table.

    weight_dtype: the torch dtype that holds the weights; uint8 holds two of 4 bits, int32 eight.
    compute_dtype: the torch dtype of activations, and of every weight that is not quantized.
    quantization: keyword arguments of transformers' BitsAndBytesConfig, or of a class of torchao's, which `torchao` names, or the
    type of GGML's, which `llama.cpp` names; empty for a plain floating-point precision.
    """

    weight_dtype: str
    compute_dtype: str
    quantization: dict[str, Any] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """Return how many bits a stored weight takes, scales not counted."""
        plain = {"float32": 32, "bfloat16": 16, "float16": 16}
        return (plain | {"int8": 8, "float8_e4m3fn": 8, "q8_0": 8, "uint8": 4, "int32": 4})[self.weight_dtype]

    @property
    def cuda_only(self) -> bool:
        """Return whether its products can be computed on CUDA alone."""
        return "int4_packing_format" in self.quantization

    @property
    def library(self) -> str | None:
        """Return the library that quantizes, by its name in Python; None for a precision that does not."""
        named = (library for library in ("torchao", "llama.cpp") if library in self.quantization)
        return next(named, "bitsandbytes") if self.quantization else None


def _in_4_bits(kind: str, double: bool = False) -> Precision:
    """Return the entry of a 4-bit kind: nf4 (NormalFloat) or fp4. double: its scales are quantized once more, to 8 bits."""
    options = {"quant_type": kind, "compute_dtype": "bfloat16", "use_double_quant": double}
    return Precision("uint8", "bfloat16", {"load_in_4bit": True} | {f"bnb_4bit_{name}": value for name, value in options.items()})


STORED = "stored"  # as the checkpoint was published, whatever that is

# From the highest to the lowest; of what was published as it is, the checkpoint says how high. What is quantized is computed
# over bf16 on every device, so that one name means one arithmetic.
PRECISIONS = {
    "fp32": Precision("float32", "float32"),
    "bf16": Precision("bfloat16", "bfloat16"),
    "fp16": Precision("float16", "float16"),
    "int8": Precision("int8", "bfloat16", {"load_in_8bit": True, "llm_int8_threshold": 6.0}),
    "nf4": _in_4_bits("nf4"),
    "nf4-dq": _in_4_bits("nf4", double=True),
    "fp4": _in_4_bits("fp4"),
    "fp4-dq": _in_4_bits("fp4", double=True),
    "int8wo": Precision("int8", "bfloat16", {"torchao": "Int8WeightOnlyConfig"}),
    "int8dq": Precision("int8", "bfloat16", {"torchao": "Int8DynamicActivationInt8WeightConfig"}),
    "fp8wo": Precision("float8_e4m3fn", "bfloat16", {"torchao": "Float8WeightOnlyConfig"}),
    # Groups of 64, each with a scale and a zero point of 16 bits: a weight takes as many bits as nf4's, 4.5. Packed for torch's
    # own kernels, which are for CUDA alone; those for other packings are in packages of their own.
    "int4wo": Precision(
        "int32",
        "bfloat16",
        {"torchao": "Int4WeightOnlyConfig", "group_size": 64, "int4_packing_format": "tile_packed_to_4d"},
    ),
    "q8_0": Precision("q8_0", "float32", {"llama.cpp": "Q8_0"}),
    STORED: Precision("", ""),
}
