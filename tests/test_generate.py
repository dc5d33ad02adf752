from types import SimpleNamespace

import pytest
import torch

from affq import generate, models

REQUESTS = [
    {"prompt_id": "a", "kind": "general", "emotion": "joy", "sample": 0, "request": "Write a note full of joy."},
    {
        "prompt_id": "b",
        "kind": "event",
        "emotion": None,
        "sample": 0,
        "request": "Tell of a long day at the sea with all your friends.",
    },
]


@pytest.fixture(scope="module")
def tiny(tiny_llama):
    return models.load(tiny_llama, "fp32", "cpu")


def test_request_goes_into_the_chat_template_or_stays_as_it_is(tiny):
    _, tokenizer = tiny
    assert generate.render(tokenizer, "Hello") == "<|user|>Hello<|end|><|assistant|>"
    template, tokenizer.chat_template = tokenizer.chat_template, None
    assert generate.render(tokenizer, "Hello") == "Hello"
    tokenizer.chat_template = template


def test_day_in_a_chat_template_is_always_the_same(tiny):
    _, tokenizer = tiny
    template, tokenizer.chat_template = tokenizer.chat_template, "{{ strftime_now('%Y-%m-%d') }}"
    assert generate.render(tokenizer, "Hello") == "01 Jan 2026"
    tokenizer.chat_template = template


def test_greedy_is_greedy_whatever_the_checkpoint_would_like(tiny):
    model, tokenizer = tiny
    (plain,), _ = generate.texts(model, tokenizer, REQUESTS[:1], 12)
    kept = model.generation_config.to_dict()
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=5.0, num_beams=3, no_repeat_ngram_size=1)
    try:
        assert generate.texts(model, tokenizer, REQUESTS[:1], 12)[0] == [plain]
    finally:
        model.generation_config.update(**kept)


def test_texts_equal_a_plain_greedy_loop(tiny):
    """The expected text comes from a loop over the forward pass, without generate."""
    model, tokenizer = tiny
    (row,), _ = generate.texts(model, tokenizer, REQUESTS[:1], 6)
    ids = tokenizer(row["prompt"], return_tensors="pt", add_special_tokens=False)["input_ids"]
    new = []
    for _ in range(6):
        with torch.inference_mode():
            logits = model(torch.cat([ids, torch.tensor([new], dtype=torch.long)], dim=1)).logits
        new.append(int(logits[0, -1].argmax()))
        if new[-1] == tokenizer.eos_token_id:
            break
    kept = [token for token in new if token != tokenizer.eos_token_id]
    assert row["text"] == tokenizer.decode(kept, skip_special_tokens=True).strip()
    assert (row["new_tokens"], row["ended"]) == (len(kept), len(kept) < 6)


def test_texts_keep_their_key_and_know_whether_they_ended(tiny, monkeypatch):
    model, tokenizer = tiny
    rows, cache_bytes = generate.texts(model, tokenizer, REQUESTS, 4)
    assert [(r["prompt_id"], r["emotion"], r["sample"]) for r in rows] == [("a", "joy", 0), ("b", None, 0)]
    # Two layers of keys and values, two heads of 32 float32 each, two texts, of the longer prompt and three of four tokens.
    longest = max(generate.prepare(model, tokenizer, [request])["input_ids"].shape[1] for request in REQUESTS)
    assert cache_bytes == 2 * 2 * 2 * 32 * 4 * 2 * (longest + 3)
    # A model that ends at once, and one that never does: padding after the end is not part of the text.
    end = tokenizer.eos_token_id
    monkeypatch.setattr(
        model,
        "generate",
        lambda input_ids, **_: SimpleNamespace(
            sequences=torch.cat([input_ids, torch.tensor([[end] * 4, [9, 8, 7, 9]])], 1), past_key_values=None
        ),
    )
    (first, second), _ = generate.texts(model, tokenizer, REQUESTS, 4)
    assert (first["text"], first["new_tokens"], first["ended"]) == ("", 0, True)
    assert (second["new_tokens"], second["ended"]) == (4, False)


def test_exactly_ignores_the_end_and_does_not_suppress_it(tiny, capfd):
    model, tokenizer = tiny
    inputs = generate.prepare(model, tokenizer, REQUESTS[:1])
    head = model.lm_head.weight.data.clone()
    model.lm_head.weight.data.zero_()  # all logits equal: greedy decoding takes token 0, which is end-of-text
    try:
        output = generate.exactly(model, tokenizer, inputs, 5)
    finally:
        model.lm_head.weight.data.copy_(head)
    assert tokenizer.eos_token_id == 0 and output[0, -5:].tolist() == [0] * 5
    assert "eos_token_id" not in "".join(capfd.readouterr())


def test_each_token_is_told_of_once_and_changes_nothing(tiny):
    model, tokenizer = tiny
    inputs, told = generate.prepare(model, tokenizer, REQUESTS[:1]), []
    output = generate.exactly(model, tokenizer, inputs, 5, lambda: told.append(1))
    assert len(told) == 5 and output.equal(generate.exactly(model, tokenizer, inputs, 5))
    told.clear()
    rows, _ = generate.texts(model, tokenizer, REQUESTS, 4, lambda: told.append(1))
    assert 1 <= len(told) <= 4 and rows == generate.texts(model, tokenizer, REQUESTS, 4)[0]


def timed(model, tokenizer, count):
    inputs = generate.prepare(model, tokenizer, REQUESTS[:1])
    token_ids = generate.exactly(model, tokenizer, inputs, count)[0, -count:].tolist()
    return {"prompt_id": "a", "emotion": "joy", "sample": 0, "round": 0, "new_tokens": count, "token_ids": token_ids}


def test_timed_text_cut_at_its_end_is_the_quality_passes_in_a_batch_of_one(tiny):
    model, tokenizer = tiny
    (row,), _ = generate.texts(model, tokenizer, REQUESTS[:1], 12)
    reading = timed(model, tokenizer, 16)
    found = generate.alone(model, tokenizer, [reading, reading | {"round": 1}], 12)
    assert found == [{"prompt_id": "a", "emotion": "joy", "sample": 0, "text": row["text"]}]


def test_timed_text_of_fewer_tokens_has_no_counterpart_unless_it_ended(tiny):
    model, tokenizer = tiny
    reading = timed(model, tokenizer, 4)
    assert tokenizer.eos_token_id not in reading["token_ids"]
    assert generate.alone(model, tokenizer, [reading], 12)[0]["text"] is None
    ended = reading | {"token_ids": [*reading["token_ids"][:2], tokenizer.eos_token_id, 9]}
    assert generate.alone(model, tokenizer, [ended], 12)[0]["text"] == tokenizer.decode(reading["token_ids"][:2]).strip()
