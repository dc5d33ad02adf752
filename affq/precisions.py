"""The table of precisions: how many bits a weight takes, in what its products are computed, how a model is loaded at it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Precision:
    """One entry of the table.

    bits: of one quantized weight, its scales not counted.
    compute_dtype: the torch dtype of activations, and of every weight that is not quantized.
    quantization: keyword arguments of transformers' BitsAndBytesConfig; empty for a plain floating-point precision.
    """

    bits: int
    compute_dtype: str
    quantization: dict = field(default_factory=dict)


# From the highest to the lowest: the first that a study names is its baseline. int8 is computed over bf16 on every device,
# so that one name means one arithmetic.
PRECISIONS = {
    "fp32": Precision(32, "float32"),
    "bf16": Precision(16, "bfloat16"),
    "fp16": Precision(16, "float16"),
    "int8": Precision(8, "bfloat16", {"load_in_8bit": True, "llm_int8_threshold": 6.0}),
    "nf4": Precision(
        4,
        "bfloat16",
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_use_double_quant": False,
        },
    ),
}
