"""Emotion classifiers behind one small interface: texts in, probabilities of emotions out."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from affq import InputError, weights

JUDGES = Path(__file__).with_name("judges")
MAX_TOKENS = 256  # what the encoder was made for; more of a text is not read
MAX_CHARACTERS = 10_000  # of a text of a user's file: of a longer one the judge would read next to nothing
VERDICT = ("judged_emotion", "probabilities", "error")  # what judging adds to a line


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


def read_lines(path):
    """Read a JSONL file of objects with a `text`: for each line (its object or {}, what is wrong with it or None).

    Raises InputError if there is no such file, no line in it, or a line that was judged before.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not lines[-1]:
        lines.pop()  # the end of the last line
    if not lines:
        raise InputError(f"{path} holds no text")
    found = [_read_line(line) for line in lines]
    for number, (row, _) in enumerate(found, 1):
        if taken := [name for name in VERDICT if name in row]:
            raise InputError(f"{path}, line {number} already has {' and '.join(taken)}; remove what was judged before")
    return found


def _read_line(line):
    """Read one line: (its object, None), or (what can be written again of it, what is wrong with it)."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        # Half a surrogate pair and 1e999 are read, and could not be written.
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeDecodeError as error:
        return {}, f"not UTF-8 (byte {error.start} of the line)"
    except UnicodeEncodeError:
        return {}, "half a surrogate pair is no character"
    except json.JSONDecodeError as error:
        return {}, f"not JSON ({error.msg})"
    except (ValueError, RecursionError) as error:  # NaN, a number of too many digits, brackets a thousand deep
        return {}, f"not JSON ({error})"
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return row if isinstance(row, dict) else {}, "a line must be a JSON object with a text"
    if (length := len(row["text"])) > MAX_CHARACTERS:
        return row, f"a text of {length:,} characters; the judge takes {MAX_CHARACTERS:,}, of which it reads {MAX_TOKENS} tokens"
    return row, None


def _refuse_constant(name):
    raise ValueError(f"{name} is no number")


def read_texts(path):
    """Read a JSONL file of objects with a `text`. Raises InputError, with the line, for anything else."""
    found = read_lines(path)
    for number, (_, wrong) in enumerate(found, 1):
        if wrong:
            raise InputError(f"{path}, line {number}: {wrong}")
    return [row for row, _ in found]
