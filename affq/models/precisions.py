"""The table of precisions: how a weight is stored, in what its products are computed, how a model is loaded at it."""

from dataclasses import dataclass, field
from typing import Any


class PrecisionError(RuntimeError):
    """The model, or the device, cannot be had as asked for."""


@dataclass(frozen=True)
class Precision:
    """One entry of the table.

    weight_dtype: the torch dtype that holds the weights; uint8 holds two of 4 bits.
    compute_dtype: the torch dtype of activations, and of every weight that is not quantized.
    quantization: keyword arguments of transformers' BitsAndBytesConfig; empty for a plain floating-point precision.
    """

    weight_dtype: str
    compute_dtype: str
    quantization: dict[str, Any] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """Return how many bits a stored weight takes, scales not counted."""
        return {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "uint8": 4}[self.weight_dtype]


def _in_4_bits(kind: str, double: bool = False) -> Precision:
    """Return the entry of a 4-bit kind: nf4 (NormalFloat) or fp4. double: its scales are quantized once more, to 8 bits."""
    options = {"quant_type": kind, "compute_dtype": "bfloat16", "use_double_quant": double}
    return Precision("uint8", "bfloat16", {"load_in_4bit": True} | {f"bnb_4bit_{name}": value for name, value in options.items()})


# From the highest to the lowest: the first that a study names is its baseline. What is quantized is computed over bf16 on
# every device, so that one name means one arithmetic.
PRECISIONS = {
    "fp32": Precision("float32", "float32"),
    "bf16": Precision("bfloat16", "bfloat16"),
    "fp16": Precision("float16", "float16"),
    "int8": Precision("int8", "bfloat16", {"load_in_8bit": True, "llm_int8_threshold": 6.0}),
    "nf4": _in_4_bits("nf4"),
    "nf4-dq": _in_4_bits("nf4", double=True),
    "fp4": _in_4_bits("fp4"),
    "fp4-dq": _in_4_bits("fp4", double=True),
}
