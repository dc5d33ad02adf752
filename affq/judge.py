"""Emotion classifiers behind one small interface: texts in, probabilities of emotions out."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from affq import InputError, weights

JUDGES = Path(__file__).with_name("judges")
MAX_TOKENS = 256  # what the encoder was made for; more of a text is not read


@dataclass(frozen=True)
class Judge:
    """A linear head over frozen sentence embeddings.

    card: the front matter of its card.md, with `encoder` and `emotions`. head: {weight: (emotions, width), bias: (emotions,)}.
    """

    name: str
    card: dict
    head: dict

    @property
    def emotions(self):
        return tuple(self.card["emotions"])

    @property
    def identity(self):
        """Give what tells this judge from others, as its scores record it."""
        return {"judge": self.name, "head_sha256": self.card["head_sha256"], "encoder_sha256": self.card["encoder_sha256"]}

    @cached_property
    def encoder(self):
        return Encoder(weights.folder(self.card["encoder"]))

    def probabilities(self, texts):
        """Give the probability of each emotion for each text: array of shape (texts, emotions)."""
        return probabilities(self.encoder.embed(texts), self.head)


def probabilities(embeddings, head):
    """Give softmax(embeddings · weightᵀ + bias): (texts, width) to (texts, emotions)."""
    from scipy.special import softmax

    return softmax(embeddings @ head["weight"].T + head["bias"], axis=1)


class Encoder:
    """A sentence encoder: the mean of the last hidden states over a text's tokens, at unit length."""

    def __init__(self, folder):
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModel.from_pretrained(folder, use_safetensors=True).eval()

    def embed(self, texts, batch=64):
        """Embed texts: float32 array of shape (texts, width)."""
        import numpy as np
        import torch

        found = np.empty((len(texts), self.model.config.hidden_size), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        for start in range(0, len(texts), batch):
            where = by_length[start : start + batch]
            inputs = self.tokenizer(
                [texts[i] for i in where], return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS
            )
            with torch.inference_mode():
                hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][:, :, None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            found[where] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return found


def read_card(name):
    """Read the card of a packaged judge: (front matter, text)."""
    _, front, text = (JUDGES / name / "card.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text.strip()


def load_judge(name):
    """Load a packaged judge. Its encoder must be in the cache. Raises InputError for an unknown name or a damaged head."""
    from safetensors.numpy import load_file

    known = sorted(p.parent.name for p in JUDGES.glob("*/card.md"))
    if name not in known:
        raise InputError(f"unknown judge {name!r}; known: {', '.join(known)}")
    card, _ = read_card(name)
    head = JUDGES / name / "head.safetensors"
    weights.verify(head, card["head_sha256"])
    return Judge(name, card, load_file(head))


def read_texts(path):
    """Read a JSONL file of objects with a `text`. Raises InputError, with the line, for anything else."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # not splitlines(): a text may hold other separators
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line and number == len(lines):
            break  # the end of the last line
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InputError(f"{path}, line {number}: a line must be a JSON object with a text")
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}, line {number}: half a surrogate pair is no character") from None
        rows.append(row)
    if not rows:
        raise InputError(f"{path} holds no text")
    return rows
