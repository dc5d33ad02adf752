"""How likely a text is to a fixed language model: the raw figures that perplexity is made of. No files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from affq import files
from affq.emotions import REFERENCES
from affq.errors import InputError
from affq.inference import Generation, Key, key_of
from affq.models import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOLERANCE = 0.005  # of the perplexity of some packaged texts: from there on bf16 will not do
PRECISION = f"bf16 where it is fast and within {TOLERANCE:.1%} of fp32, else fp32"
REMEDY = "let the study's perplexity name another model, or be null"
MAX_TOKENS = 1024  # of a text, from its beginning, where the model has positions for as many
BATCH_TOKENS = 1024  # of a batch, padding counted: its logits take 200 MB where the vocabulary has 49,152 tokens


class Likelihood(Key):
    """The negative log-likelihood (nats) of a text's tokens after its first, and how many those are; None and 0 for none."""

    nll_nats: float | None
    tokens: int


@dataclass(frozen=True)
class Scorer:
    """A causal language model on the CPU, loaded when it is first used."""

    source: Source

    @property
    def identity(self) -> dict[str, str | None]:
        """What scores, exactly; None for a revision that is not known here."""
        return {"model": self.source.name, "revision": self.source.revision, "precision": PRECISION}

    @cached_property
    def _loaded(self) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
        from affq import models

        exact, tokenizer = models.load(self.source.folder, "fp32", "cpu")
        if not multiplies_bf16():
            return exact, tokenizer
        quick, _ = models.load(self.source.folder, "bf16", "cpu")
        texts = [row["text"] for row in files.read_jsonl(REFERENCES, REMEDY)[::5]]  # ten an emotion: two of each
        ids = [text_ids for text_ids in tokenizer(texts)["input_ids"] if len(text_ids) > 1]
        nll_nats = [sum(_negative_log_likelihoods(model, ids)) for model in (exact, quick)]
        error = abs(math.expm1((nll_nats[1] - nll_nats[0]) / sum(len(text_ids) - 1 for text_ids in ids)))
        return (quick if error < TOLERANCE else exact), tokenizer

    def score(self, generations: Sequence[Generation], batch_tokens: int = BATCH_TOKENS) -> list[Likelihood]:
        """Score each text alone, without its prompt, once where several are the same.

        Perplexity is exp(sum of nll_nats / sum of tokens). Of a text longer than MAX_TOKENS, or than the model reads, the
        beginning counts. Raises InputError for a text whose likelihood is no finite number.
        """
        from affq import models

        model, tokenizer = self._loaded
        most = min(MAX_TOKENS, models.positions(model) or MAX_TOKENS)
        cut = {"truncation": True, "max_length": most, "return_token_type_ids": False}
        texts = list(dict.fromkeys(generation["text"] for generation in generations))
        ids = [tokenizer(text, **cut)["input_ids"] for text in texts]
        rows: dict[str, dict[str, Any]] = {text: {"nll_nats": None, "tokens": 0} for text in texts}
        for places in _batches([len(text_ids) for text_ids in ids], batch_tokens):
            for place, nll in zip(places, _negative_log_likelihoods(model, [ids[place] for place in places]), strict=True):
                if not math.isfinite(nll):
                    text = texts[place][:40]
                    problem = f"{self.source.name} gives the text {text!r} no likelihood but {nll}"
                    raise InputError(problem, value=text, remedy=REMEDY)
                rows[texts[place]] = {"nll_nats": round(nll, 6), "tokens": len(ids[place]) - 1}
        return [cast(Likelihood, key_of(generation) | rows[generation["text"]]) for generation in generations]


def multiplies_bf16() -> bool:
    """Return whether this processor has units for bf16: without them its products take several times as long as at fp32."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.12 and later
    return any(capabilities.get(units, False) for units in ("avx512_bf16", "amx_bf16"))


def _batches(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Put the places of what is longer than 1 into batches of like length, each of `most` at most when padded, or of one."""
    batch: list[int] = []
    for place in sorted((place for place, length in enumerate(lengths) if length > 1), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _negative_log_likelihoods(model: "PreTrainedModel", ids: list[list[int]]) -> list[float]:
    """Return the negative log-likelihood (nats) of each list of token ids, but for its first token, as one batch."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    texts = [torch.tensor(text_ids) for text_ids in ids]
    # On the right: what a causal model says of a token then owes nothing to the padding.
    padded = pad_sequence(texts, batch_first=True)
    mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    with torch.inference_mode():
        logits = model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        # The cross-entropy, by hand: torch's own takes twice as long over so many classes.
        nll = logits.logsumexp(dim=-1) - logits.gather(-1, padded[:, 1:, None]).squeeze(-1)
    return (nll.double() * mask[:, 1:]).sum(dim=1).tolist()
