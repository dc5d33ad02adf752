"""Emotion classifiers behind one small interface: texts in, probabilities of emotions out.

A judge has a `name`, its `emotions` (what it can answer), an `identity` (what its scores record of it), a `card` (figures of how
good it is; None where nobody knows), `need(emotions)`, `fetch(say)` and `probabilities(texts)`.
"""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from affq.errors import InputError
from affq.models import weights

JUDGES = Path(__file__).with_name("judges")
MAX_TOKENS = 256  # what the encoder was made for; more of a text is not read


@dataclass(frozen=True)
class Judge:
    """A packaged judge: a sentence encoder with low-rank updates and a linear head, and a temperature."""

    name: str

    @cached_property
    def card(self):
        """Give its card's figures: the front matter of its card.md."""
        return read_card(self.name)[0]

    @property
    def about(self):
        """Give its card's text, Markdown."""
        return read_card(self.name)[1]

    @property
    def emotions(self):
        return tuple(self.card["emotions"])

    def need(self, emotions):
        """Raise InputError unless each of these emotions is an answer of it."""
        if lacking := [emotion for emotion in emotions if emotion not in self.emotions]:
            raise InputError(f"judge {self.name} knows no {', '.join(lacking)}; known: {', '.join(self.emotions)}")

    def fetch(self, say):
        """Bring its encoder into the cache, which may reach the network."""
        weights.fetch(self.card["encoder"], say)

    here = True  # its emotions are known without a download

    @property
    def identity(self):
        """Give what tells this judge from others, as its scores record it."""
        return {"judge": self.name} | {key: self.card[key] for key in ("weights_sha256", "encoder_sha256", "temperature")}

    @cached_property
    def classifier(self):
        """Load it. Its encoder must be in the cache. Raises InputError for damaged weights."""
        from safetensors.torch import load_file

        file = JUDGES / self.name / "weights.safetensors"
        weights.verify(file, self.card["weights_sha256"])
        return Classifier(weights.folder(self.card["encoder"]), load_file(file), self.card["adapters"])

    def probabilities(self, texts, batch=64):
        """Give the probability of each emotion for each text: array of shape (texts, emotions)."""
        return probabilities(self.classifier.logits(texts, batch), self.card["temperature"])


def probabilities(logits, temperature):
    """Give softmax(logits / temperature), row by row (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""
    from scipy.special import softmax

    return softmax(logits / temperature, axis=1)


class Classifier:
    """A sentence encoder and a linear head over the mean of its last hidden states.

    folder: the encoder's. tensors: {head.weight: (emotions, width), head.bias: (emotions,)} and, for each module that has a
    low-rank update, {<module>.lora_A.weight: (rank, in), <module>.lora_B.weight: (out, rank)}. adapters: {r, lora_alpha}.
    """

    def __init__(self, folder, tensors, adapters):
        self.tokenizer, self.encoder = load_encoder(folder)
        self.weight, self.bias = (tensors[name].float() for name in ("head.weight", "head.bias"))
        # As peft merges them, without its import: that takes seconds, 200 MB, and a look for kernels on a hub.
        for name, down in tensors.items():
            if name.endswith(".lora_A.weight"):
                up = tensors[name.replace(".lora_A.", ".lora_B.")]
                module = self.encoder.get_submodule(name.removesuffix(".lora_A.weight"))
                module.weight.data += adapters["lora_alpha"] / adapters["r"] * (up.float() @ down.float())

    def embed(self, texts, batch=64):
        """Give the mean of each text's last hidden states: float32 tensor of shape (texts, width)."""
        import torch

        found = torch.empty(len(texts), self.encoder.config.hidden_size)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        with torch.inference_mode():
            for start in range(0, len(texts), batch):
                where = by_length[start : start + batch]
                found[where] = mean_state(self.encoder, tokens(self.tokenizer, [texts[i] for i in where], MAX_TOKENS))
        return found

    def logits(self, texts, batch=64):
        """Give each text's logits: float32 array of shape (texts, emotions)."""
        return (self.embed(texts, batch) @ self.weight.T + self.bias).numpy()


def load_encoder(folder):
    """Load a sentence encoder from its folder, in float32: (tokenizer, model)."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    options = {"use_safetensors": True, "dtype": torch.float32, "add_pooling_layer": False}
    with saying_little():  # else it lists the pooler's weights, which the mean has no use for
        return tokenizer, transformers.AutoModel.from_pretrained(folder, **options).eval()


@contextlib.contextmanager
def saying_little():
    """Keep transformers' warnings off for a while."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def tokens(tokenizer, texts, most):
    """Cut texts into `most` tokens each, padded to the longest, in eights: shapes that come again are computed faster."""
    return tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=most, pad_to_multiple_of=8)


def mean_state(encoder, inputs):
    """Give the mean of the last hidden states over each text's tokens: float32 tensor of shape (texts, width)."""
    hidden, mask = encoder(**inputs).last_hidden_state.float(), inputs["attention_mask"][:, :, None]
    return (hidden * mask).sum(1) / mask.sum(1)


def read_card(name):
    """Read the card of a packaged judge: (front matter, text)."""
    _, front, text = (JUDGES / name / "card.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text.strip()


def packaged():
    """List the names of the packaged judges."""
    return sorted(path.parent.name for path in JUDGES.glob("*/card.md"))
