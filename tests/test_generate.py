from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from affq.inference import generate
from affq.models import loading as models

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
    template, tokenizer.chat_template = tokenizer.chat_template, "{{ strftime_now('%Y-%m-%d') }}: {{ messages[0]['content'] }}"
    assert generate.render(tokenizer, "Hello") == "01 Jan 2026: Hello"
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


def of(prompt_id="a", emotion="joy", sample=0):
    return {"prompt_id": prompt_id, "kind": "general", "emotion": emotion, "sample": sample, "request": "Write of it."}


def drawn(requests, logits, step=0, temperature=1.0, seed=0, prompt_tokens=5):
    """Draw the tokens of one step from logits, of shape (texts, tokens)."""
    noise = generate.GumbelNoise(requests, prompt_tokens, temperature, seed)
    return noise(torch.zeros(len(requests), prompt_tokens + step, dtype=torch.long), logits).argmax(dim=1).tolist()


LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -torch.inf])


@pytest.mark.parametrize("varied", ["seed", "prompt_id", "emotion", "sample", "step"])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(varied):
    """Over many values of each part of what the noise belongs to: chi-square from scipy, the shares from torch's softmax."""
    count, found = 4000, []
    for n in range(count):
        key = {varied: n} if varied in ("seed", "step") else {}
        text = of() | ({varied: n} if not key else {})
        found += drawn([text], LOGITS[None], temperature=0.7, **key)
    seen = np.bincount(found, minlength=6)
    assert seen[5] == 0  # a logit of minus infinity is never drawn
    chance = {t: stats.chisquare(seen[:5], count * torch.softmax(LOGITS[:5].double() / t, 0)).pvalue for t in (0.7, 0.8)}
    assert chance[0.7] > 0.001 > 1e-6 > chance[0.8]


def test_successive_steps_are_independent_and_share_no_number():
    assert np.intersect1d(generate._gumbel(7, 0, 5000), generate._gumbel(7, 1, 5000)).size == 0
    pairs = np.zeros((2, 2))
    for n in range(2000):
        first, second = (drawn([of(sample=n)], torch.zeros(1, 2), step=step)[0] for step in (0, 1))
        pairs[first, second] += 1
    assert stats.chi2_contingency(pairs).pvalue > 0.001 and stats.chisquare(pairs.ravel()).pvalue > 0.001


def test_noise_is_gumbels():
    noise = np.concatenate([generate._gumbel(7, step, 5000) for step in range(4)])
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 0.001


TEXTS = st.lists(
    st.builds(of, st.sampled_from("abc"), st.sampled_from(["joy", "fear", None]), st.integers(0, 9)),
    min_size=1,
    max_size=5,
    unique_by=str,
)


@given(TEXTS, st.integers(0, 2**70), st.integers(0, 500), st.integers(1, 400), st.randoms(use_true_random=False))
def test_draw_depends_on_seed_text_and_step_alone(texts, seed, step, prompt_tokens, rng):
    """Whatever shares a batch, in whichever order, padded to whichever length: the same logits give the same token."""
    logits = {str(text): torch.tensor(np.random.default_rng(n).normal(size=50)).float() for n, text in enumerate(texts)}
    order = rng.sample(texts, len(texts))
    alone = {str(text): drawn([text], logits[str(text)][None], step, seed=seed)[0] for text in texts}
    together = drawn(order, torch.stack([logits[str(text)] for text in order]), step, seed=seed, prompt_tokens=prompt_tokens)
    assert together == [alone[str(text)] for text in order]


def test_vocabulary_that_is_padded_further_draws_the_same():
    longer = torch.cat([LOGITS, torch.full((64,), -torch.inf)])
    assert [drawn([of()], LOGITS[None], step) for step in range(50)] == [drawn([of()], longer[None], step) for step in range(50)]


def sampled(tiny, requests, seed=0, temperature=1.0):
    rows, _ = generate.texts(*tiny, requests, 12, sampling={"temperature": temperature, "seed": seed})
    return [row["text"] for row in rows]


SAMPLES = [of(sample=n) for n in range(3)]


def test_same_seed_gives_the_same_texts_and_another_seed_or_sample_others(tiny):
    texts = sampled(tiny, SAMPLES)
    assert sampled(tiny, SAMPLES) == texts == sampled(tiny, SAMPLES[::-1])[::-1]
    assert len({*texts, *sampled(tiny, SAMPLES, seed=1)}) == 6
    assert sampled(tiny, SAMPLES[1:]) == texts[1:]  # as a resumed run does; the prompts are alike, so that padding is


def test_temperature_near_zero_gives_the_greedy_texts(tiny):
    greedy, _ = generate.texts(*tiny, REQUESTS, 12)
    assert sampled(tiny, REQUESTS, temperature=1e-9) == [row["text"] for row in greedy]


def test_precisions_draw_with_the_same_noise(tiny, tiny_llama):
    """A random model's tokens are about equally likely: by themselves 1 in 512 would be the same at another precision."""
    texts = [of(sample=n) for n in range(20)]
    first = {"fp32": tiny, "bf16": models.load(tiny_llama, "bf16", "cpu")}
    first = {name: generate.texts(*pair, texts, 1, sampling={"temperature": 1.0, "seed": 0})[0] for name, pair in first.items()}
    same = [one["text"] == other["text"] for one, other in zip(first["fp32"], first["bf16"], strict=True)]
    assert sum(same) > 15
