"""Frames of text quality from records written by hand: every expected figure is worked out beside it."""

import math

import numpy as np
import pandas as pd
import pytest
from test_tables import PEAKS, write_run

from affq.analysis import quality
from affq.analysis.texts import join
from affq.errors import InputError
from affq.results import record as records
from affq.results import schemas
from affq.scoring import scores
from affq.study import load_study

JUDGED = ["joy"] * 6


def test_each_statistic_of_a_text_is_checked_when_it_is_read_and_has_its_column(runs):
    (row, *_) = runs[0].scores("text-quality")
    assert row.keys() == schemas.Quality.model_fields.keys() == {*KEY, *quality.STATISTICS}
    of_curves = {"repeats_from"}  # of texts that may end before: Results.repetition
    assert set(quality.STATISTICS) - of_curves <= set(quality.TEXT_QUALITY)


KEY = ("prompt_id", "emotion", "sample")


def by_the_model(record):
    return {"model": "any", "revision": record.run.model.revision, "precision": "fp32"}


def likely(nll_nats, tokens):
    return lambda gs: [
        {**{k: g[k] for k in KEY}, "nll_nats": n, "tokens": t} for g, n, t in zip(gs, nll_nats, tokens, strict=True)
    ]


@pytest.fixture
def runs(write_study, tmp_path):
    """Two complete runs: texts such as "fp32 note joy", six of them, two of these the control's; only the first is scored."""
    runs = records.records(tmp_path / "results", load_study(write_study(precisions=["fp32", "int8"])))
    for run in runs:
        write_run(run, JUDGED, PEAKS, [1.0])
    runs[0].score("text-quality", {}, scores.text_statistics)
    runs[0].score("perplexity", by_the_model(runs[0]), likely([2.0, None, 4.0, 6.0, 99.0, 99.0], [1, 0, 2, 3, 1, 1]))
    return runs


def test_texts_have_their_statistics_and_are_empty_where_they_were_not_scored(runs):
    found = quality.with_statistics(join(runs), runs)
    assert list(found) == [*quality.RUN, *KEY, *quality.AS_MADE, "cut", *quality.STATISTICS] + [
        *quality.LIKELIHOOD,
        "scored_itself",
    ]
    scored, other = found[found["precision"] == "fp32"], found[found["precision"] == "int8"]
    assert list(scored["words"]) == [3] * 6 and scored["cut"].all() and scored["scored_itself"].all()
    assert list(scored["nll_nats"].fillna(-1)) == [2, -1, 4, 6, 99, 99]
    assert other[[*quality.STATISTICS, "nll_nats", "scored_itself"]].isna().all().all() and len(other) == 6


def test_a_run_that_other_weights_scored_did_not_score_itself(runs):
    other = {**by_the_model(runs[1]), "revision": "another"}
    runs[1].score("perplexity", other, likely([1.0] * 6, [1] * 6))
    assert not quality.with_statistics(join(runs), runs[1:])["scored_itself"].any()


def test_figures_of_a_run_by_hand(runs):
    (row,) = quality.text_quality(quality.with_statistics(join(runs), runs), lambda _: (0.1, 0.2)).to_dict("records")
    # Four texts, "fp32 note joy", "fp32 note sadness", "fp32 day joy", "fp32 day sadness": 5 distinct words of 12; pairs
    # fp32 note, fp32 day, note joy, note sadness, day joy, day sadness: 6 of 8.
    assert (row["texts"], row["words"], row["distinct_1"], row["distinct_2"]) == (4, 3, 5 / 12, 6 / 8)
    # Two texts for joy: 2 of 3 words, no pair, no triple, which smoothing counts as 1/2 of one and 1/4: (2/3·1/4·1/4)^(1/3).
    assert row["self_bleu"] == pytest.approx((2 / 3 * 1 / 4 * 1 / 4) ** (1 / 3), abs=1e-6)
    # Tokens weigh, the control is left out: (2 + 4 + 6) nats over 1 + 2 + 3 tokens, not the mean of the texts' perplexities.
    assert row["perplexity"] == pytest.approx(math.exp(12 / 6)) and row["scored_itself"]
    assert (row["cut"], row["refusal"], row["degenerate"], row["collapsed"]) == (1, 0, 0, 0)
    assert (row["thought_tokens"], row["opens_turn"]) == (0, 0)
    assert pd.isna(row["seq_rep_4"])  # three words have no 4-gram
    assert (row["collapsed_low"], row["collapsed_high"]) == (0.1, 0.2)


def test_interval_is_asked_by_prompt(runs):
    found, asked = quality.with_statistics(join(runs), runs[:1]), []
    found.loc[found["prompt_id"] == "day", "collapsed"] = True

    def interval(collapsed):
        asked.append(collapsed)
        return collapsed.mean(), 1.0

    (row,) = quality.text_quality(found, interval).to_dict("records")
    # A row a prompt, note and day, a column an emotion; the control is not in it.
    assert np.array_equal(asked[0], [[0, 0], [1, 1]]) and asked[0].dtype == float
    assert (row["collapsed"], row["collapsed_low"], row["collapsed_high"]) == (0.5, 0.5, 1)


def test_nothing_scored_gives_no_row_and_nothing_complete_is_refused(runs, write_study, tmp_path):
    found = quality.text_quality(quality.with_statistics(join(runs), runs[1:]), lambda _: (0, 1))
    assert found.empty and list(found) == list(quality.TEXT_QUALITY)
    empty = records.records(tmp_path / "elsewhere", load_study(write_study()))
    with pytest.raises(InputError, match="no run of this study is complete"):
        join(empty)


def test_perplexity_of_texts_without_a_second_token_is_none(runs):
    runs[1].score("text-quality", {}, scores.text_statistics)
    runs[1].score("perplexity", by_the_model(runs[1]), likely([None] * 6, [0] * 6))
    (row,) = quality.text_quality(quality.with_statistics(join(runs), runs[1:]), lambda _: (0, 0)).to_dict("records")
    assert math.isnan(row["perplexity"])
