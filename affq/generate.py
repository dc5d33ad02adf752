"""The quality pass: all requests of a run to texts, in fixed batches; and the one generation that the resource pass times."""

import torch
import transformers

from affq import InputError

# Some chat templates write the day into the prompt: always this one, so that the same study gives the same texts tomorrow.
TODAY = "{% macro strftime_now(format) %}01 Jan 2026{% endmacro %}"


def render(tokenizer, request):
    """Put a request into the model's chat template, or leave it as it is where there is none.

    Raises InputError for a template that fails over a single message of the user.
    """
    if tokenizer.chat_template is None:
        return request
    chat = [{"role": "user", "content": request}]
    template = TODAY + tokenizer.get_chat_template()
    try:
        return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program, and fails as programs do
        words = f"{type(error).__name__}: {error}"
        raise InputError(f"the model's chat template fails over a user's message ({words}); mend it, or remove it") from error


def in_batches(requests, size):
    """Split requests into batches of `size`; those without an emotion never share a batch with the others."""
    groups = ([r for r in requests if r["emotion"]], [r for r in requests if not r["emotion"]])
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def tokenize(model, tokenizer, prompts):
    """Tokenize rendered prompts, padded on the left, onto the model's device: {input_ids, attention_mask}, (texts, tokens)."""
    # A chat template writes its special tokens itself.
    special = tokenizer.chat_template is None
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=special, return_token_type_ids=False)
    return batch.to(model.device)


def prepare(model, tokenizer, request):
    """Tokenize one request by itself: the inputs that `exactly` takes."""
    return tokenize(model, tokenizer, [render(tokenizer, request["request"])])


def need_context(model, tokenizer, requests, new_tokens):
    """Raise InputError unless each request and `new_tokens` more fit the positions that the model was trained for."""
    if (most := getattr(model.config.get_text_config(), "max_position_embeddings", None)) is None:
        return
    for request in requests:
        tokens = prepare(model, tokenizer, request)["input_ids"].shape[1]
        if tokens + new_tokens > most:
            raise InputError(
                f"prompt {request['prompt_id']!r} takes {tokens:,} tokens, and {new_tokens:,} new ones were asked for: the model "
                f"reads {most:,} at most; shorten the prompt, or lower max_new_tokens and measurement's new_tokens"
            )


def texts(model, tokenizer, batch, max_new_tokens):
    """Generate greedily for one batch of requests: each with its prompt, text, new_tokens, and whether it ended by itself.

    Padding and batch size change a text, so a text belongs to its batch.
    """
    prompts = [render(tokenizer, request["request"]) for request in batch]
    inputs = tokenize(model, tokenizer, prompts)
    with torch.inference_mode():
        output = model.generate(**inputs, **_greedy(tokenizer), max_new_tokens=max_new_tokens)
    rows, ends = [], _end_ids(model, tokenizer)
    for request, prompt, ids in zip(batch, prompts, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        text = tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        kept = {key: request[key] for key in ("prompt_id", "kind", "emotion", "sample")}
        rows.append({**kept, "prompt": prompt, "text": text, "new_tokens": length, "ended": length < len(ids)})
    return rows


def exactly(model, tokenizer, inputs, new_tokens):
    """Generate greedily exactly `new_tokens` tokens for one tokenized prompt, end-of-text ignored; return the output tensor.

    End-of-text is ignored, not suppressed: forbidding the token would put another in its place and change the text.
    """
    verbosity = transformers.logging.get_verbosity()
    # It warns, each time, that -1 is no token: that is the point.
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        with torch.inference_mode():
            output = model.generate(**inputs, **_greedy(tokenizer), max_new_tokens=new_tokens, eos_token_id=[-1])
    finally:
        transformers.logging.set_verbosity(verbosity)
    if (made := output.shape[1] - inputs["input_ids"].shape[1]) != new_tokens:
        raise RuntimeError(f"{made} tokens were generated where {new_tokens} are to be timed")
    return output


def _greedy(tokenizer):
    # A checkpoint's own settings would otherwise stay in force: the likeliest token is taken, and nothing else weighs in.
    sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    penalties = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    return {**sampling, **penalties, "pad_token_id": tokenizer.pad_token_id}


def _end_ids(model, tokenizer):
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {end for end in [*ends, tokenizer.eos_token_id] if end is not None}
