"""Emotion classifiers behind one small interface, Judge: texts in, probabilities of emotions out. The packaged judges."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from affq import imports
from affq.errors import InputError
from affq.files import packaged_yaml
from affq.models import LOCAL, weights

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

JUDGES = Path(__file__).with_name("judges")
MAX_TOKENS = 256  # what the encoder was made for; more of a text is not read


class Judge(Protocol):
    """An emotion classifier, as scores and reports know it."""

    @property
    def name(self) -> str:
        """The judge's name, as tables show it and scores are kept under."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """What it can answer."""

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this judge from others, as its scores record it."""

    @property
    def card(self) -> dict[str, Any] | None:
        """The figures of how good it is; None where nobody knows."""

    @property
    def about(self) -> str | None:
        """The text of its card, Markdown; None where there is none."""

    @property
    def here(self) -> bool:
        """Whether its emotions are known without a download."""

    def need(self, emotions: Iterable[str]) -> None:
        """Raise InputError unless each of these emotions is an answer of it."""

    def fetch(self, say: Callable[[str], None]) -> None:
        """Bring what it needs here, which may reach the network."""

    def probabilities(self, texts: Sequence[str]) -> "np.ndarray":
        """Return the probability of each of `emotions` for each text: array of shape (texts, emotions)."""


@dataclass(frozen=True)
class PackagedJudge:
    """A packaged judge: a sentence encoder with low-rank updates and a linear head, and a temperature."""

    name: str

    here = True

    @cached_property
    def card(self) -> dict[str, Any]:
        return read_card(self.name)[0]

    @property
    def about(self) -> str:
        return read_card(self.name)[1]

    @property
    def emotions(self) -> tuple[str, ...]:
        return tuple(self.card["emotions"])

    def need(self, emotions: Iterable[str]) -> None:
        if lacking := [emotion for emotion in emotions if emotion not in self.emotions]:
            problem = f"judge {self.name} knows no {', '.join(lacking)}"
            raise InputError(problem, value=lacking[0], choices=self.emotions)

    def fetch(self, say: Callable[[str], None]) -> None:
        weights.fetch(self.card["encoder"], say)

    @property
    def identity(self) -> dict[str, Any]:
        decisive = ("weights_sha256", "encoder_sha256", "temperature", "emotions", "adapters")
        return {"judge": self.name} | {key: self.card[key] for key in decisive}

    @cached_property
    def classifier(self) -> "Classifier":
        """Load it. Its encoder must be in the cache. Raises InputError for damaged weights."""
        from safetensors.torch import load_file

        file = JUDGES / self.name / "weights.safetensors"
        weights.verify(file, self.card["weights_sha256"])
        return Classifier(weights.folder(self.card["encoder"]), load_file(file), self.card["adapters"])

    def probabilities(self, texts: Sequence[str], batch: int = 64) -> "np.ndarray":
        return probabilities(self.classifier.logits(texts, batch), self.card["temperature"])


def probabilities(logits: "np.ndarray", temperature: float) -> "np.ndarray":
    """Return softmax(logits / temperature), row by row (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""
    from scipy.special import softmax

    return softmax(logits / temperature, axis=1)


class Classifier:
    """A sentence encoder and a linear head over the mean of its last hidden states.

    folder: the encoder's. tensors: {head.weight: (emotions, width), head.bias: (emotions,)} and, for each module that has a
    low-rank update, {<module>.lora_A.weight: (rank, in), <module>.lora_B.weight: (out, rank)}. adapters: {r, lora_alpha}.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, "torch.Tensor"], adapters: Mapping[str, Any]) -> None:
        self.tokenizer, self.encoder = load_encoder(folder)
        self.weight, self.bias = (tensors[name].float() for name in ("head.weight", "head.bias"))
        # As peft merges them, without its import: that takes seconds, 200 MB, and a look for kernels on a hub.
        for name, down in tensors.items():
            if name.endswith(".lora_A.weight"):
                up = tensors[name.replace(".lora_A.", ".lora_B.")]
                weight = self.encoder.get_parameter(name.replace(".lora_A.weight", ".weight"))
                weight.data += adapters["lora_alpha"] / adapters["r"] * (up.float() @ down.float())

    def embed(self, texts: Sequence[str], batch: int = 64) -> "torch.Tensor":
        """Return the mean of each text's last hidden states: float32 tensor of shape (texts, width)."""
        import torch

        means = torch.empty(len(texts), self.encoder.config.hidden_size)
        lengths = [len(ids) for ids in self.tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]]
        by_length = sorted(range(len(texts)), key=lengths.__getitem__)  # little padding
        with torch.inference_mode():
            for start in range(0, len(texts), batch):
                where = by_length[start : start + batch]
                means[where] = mean_state(self.encoder, tokens(self.tokenizer, [texts[i] for i in where], MAX_TOKENS))
        return means

    def logits(self, texts: Sequence[str], batch: int = 64) -> "np.ndarray":
        """Return each text's logits: float32 array of shape (texts, emotions)."""
        return (self.embed(texts, batch) @ self.weight.T + self.bias).numpy()


def load_encoder(folder: Path) -> tuple["PreTrainedTokenizerBase", "PreTrainedModel"]:
    """Load the tokenizer and the model of a sentence encoder from its folder, in float32."""
    import torch
    import transformers

    imports.models_of_transformers()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
    options = {"use_safetensors": True, "dtype": torch.float32, "add_pooling_layer": False, **LOCAL}
    with saying_little():  # else it lists the pooler's weights, which the mean has no use for
        return tokenizer, transformers.AutoModel.from_pretrained(folder, **options).eval()


@contextlib.contextmanager
def saying_little() -> Iterator[None]:
    """Keep transformers' warnings off during the body of a `with` statement."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def tokens(tokenizer: "PreTrainedTokenizerBase", texts: list[str], most: int) -> "BatchEncoding":
    """Return the first `most` tokens of each text, padded to the longest, in eights: shapes that recur are computed faster."""
    return tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=most, pad_to_multiple_of=8)


def mean_state(encoder: "torch.nn.Module", inputs: "BatchEncoding") -> "torch.Tensor":
    """Return the mean of the last hidden states over each text's tokens: float32 tensor of shape (texts, width)."""
    hidden, mask = encoder(**inputs).last_hidden_state.float(), inputs["attention_mask"][:, :, None]
    return (hidden * mask).sum(1) / mask.sum(1)


def read_card(name: str) -> tuple[dict[str, Any], str]:
    """Return the card of a packaged judge: its figures, from the front matter of card.md, and its text."""
    _, front, text = (JUDGES / name / "card.md").read_text(encoding="utf-8").split("---\n", 2)
    return packaged_yaml(front), text.strip()


def packaged() -> list[str]:
    """Return the names of the packaged judges."""
    return sorted(path.parent.name for path in JUDGES.glob("*/card.md"))
