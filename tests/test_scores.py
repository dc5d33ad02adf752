import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affq import scores
from affq.study import EMOTIONS


def generation(text, emotion="joy", prompt_id="a"):
    return {"prompt_id": prompt_id, "kind": "general", "emotion": emotion, "sample": 0, "text": text}


@pytest.mark.parametrize(
    "text, degenerate",
    [
        ("", True),
        ("   \n", True),
        ("So happy", True),  # two words
        ("I'm so happy", False),  # three
        ("no " * 10 + "way", True),  # 2 of 11 words distinct: 18 %
        ("no way " * 5, False),  # 2 of 10 words distinct: 20 %, not under it
        ("No no NO no no no", True),  # letter case does not make a word another: 1 of 6
        ("🌟🌟🌟🌟🌟", True),
    ],
)
def test_degenerate_is_fewer_than_three_words_or_under_a_fifth_distinct(text, degenerate):
    assert scores.is_degenerate(text) is degenerate


@given(st.text())
def test_any_text_is_degenerate_or_not(text):
    assert scores.is_degenerate(text) in (True, False)


@pytest.mark.parametrize(
    "text, masked",
    [
        ("I was Angry, and angrier than ever.", "I was ..., and ... than ever."),
        ("enraged outrage; hatred", "... ...; ..."),
        ("Disgusted by the revolting smell", "... by the ... smell"),
        ("afraid, scared, terrified: fearful!", "..., ..., ...: ...!"),
        ("guilty with remorse", "... with ..."),
        ("Happiness is joyful; unhappiness is not", "... is ...; ... is not"),
        ("Sadly, my heart-broken grief", "..., my ... ..."),
        ("ashamed and embarrassingly humiliated", "... and ... ..."),
        ("The sadistic gladiator made a scarf in Madrid, madam, and a fresh rag", None),  # no word of an emotion in these
        ("I lost my keys.", None),
    ],
)
def test_emotion_words_are_masked_as_they_are_inflected(text, masked):
    assert scores.mask_emotion_words(text) == (text if masked is None else masked)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_is_masked_by_its_own_name(emotion):
    assert scores.mask_emotion_words(f"{emotion} {emotion.upper()}") == "... ..." and emotion in scores.EMOTION_WORDS


def test_judged_takes_the_likeliest_and_none_for_a_degenerate_text():
    probabilities = np.eye(7)[[4, 4]] * 0.9 + 0.1 / 7
    alive, dead = scores.judged(["What a lovely day", ""], probabilities, EMOTIONS)
    assert (alive["judged_emotion"], dead["judged_emotion"]) == ("joy", "none")
    assert list(alive["probabilities"]) == list(EMOTIONS)
    assert alive["probabilities"]["joy"] == pytest.approx(0.9 + 0.1 / 7, abs=1e-6)


def test_rouge_by_hand_against_the_best_of_two_references():
    # "the cat sat" against "the cat ran": 2 of 3 unigrams, 1 of 2 bigrams, LCS 2 of 3, all both ways: F 2/3, 1/2, 2/3.
    # Against "a dog": nothing. The best match is the first.
    (row,) = scores.rouge_to_references([generation("the cat sat")], {"joy": ["a dog", "the cat ran"]})
    assert (row["rouge1"], row["rouge2"], row["rougeL"]) == pytest.approx((2 / 3, 1 / 2, 2 / 3), abs=1e-6)


def test_texts_asked_for_no_emotion_have_no_references_and_no_score():
    rows = scores.rouge_to_references([generation("a b c", None), generation("a b c")], {"joy": ["a b c"]})
    assert [row["emotion"] for row in rows] == ["joy"]


def test_rouge_to_texts_pairs_the_same_prompt_and_emotion():
    ours = [generation("one two", "joy"), generation("three four", "fear"), generation("five six", None)]
    theirs = [generation("three nine", "fear"), generation("five six", None), generation("eight", "joy")]
    assert [row["rouge1"] for row in scores.rouge_to_texts(ours, theirs)] == [0, 0.5, 1]


def test_generations_are_masked_and_the_text_alone_changes():
    rows = [{"prompt_id": "a", "text": "Such joy!"}, {"prompt_id": "b", "text": "The train left."}]
    assert scores.masked(rows) == [{"prompt_id": "a", "text": "Such ...!"}, {"prompt_id": "b", "text": "The train left."}]
    assert rows[0]["text"] == "Such joy!"


@pytest.mark.parametrize(
    "text, emotion, names", [("I was furious.", "anger", True), ("I was furious.", "joy", False), ("A madrigal.", "anger", False)]
)
def test_text_names_an_emotion_by_its_words_alone(text, emotion, names):
    assert scores.names_emotion(text, emotion) is names
