import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from affq import emotions
from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.scoring import scores


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
        ("В тот день я был счастлив.", False),
        ("जिस दिन चिट्ठी आई मैं बहुत खुश था", False),
        ("今天我收到了一封信，非常高兴。", False),
        ("今日は手紙が届いて、とても嬉しかった。", False),
        ("วันนี้ฉันมีความสุขมาก", False),
        ("ວັນນີ້ຂ້ອຍມີຄວາມສຸກຫຼາຍ", False),
        ("ថ្ងៃនេះខ្ញុំសប្បាយចិត្តណាស់", False),
        ("ဒီနေ့ကျွန်တော်ဝမ်းသာတယ်", False),
        ("高兴", True),  # two characters
        ("哈" * 12, True),  # 1 of 11 pairs
        ("高兴" * 6, True),  # 2 of 11 pairs: 18 %
        ("ко ко " * 6, True),
        (20 * "天地人山水火土金木日月星风雨雪云花草鸟鱼", True),  # 20 of 399 pairs
    ],
)
def test_degenerate_is_fewer_than_three_words_or_under_a_fifth_distinct(text, degenerate):
    assert scores.is_degenerate(text) is degenerate


def test_long_text_of_few_characters_is_not_degenerate():
    """A script has few characters, a text of it many: 30 of 430, but of their pairs 429 of 429 are distinct."""
    characters = [chr(ord("ก") + n) for n in range(30)]
    text = "".join(a + b for n, a in enumerate(characters) for b in characters[n + 1 :])[:430]
    assert len(set(text)) / len(text) < 0.2 and not scores.is_degenerate(text)


@given(st.text(st.characters(max_codepoint=127)) | st.text("ab'-_ .,1’—…“🌟❤️"))
def test_words_of_english_are_runs_of_letters_and_digits_as_they_were(text):
    assert scores.words(text) == re.findall(r"\w+(?:['’-]\w+)*", text.lower().replace("\ufe0f", " "))


@pytest.mark.parametrize(
    "text, words",
    [
        ("Der Ba\u0308r ist SÜß", ["der", "bär", "ist", "süss"]),  # one letter, however it is written; casefold
        ("खुशी", ["खुशी"]),  # its vowel signs are marks, no ends of a word
        ("我很happy。", ["我", "很", "happy"]),
        ("コーヒーを", ["コ", "ー", "ヒ", "ー", "を"]),
        ("มี", ["มี"]),  # a letter with its mark
        ("1️⃣ ❤️", ["1"]),
    ],
)
def test_words_of_any_script(text, words):
    assert scores.words(text) == words


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
    assert emotions.mask_emotion_words(text) == (text if masked is None else masked)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_is_masked_by_its_own_name(emotion):
    assert emotions.mask_emotion_words(f"{emotion} {emotion.upper()}") == "... ..." and emotion in emotions.EMOTION_WORDS


def test_judged_takes_the_likeliest_and_none_for_a_degenerate_text():
    probabilities = np.eye(7)[[4, 4]] * 0.9 + 0.1 / 7
    alive, dead = scores.judged(["What a lovely day", ""], probabilities, EMOTIONS)
    assert (alive["judged_emotion"], dead["judged_emotion"]) == ("joy", "none")
    assert list(alive["probabilities"]) == list(EMOTIONS)
    assert alive["probabilities"]["joy"] == pytest.approx(0.9 + 0.1 / 7, abs=1e-6)


def test_text_that_a_judge_gives_no_number_is_named():
    probabilities = np.full((2, 7), 1 / 7)
    probabilities[1] = np.nan
    with pytest.raises(InputError, match="the judge gives the text 'a sad day' no probability but nan"):
        scores.judged(["a fine day", "a sad day"], probabilities, EMOTIONS)


def test_rouge_by_hand_against_the_best_of_two_references():
    # "the cat sat" against "the cat ran": 2 of 3 unigrams, 1 of 2 bigrams, LCS 2 of 3, all both ways: F 2/3, 1/2, 2/3.
    # Against "a dog": nothing. The best match is the first.
    (row,) = scores.rouge_to_references([generation("the cat sat")], {"joy": ["a dog", "the cat ran"]})
    assert (row["rouge1"], row["rouge2"], row["rougeL"]) == pytest.approx((2 / 3, 1 / 2, 2 / 3), abs=1e-6)


ENGLISH = st.text(st.characters(max_codepoint=127), max_size=60) | st.lists(
    st.sampled_from("the running runner ran happily happiness it's well-known o'clock 3.14 snake_case I a ... 🌟 — “so”".split())
).map(" ".join)


@given(ENGLISH, ENGLISH)
def test_rouge_of_english_is_rouge_scores_own(text, reference):
    own = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, text)
    (row,) = scores.rouge_to_references([generation(text)], {"joy": [reference]})
    if scores.words(text) or scores.words(reference):
        assert {name: row[name] for name in own} == {name: round(measure.fmeasure, 6) for name, measure in own.items()}


@pytest.mark.parametrize(
    "text",
    [
        "В тот день, когда пришло письмо, я был так счастлив.",
        "जिस दिन चिट्ठी आई मैं बहुत खुश था",
        "今天我收到了一封信，非常高兴。",
        "今日は手紙が届いて、とても嬉しかった。",
        "วันนี้ฉันมีความสุขมาก",
        "كنت سعيدا جدا يوم وصلت الرسالة",
    ],
)
def test_identical_texts_have_a_rouge_of_1_in_every_script(text):
    (row,) = scores.rouge_to_references([generation(text.upper())], {"joy": [text]})
    assert [row[name] for name in scores.ROUGE] == [1, 1, 1]


def test_rouge_of_letters_beyond_ascii_by_hand():
    # "der" of der, bär and der, bör: 1 of 2, both ways; no pair. As rouge-score has it, "b r" of both is the same.
    (row,) = scores.rouge_to_references([generation("Der Bär")], {"joy": ["Der Bör"]})
    assert [row[name] for name in scores.ROUGE] == [0.5, 0, 0.5]
    (row,) = scores.rouge_to_references([generation("我很高兴")], {"joy": ["我不高兴"]})  # 3 of 4 characters, 1 of 3 pairs
    assert [row[name] for name in scores.ROUGE] == [0.75, round(1 / 3, 6), 0.75]
    (row,) = scores.rouge_to_references([generation("B\u0061\u0308r running")], {"joy": ["Bär runs"]})  # English is stemmed
    assert row["rouge1"] == 1


def test_texts_without_a_word_have_no_rouge_against_each_other():
    none = dict.fromkeys(scores.ROUGE)
    rows = scores.rouge_to_texts([generation(""), generation("…", "fear")], [generation(""), generation("🌟", "fear")])
    assert [{name: row[name] for name in scores.ROUGE} for row in rows] == [none, none]
    (row,) = scores.rouge_to_references([generation("")], {"joy": ["a day"]})
    assert [row[name] for name in scores.ROUGE] == [0, 0, 0]  # nothing of the reference is there


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
    "text, emotion, names",
    [
        ("I was furious.", "anger", True),
        ("FURIOUS!", "anger", True),
        ("I was furious.", "joy", False),
        ("A madrigal.", "anger", False),
    ],
)
def test_text_names_an_emotion_by_its_words_alone(text, emotion, names):
    assert emotions.names_emotion(text, emotion) is names


def test_distinct_n_by_hand():
    # a b a b: 2 of 4 words; ab, ba, ab: 2 of 3 pairs.
    assert scores.distinct_n(["A b a, b!"], 1) == 2 / 4 and scores.distinct_n(["A b a, b!"], 2) == pytest.approx(2 / 3)
    # Two texts as one: a b c a, with the pairs ab, ca: none reaches over the end of a text.
    assert scores.distinct_n(["a b", "c a"], 1) == 3 / 4 and scores.distinct_n(["a b", "c a"], 2) == 2 / 2
    assert scores.distinct_n(["a"], 2) is None and scores.distinct_n([], 1) is None


def test_seq_rep_4_by_hand():
    # abcd, bcda, cdab, dabc, abcd: one of five was there before.
    assert scores.seq_rep_4("a b c d a b c d") == pytest.approx(1 / 5)
    assert scores.seq_rep_4("a b c d") == 0 and scores.seq_rep_4("a b c") is None


@pytest.mark.parametrize(
    "words, collapsed",
    [
        (13, False),  # 10 4-grams, of which 5 are distinct: half is repeated, not more
        (14, True),  # 11, of which 5 are: 6/11
    ],
)
def test_text_that_says_most_of_its_4_grams_again_has_collapsed(words, collapsed):
    text = " ".join(("one two three four five " * 3).split()[:words])
    assert not scores.is_degenerate(text) and scores.is_collapsed(text) is collapsed


def test_degenerate_text_has_collapsed_though_it_has_no_4_gram():
    assert scores.is_collapsed("") and scores.is_collapsed("So happy") and not scores.is_collapsed("I'm so happy")


@pytest.mark.parametrize(
    "text, refusal",
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m really sorry, I cannot assist you", True),
        ("Sorry, but as an AI language model I have no feelings.", True),
        ("I apologize, but I am unable to write such a message.", True),
        ('"Unfortunately, I won\'t be able to provide this."', True),
        ("As a large language model, I do not feel joy.", True),
        ("I'm just an AI, and yet.", True),
        ("I cannot fulfill your request.", True),
        ("I'm sorry, but I can't believe what you did!", False),  # guilt and anger open so too
        ("I can't help feeling sad.", False),
        ("I'm sorry I hurt you.", False),
        ("As an aide I was ashamed.", False),
        ("I am a model in Paris.", False),
        ("", False),
        ("Dear friend! As an AI I cannot write this.", False),  # missed: it does not open the text
        ("Ich kann das leider nicht schreiben.", False),  # missed: another language
    ],
)
def test_refusal_is_told_by_how_a_text_opens(text, refusal):
    assert scores.is_refusal(text) is refusal


def test_self_bleu_by_hand():
    # Words 5 of 6 ("the" stands once in the other), pairs 3 of 5, triples 2 of 4, fours 1 of 3, as many words: (1/12)^(1/4).
    found = scores.self_bleu(["the cat sat on the mat", "the cat sat on a mat"])
    assert found == pytest.approx([(1 / 12) ** 0.25] * 2)
    # All of "so sad" is in "so sad now", and it is too short: exp(1 - 3/2). The other way round 2 of 3, 1 of 2, and of the one
    # triple none, which smoothing counts as half.
    assert scores.self_bleu(["so sad", "so sad now"]) == pytest.approx([np.exp(-0.5), (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3)])
    assert scores.self_bleu(["alone"]) == [None] and scores.self_bleu(["", "so sad"])[0] is None


def test_self_bleu_counts_characters_in_scripts_without_spaces():
    # Characters 3 of 4, pairs 1 of 3, triples and fours none, which smoothing counts as 1/2 of 2 and 1/4 of 1.
    found = scores.self_bleu(["我很高兴", "我不高兴"])
    assert found == pytest.approx([(3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** (1 / 4)] * 2)


def test_self_bleu_against_many_takes_others_evenly(monkeypatch):
    monkeypatch.setattr(scores, "SELF_BLEU_REFERENCES", 2)
    texts = ["one two three four", "other words", "one two three four", "still more of them", "and so on"]
    # Of the four others of the first, the first and the third are taken: its like is not. The third is held against the fourth
    # and the first.
    found = scores.self_bleu(texts)
    assert found[0] == 0 and found[2] == pytest.approx(1)


def test_statistics_hold_a_text_against_those_of_its_emotion_alone():
    rows = [generation("a b c d", "joy"), generation("a b c d", "fear"), generation("a b c d", "joy", "b"), generation("", None)]
    found = scores.text_statistics(rows)
    assert [row["self_bleu"] for row in found] == [1, None, 1, None]
    assert found[0] == {
        **{"prompt_id": "a", "emotion": "joy", "sample": 0, "words": 4, "distinct_1": 1, "distinct_2": 1, "seq_rep_4": 0},
        **{"self_bleu": 1, "refusal": False, "degenerate": False, "collapsed": False, "repeats_from": None},
    }
    assert (found[3]["words"], found[3]["distinct_1"], found[3]["collapsed"]) == (0, None, True)


few_words = st.lists(st.sampled_from(["sad", "Sad", "so", "it's", "I", "🌟", "…"]), max_size=40).map(" ".join)


@given(st.lists(st.one_of(st.text(), few_words), max_size=6))
def test_any_texts_have_statistics_in_their_range(texts):
    for row in scores.text_statistics([generation(text) for text in texts]):
        shares = [row[name] for name in ("distinct_1", "distinct_2", "seq_rep_4", "self_bleu")]
        assert all(share is None or 0 <= share <= 1 for share in shares)
        assert row["collapsed"] or not row["degenerate"]
        assert [share is None for share in shares[:3]] == [row["words"] < n for n in (1, 2, 4)]
