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
    (plain,) = generate.texts(model, tokenizer, REQUESTS[:1], 12)
    kept = model.generation_config.to_dict()
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=5.0, num_beams=3, no_repeat_ngram_size=1)
    try:
        assert generate.texts(model, tokenizer, REQUESTS[:1], 12) == [plain]
    finally:
        model.generation_config.update(**kept)


def test_texts_equal_a_plain_greedy_loop(tiny):
    """The expected text comes from a loop over the forward pass, without generate."""
    model, tokenizer = tiny
    (row,) = generate.texts(model, tokenizer, REQUESTS[:1], 6)
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
    rows = generate.texts(model, tokenizer, REQUESTS, 4)
    assert [(r["prompt_id"], r["emotion"], r["sample"]) for r in rows] == [("a", "joy", 0), ("b", None, 0)]
    # A model that ends at once, and one that never does: padding after the end is not part of the text.
    end = tokenizer.eos_token_id
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **_: torch.cat([input_ids, torch.tensor([[end] * 4, [9, 8, 7, 9]])], 1)
    )
    first, second = generate.texts(model, tokenizer, REQUESTS, 4)
    assert (first["text"], first["new_tokens"], first["ended"]) == ("", 0, True)
    assert (second["new_tokens"], second["ended"]) == (4, False)


def test_exactly_ignores_the_end_and_does_not_suppress_it(tiny, capfd):
    model, tokenizer = tiny
    inputs = generate.prepare(model, tokenizer, REQUESTS[0])
    head = model.lm_head.weight.data.clone()
    model.lm_head.weight.data.zero_()  # all logits equal: greedy decoding takes token 0, which is end-of-text
    try:
        output = generate.exactly(model, tokenizer, inputs, 5)
    finally:
        model.lm_head.weight.data.copy_(head)
    assert tokenizer.eos_token_id == 0 and output[0, -5:].tolist() == [0] * 5
    assert "eos_token_id" not in "".join(capfd.readouterr())
