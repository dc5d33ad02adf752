"""A model without its weights: its configuration, a stand-in tokenizer, and random weights that are drawn where they are used.

What a model costs in memory and time follows from its shape, and not from what its weights have learnt.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affq.emotions import REFERENCES
from affq.models import weights

if TYPE_CHECKING:
    import torch
    import transformers

VOCABULARY = 4096  # of the stand-in: enough for a prompt's words to be a token or two, as with a published tokenizer
END = "<|end|>"


def folder(config: dict[str, Any]) -> Path:
    """Return the folder in the user's cache for an architecture, present or not. config: a mapping as in config.json."""
    return weights.cache() / f"random-{hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]}"


def make(config: dict[str, Any]) -> None:
    """Write the architecture's folder, unless it is there: config.json, and a tokenizer learnt from affq's reference texts.

    The published tokenizer is left alone even where it is at hand, so that one study asks the same everywhere.
    """
    if (target := folder(config)).is_dir():
        return
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    references = REFERENCES.read_text(encoding="utf-8").splitlines()
    most = transformers.AutoConfig.for_model(**config).get_text_config().vocab_size
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=min(most, VOCABULARY), special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([json.loads(line)["text"] for line in references], trainer)
    with weights.filling(target, needed_bytes=2_000_000) as (_, fresh):
        transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END).save_pretrained(fresh)
        (fresh / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def parameters(config: dict[str, Any]) -> int:
    """Count the parameters of an architecture, tied ones once."""
    import torch
    import transformers

    with torch.device("meta"):
        shape = transformers.AutoConfig.for_model(**config)
        empty = transformers.AutoModelForCausalLM.from_config(shape, trust_remote_code=False)
    return sum(parameter.numel() for parameter in empty.parameters())


@dataclass(frozen=True)
class Drawn:
    """A weight that does not exist before it is read, as if it were a slice of a file: transformers' loader reads it so.

    deviation: of the normal distribution that it is drawn from; None for a weight of ones. seed: its own.
    """

    shape: tuple[int, ...]
    dtype: "torch.dtype"
    device: str
    deviation: float | None
    seed: int

    def __getitem__(self, everything: Any) -> "torch.Tensor":
        import torch

        if self.deviation is None:
            return torch.ones(self.shape, dtype=self.dtype, device=self.device)
        drawn = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        return drawn.normal_(0, self.deviation, generator=torch.Generator(self.device).manual_seed(self.seed))


def draw(empty: "transformers.PreTrainedModel", dtype: "torch.dtype", device: str, seed: int) -> dict[str, Drawn]:
    """Return the weights of a model that was built on the meta device, by their names: a state_dict for from_pretrained.

    Matrices are normal, with the deviation that the configuration initializes by; norms are ones, biases zeros. One tensor is
    made at a time, on `device`, at `dtype`, and quantized there: the host never holds the model. A weight's draw depends on
    seed and name alone.
    """
    deviation = getattr(empty.config.get_text_config(), "initializer_range", 0.02)
    weights_by_name = {}
    for name, parameter in empty.named_parameters():
        spread = deviation if parameter.ndim > 1 else 0.0 if name.endswith("bias") else None
        weights_by_name[name] = Drawn(tuple(parameter.shape), dtype, device, spread, zlib.crc32(f"{seed} {name}".encode()))
    return weights_by_name
