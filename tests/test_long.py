"""Long texts: where they begin to repeat themselves, and the curves of it, worked by hand."""

import numpy as np
import pandas as pd
import pytest

from affq.analysis import long
from affq.report import charts, words
from affq.scoring import LOOP
from affq.scoring.scores import repeats_from

NEW = [f"w{number}" for number in range(100)]  # a hundred words that are all different
RUN = {"run_id": "r", "model": "m", "precision": "bf16", "engine": "transformers"}


@pytest.mark.parametrize(
    "said, onset",
    [
        (NEW, None),
        ([], None),
        (NEW + NEW[:40], 100),  # what was said once is no repetition: the second time is
        (NEW + NEW[50:] * 3, 100),
        (NEW[:10] * 10, 10),
        (["a"] * 100, 1),
        (NEW + NEW[:LOOP], 100),
        (NEW + NEW[: LOOP - 1], None),  # too short to tell a loop from a last phrase
        (NEW[:50] + NEW[:50] + NEW[50:], None),  # it goes on with something new, as long again
        (NEW[:50] * 4 + NEW[50:60] + NEW[:50] * 2, 50),  # ten new words within a loop do not end it
    ],
)
def test_text_repeats_itself_from_a_word_on_to_its_end(said, onset):
    assert repeats_from(" ".join(said)) == onset


def test_characters_count_in_scripts_without_spaces():
    assert repeats_from("今日はとても良い天気です" * 10) == 12


def texts(*onsets_and_words, **run):
    """Give texts of a run, of which each repeats itself as of a word (None: it does not), and has so many words."""
    rows = [{**RUN, **run, "emotion": "joy", "repeats_from": onset, "words": count} for onset, count in onsets_and_words]
    return pd.DataFrame(rows).astype({"repeats_from": object})


def test_curve_by_hand():
    # Five texts: one repeats itself as of word 10, two as of 50; one ends at 20 + LOOP words, one at 70 + LOOP.
    frame = long.repetition(texts((10, 500), (50, 500), (50, 500), (None, 20 + LOOP), (None, 70 + LOOP)))
    assert frame["words"].tolist() == [0, 10, 20, 50, 70]
    assert frame["texts"].tolist() == [5, 5, 4, 3, 1]
    assert frame["not_repeating"].tolist() == pytest.approx([1, 4 / 5, 4 / 5, 4 / 5 * 1 / 3, 4 / 5 * 1 / 3])
    # Greenwood's variance of log S at 10 words: 1 / (5 · 4); on log(-log) the reach is 1.96 · sqrt(0.05) / |log 0.8|.
    reach = np.exp(1.959964 * np.sqrt(1 / 20) / -np.log(0.8))
    assert frame.loc[1, ["low", "high"]].tolist() == pytest.approx([0.8**reach, 0.8 ** (1 / reach)], rel=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("onsets_and_words", [[(None, 300), (None, 10)], [(5, 300), (5, 300)], [(5, 300)]])
def test_where_none_or_all_repeat_themselves_there_is_a_curve_without_a_warning(onsets_and_words):
    frame = long.repetition(texts(*onsets_and_words))
    assert frame["not_repeating"].iloc[-1] == (onsets_and_words[0][0] is None)


def test_chart_has_a_line_a_run():
    runs = [texts((10, 500), (None, 300)), texts((None, 300), run_id="q", precision="q8_0", engine="llama.cpp")]
    (legend,) = charts.repetition(long.repetition(pd.concat(runs))).figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["bf16 transformers", "q8_0 llama.cpp"]


def test_curve_falls_to_a_share_at_its_first_step_that_is_as_low():
    curve = pd.DataFrame({"words": [0, 10, 50, 70], "not_repeating": [1, 0.8, 0.5, 0.2]})
    assert [long._falls_to(curve, share) for share in (0.75, 0.5)] == [50, 50]
    assert np.isnan(long._falls_to(curve, 0.1))


def test_words_name_the_farthest_share_that_is_reached_and_the_test():
    about = {"model": "m", "engine": "transformers", "texts": 30}
    rows = [
        {**about, "precision": "bf16", "repeating": 20, "quarter_words": 90.0, "half_words": 200.0, "against": None, "p": np.nan},
        {**about, "precision": "nf4", "repeating": 9, "quarter_words": 80.0, "half_words": np.nan, "against": "bf16", "p": 0.031},
        {**about, "precision": "int8", "repeating": 0, "quarter_words": np.nan, "half_words": np.nan, "against": "bf16", "p": 1},
    ]
    assert words.onsets(pd.DataFrame(rows)).splitlines() == [
        "- **m bf16**: 20 of 30 texts; half of those that are so long do so by word 200.",
        "- **m nf4**: 9 of 30 texts; a quarter of those that are so long do so by word 80; "
        "told apart from bf16 (log-rank p = 0.03).",
        "- **m int8**: 0 of 30 texts; not told apart from bf16 (log-rank p = 1.00).",
    ]
