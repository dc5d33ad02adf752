"""GGUF files as llama.cpp reads them: what they hold, and others that are made of them, once, at another precision."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affq.models import quantized, weights
from affq.models.checkpoints import DTYPES

if TYPE_CHECKING:
    from affq.models.loading import Stored

# The types of GGML that files are made with, by the precision that asks for them. At any other a file is taken as it is.
TYPES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16", "q8_0": "Q8_0"}
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "q8_0": 34 / 32}  # of a weight: a scale of 2 bytes for 32 of q8_0
CELLS = 256  # llama.cpp makes room for a text's keys and values in steps of so many tokens
SPARE = 2  # tokens of that room that it leaves free
MADE_AS = 1  # it goes up when other files come of the same one


def at(published: Path, precision: str) -> Path:
    """Return the file that has a published one's model at a precision, present or not: itself, where it is taken as it is."""
    if precision not in TYPES:
        return published
    folder = f"gguf-{precision}-{MADE_AS}-{weights.remembered_sha256(published)[:12]}"
    return weights.cache() / folder / f"{published.stem}.{TYPES[precision]}.gguf"


def room(tokens: int) -> int:
    """Return for how many tokens llama.cpp makes room where a text and its prompt have so many."""
    return CELLS * math.ceil((tokens + SPARE) / CELLS)


def make(published: Path, precision: str, say: Callable[[str], None]) -> None:
    """Make the file that has a published one's model at a precision, in the cache, unless it is there."""
    target = at(published, precision)
    if target == published or weights.there(target.parent, say):
        return
    elements = sum(tensors.elements for tensors in weights.gguf_types(published).values())
    with weights.filling(target.parent, 4 * elements) as (_, fresh):
        say(f"Converting {published.name} to {precision}, once …")
        fresh.mkdir()
        _convert(published, fresh / target.name, TYPES[precision])


def _convert(published: Path, target: Path, type_name: str) -> None:
    """Write a file's model with its matrices in another type, a tensor at a time; all else stays as it is.

    What is float32 beside matrices of fewer bits stays so: llama.cpp reads norms, and what chooses experts, as float32 alone. So
    does a matrix whose rows are not made of whole blocks.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quants

    reader, wanted, float32 = GGUFReader(published), GGMLQuantizationType[type_name], GGMLQuantizationType.F32
    of_fewer_bits = weights.mostly(weights.gguf_types(published)) != "f32"

    def kind_of(tensor: Any) -> Any:
        whole_blocks = tensor.shape[0] % GGML_QUANT_SIZES[wanted][0] == 0  # a shape in these files begins with the rows' length
        stays = len(tensor.shape) < 2 or (of_fewer_bits and tensor.tensor_type == float32)
        return wanted if whole_blocks and not stays else float32

    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            of = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=of)
    writer.add_file_type(LlamaFileType["ALL_F32" if wanted == float32 else f"MOSTLY_{type_name}"])
    for tensor in reader.tensors:
        kind = kind_of(tensor)
        shape = quants.quant_shape_to_byte_shape([int(length) for length in reversed(tensor.shape)], kind)
        writer.add_tensor_info(tensor.name, shape, quants.np.dtype("uint8"), math.prod(shape), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(quants.quantize(quants.dequantize(tensor.data, tensor.tensor_type), kind_of(tensor)))
    writer.close()


def census(gguf: Path) -> "list[Stored]":
    """Count every tensor of a file, as loading.census counts parameters."""
    from gguf import GGUFReader

    return [
        {
            "name": tensor.name,
            "role": _role(tensor.name),
            "dtype": DTYPES.get(tensor.tensor_type.name, tensor.tensor_type.name.lower()),
            "method": None if tensor.tensor_type.name in DTYPES else quantized.GGUF,
            "bits": round(8 * int(tensor.n_bytes) / int(tensor.n_elements), 2),
            "elements": int(tensor.n_elements),
            "bytes": int(tensor.n_bytes),
        }
        for tensor in GGUFReader(gguf).tensors
    ]


def _role(name: str) -> str:
    """Return the role of a tensor by the name that llama.cpp gives it."""
    module, _, kind = name.rpartition(".")
    module = module.rpartition(".")[2]
    if kind == "bias":
        return "bias"
    named = {"token_embd": "embedding", "output": "head", "ffn_gate_inp": "router gate"}
    return named.get(module, "norm" if module.endswith("norm") else "weight")
