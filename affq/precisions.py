"""The table of precisions: as what a weight is stored, in what its products are computed, how a model is loaded at it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Precision:
    """One entry of the table.

    weight_dtype: the torch dtype that holds the weights; uint8 holds two of 4 bits.
    compute_dtype: the torch dtype of activations, and of every weight that is not quantized.
    quantization: keyword arguments of transformers' BitsAndBytesConfig; empty for a plain floating-point precision.
    """

    weight_dtype: str
    compute_dtype: str
    quantization: dict = field(default_factory=dict)


# From the highest to the lowest: the first that a study names is its baseline. int8 is computed over bf16 on every device,
# so that one name means one arithmetic.
PRECISIONS = {
    "fp32": Precision("float32", "float32"),
    "bf16": Precision("bfloat16", "bfloat16"),
    "fp16": Precision("float16", "float16"),
    "int8": Precision("int8", "bfloat16", {"load_in_8bit": True, "llm_int8_threshold": 6.0}),
    "nf4": Precision(
        "uint8",
        "bfloat16",
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_use_double_quant": False,
        },
    ),
}
