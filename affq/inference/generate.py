"""The quality pass: all requests of a run to texts, in fixed batches; and the one generation that the resource pass times.

`generate` is called as people call it, not in torch's inference mode, which saves up to a tenth of a small model's time: a
latency is to be what a plain loop takes (tests/bench/latency.md).
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import transformers

from affq.errors import InputError
from affq.inference.chat import ASKED_AGAIN, Tokenizer, opens_turn, render, template_of, thought_tokens, user_header
from affq.inference.measure import TextReading
from affq.inference.requests import AloneText, AtToken, Ending, Generation, Request, Sampling, key_of

Inputs = transformers.BatchEncoding  # {input_ids, attention_mask}, each (texts, tokens)
NO_NUMBERS = "choose another precision; if none gives numbers, copy the weights again"  # the remedy


class Configured(Protocol):
    """What has a model's configuration, as transformers reads it."""

    config: Any


class Model(Configured, Protocol):
    """A causal language model, as transformers loads it."""

    generation_config: Any

    @property
    def device(self) -> torch.device: ...
    def generate(self, **options: Any) -> Any: ...


def in_batches(requests: Sequence[Request], prompt_tokens: Sequence[int], size: int) -> list[list[Request]]:
    """Return requests in batches of `size`, the longest prompts first: those of like length share a batch, with little padding.

    prompt_tokens: of each request, as `count_tokens` gives them.
    """
    by_length = sorted(range(len(requests)), key=prompt_tokens.__getitem__, reverse=True)  # equal ones stay in their order
    return [[requests[place] for place in by_length[start : start + size]] for start in range(0, len(requests), size)]


def tokenize(model: Model, tokenizer: Tokenizer, prompts: list[str]) -> Inputs:
    """Return rendered prompts as tokens, padded on the left, on the model's device."""
    options = {"return_tensors": "pt", "padding": True, "return_token_type_ids": False}
    return tokenizer(prompts, add_special_tokens=_special(tokenizer), **options).to(model.device)


def token_ids(tokenizer: Tokenizer, prompts: list[str]) -> list[list[int]]:
    """Return the token ids of each rendered prompt."""
    return tokenizer(prompts, add_special_tokens=_special(tokenizer))["input_ids"]


def _special(tokenizer: Tokenizer) -> bool:
    return template_of(tokenizer) is None  # a chat template writes its special tokens itself


def prepare(model: Model, tokenizer: Tokenizer, requests: Sequence[Request], thinking: bool = False) -> Inputs:
    """Render and tokenize requests as one batch: the inputs that `exactly` takes. thinking: as `render` takes it."""
    return tokenize(model, tokenizer, [render(tokenizer, request["request"], thinking) for request in requests])


def count_tokens(
    model: Configured, tokenizer: Tokenizer, requests: Sequence[Request], new_tokens: int, thinking: bool = False
) -> list[int]:
    """Return how many tokens each request takes, rendered.

    Raises InputError unless the model has each of the tokens, and positions for them and `new_tokens` more.
    """
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or 0  # 0 or -1: it was trained for any number
    counts = []
    for request in requests:
        (ids,) = token_ids(tokenizer, [render(tokenizer, request["request"], thinking)])
        if (largest := max(ids)) >= config.vocab_size:
            token = tokenizer.convert_ids_to_tokens(largest)
            raise InputError(
                f"prompt {request['prompt_id']!r} has the token {token!r}, number {largest:,}, and the model has embeddings for "
                f"{config.vocab_size:,}",
                value=token,
                remedy="give the tokenizer that was saved with these weights",
            )
        if 0 < most < (tokens := len(ids)) + new_tokens:
            raise InputError(
                f"prompt {request['prompt_id']!r} takes {tokens:,} tokens, and {new_tokens:,} new ones were asked for: the model "
                f"reads {most:,} at most",
                value=tokens + new_tokens,
                remedy="shorten the prompt, or lower max_new_tokens and measurement's new_tokens",
            )
        counts.append(tokens)
    return counts


class LogitsError(RuntimeError):
    """Logits that are no numbers: the model leaves the range of its precision there, or its weights are damaged."""


class LargestLogits(transformers.LogitsProcessor):
    """Keeps the largest logit of each text at each step, where the logits are: nan where any of them is. Changes none."""

    def __init__(self) -> None:
        self.by_step: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        self.by_step.append(scores.amax(dim=-1))
        return scores

    def need_finite(self, generations: Sequence[Generation]) -> None:
        """Raise LogitsError unless each text, in the order of the batch, was made of numbers alone up to its end."""
        if not self.by_step:
            return
        finite = torch.isfinite(torch.stack(self.by_step)).cpu()
        for place, text in enumerate(generations):
            own = finite[: text["new_tokens"] + text["ended"], place]
            if not own.all():
                where = f"prompt {text['prompt_id']!r}, token {int(own.int().argmin()) + 1} of the text"
                raise LogitsError(f"{where}: the model's logits are not finite numbers; {NO_NUMBERS}")


class GumbelNoise(transformers.LogitsProcessor):
    """Adds noise to the logits of each text of a batch, its own: their argmax is a draw from softmax(logits / temperature).

    The draw is exact: argmax(logits / temperature + G), each G from the standard Gumbel distribution, has that distribution
    (Gumbel 1954; Maddison, Tarlow and Minka 2014, "A* Sampling", https://arxiv.org/abs/1411.0030). The noise belongs to (seed,
    prompt id, emotion, sample, step) alone: every precision and model draws with the same (common random numbers), and neither
    what shares a text's batch nor its place there changes it. It is made on the CPU, alike for every device.

    batch: the requests, in the order of the logits' rows. prompt_tokens: the length of the padded prompts, where steps begin.
    """

    def __init__(self, batch: Sequence[Request], prompt_tokens: int, temperature: float, seed: int) -> None:
        self.prompt_tokens, self.temperature = prompt_tokens, temperature
        self.keys = [noise_key(seed, request) for request in batch]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        step = input_ids.shape[1] - self.prompt_tokens
        noise = np.stack([_gumbel(key, step, scores.shape[1]) for key in self.keys])
        return scores + self.temperature * torch.from_numpy(noise).to(scores)


def noise_key(seed: int, request: Request) -> int:
    """Return the 128 bits that stand for the noise of a text."""
    text = json.dumps([seed, *key_of(request).values()])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def _gumbel(key: int, step: int, count: int) -> np.ndarray:
    """Draw `count` standard Gumbel values for one text and step.

    Philox is addressed by key and counter (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405); steps are 2**192 apart.
    In double precision: uniform numbers of 24 bits are too coarse for the tail that a large vocabulary's rare tokens win by.
    """
    return np.random.Generator(np.random.Philox(key=key, counter=step << 192)).gumbel(size=count)


def texts(
    model: Model,
    tokenizer: Tokenizer,
    batch: Sequence[Request],
    max_new_tokens: int,
    at_token: AtToken | None = None,
    sampling: Sampling | None = None,
    thinking: bool = False,
) -> tuple[list[Generation], int]:
    """Generate one batch of requests; return the texts, and the bytes of the batch's keys and values at its end.

    at_token() is called after each step. sampling: None decodes greedily. thinking: as `render` takes it. Padding and batch size
    change logits, and so the texts: a text belongs to its batch. Raises LogitsError for a text whose logits are no numbers.
    """
    prompts = [render(tokenizer, request["request"], thinking) for request in batch]
    inputs = tokenize(model, tokenizer, prompts)
    prompt_tokens = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": max_new_tokens, "return_dict_in_generate": True, **_calling(at_token)}
    largest = LargestLogits()
    noise = [GumbelNoise(batch, prompt_tokens, **sampling)] if sampling else []
    options["logits_processor"] = [largest, *noise]
    output = model.generate(**inputs, **_greedy(tokenizer), **options)
    header = user_header(tokenizer)
    ends, new_ids = model.generation_config.eos_token_id or (), output.sequences[:, prompt_tokens:].tolist()
    generations = [
        generation(request, prompt, up_to_end(ends, tokenizer, ids, prompt, header))
        for request, prompt, ids in zip(batch, prompts, new_ids, strict=True)
    ]
    largest.need_finite(generations)
    return generations, _cache_bytes(output.past_key_values)


def generation(request: Request, prompt: str, ending: Ending) -> Generation:
    """Return a text with the request that it answers. prompt: the request rendered."""
    return {
        "prompt_id": request["prompt_id"],
        "kind": request["kind"],
        "emotion": request["emotion"],
        "sample": request["sample"],
        "prompt": prompt,
        **ending,
    }


def up_to_end(ends: Collection[int], tokenizer: Tokenizer, ids: list[int], prompt: str, header: str) -> Ending:
    """Cut the new token ids of a text at its end, leave out what thoughts it begins with, and decode the rest.

    ends: the ids that a text ends at. prompt: rendered; some templates open a thought there. header: as chat.user_header returns
    it.
    """
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    own = ids[:length]
    thoughts = thought_tokens(tokenizer.decode, own, prompt)
    return {
        "text": str(tokenizer.decode(own[thoughts:], skip_special_tokens=True)).strip(),
        "new_tokens": length,
        "thought_tokens": thoughts,
        "ended": length < len(ids),
        "opens_turn": opens_turn(str(tokenizer.decode(own)), header),
    }


def alone(
    model: Model, tokenizer: Tokenizer, readings: Sequence[TextReading], max_new_tokens: int, thinking: bool = False
) -> list[AloneText]:
    """Return what each timed text is by itself, in a batch of one, greedy; once for each request.

    readings: of measure.time_texts, end-of-text ignored: a text is cut there, or at max_new_tokens. It is None where fewer
    tokens were timed and no end is among them: such a text has no counterpart in the quality pass. thinking: as they were
    prepared.
    """
    rows: list[AloneText] = []
    prompt, header = render(tokenizer, ASKED_AGAIN, thinking), user_header(tokenizer)  # every prompt ends alike
    ends = model.generation_config.eos_token_id or ()
    for reading in (reading for reading in readings if reading["round"] == 0):
        ending = up_to_end(ends, tokenizer, reading["token_ids"][:max_new_tokens], prompt, header)
        whole = ending["ended"] or reading["new_tokens"] >= max_new_tokens
        rows.append({**key_of(reading), "text": ending["text"] if whole else None})
    return rows


def exactly(model: Model, tokenizer: Tokenizer, inputs: Inputs, new_tokens: int, at_token: AtToken | None = None) -> torch.Tensor:
    """Generate greedily exactly `new_tokens` tokens for each prompt; return the token ids, (texts, prompt + new_tokens).

    End-of-text is ignored, not suppressed: forbidding the token would put another in its place and change the text. at_token()
    is called after each step.
    """
    verbosity = transformers.logging.get_verbosity()
    # It warns, each time, that -1 is no token: that is the point.
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    options = {"max_new_tokens": new_tokens, "eos_token_id": [-1], **_calling(at_token)}
    try:
        output = model.generate(**inputs, **_greedy(tokenizer), **options)
    finally:
        transformers.logging.set_verbosity(verbosity)
    if (generated := output.shape[1] - inputs["input_ids"].shape[1]) != new_tokens:
        raise RuntimeError(f"{generated} tokens were generated where {new_tokens} are to be timed")
    return output


def _calling(at_token: AtToken | None) -> dict[str, Any]:
    """Return the option by which `generate` calls at_token() after each step: as a reason to stop that never holds."""
    return {"stopping_criteria": [lambda ids, scores, **_: bool(at_token())]} if at_token else {}


def _cache_bytes(cache: Any) -> int:
    """Return the bytes of a cache's tensors; 0 for a model that keeps none, or another kind of state."""
    tensors = (getattr(layer, name, None) for layer in getattr(cache, "layers", ()) for name in ("keys", "values"))
    return sum(tensor.nbytes for tensor in tensors if torch.is_tensor(tensor))


def _greedy(tokenizer: Tokenizer) -> dict[str, Any]:
    # A checkpoint's own settings would otherwise stay in force: the likeliest token is taken, and nothing else counts.
    sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    penalties = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    return {**sampling, **penalties, "pad_token_id": tokenizer.pad_token_id}
