import json

import numpy as np
import pytest

from affq import InputError, judge, weights
from affq.study import EMOTIONS


@pytest.fixture(scope="module")
def shipped():
    loaded = judge.load_judge("minilm-linear")
    weights.fetch(loaded.card["encoder"])
    return loaded


def test_probabilities_by_hand():
    # Logits 0 and ln 3: softmax 1/4 and 3/4.
    head = {"weight": np.array([[0.0, 0.0], [np.log(3), 5.0]]), "bias": np.array([0.0, 0.0])}
    assert judge.probabilities(np.array([[1.0, 0.0]]), head)[0] == pytest.approx([0.25, 0.75])


def test_shipped_judge_reads_plain_sentences(shipped):
    """Sentences that name the emotion: a head whose rows or columns were mixed up would miss them."""
    texts = {
        "anger": "I was furious and angry with him for breaking his promise.",
        "disgust": "The rotten smell and the maggots made me sick with disgust.",
        "fear": "I was terrified and afraid, alone in the dark house.",
        "guilt": "I feel guilty because I lied to my mother.",
        "joy": "I am so happy today! We won the game.",
        "sadness": "I am so sad, my grandmother died and I miss her.",
        "shame": "I feel ashamed of what I did in front of everybody.",
    }
    found = shipped.probabilities(list(texts.values())).argmax(axis=1)
    assert [EMOTIONS[i] for i in found] == list(texts)


def test_probabilities_do_not_depend_on_what_else_is_judged(shipped):
    texts = ["I am so happy.", "The long road home was dark and I was afraid of every sound behind me. " * 5, ""]
    together = shipped.probabilities(texts)
    alone = np.concatenate([shipped.probabilities([text]) for text in texts])
    assert together == pytest.approx(alone, abs=1e-5) and together.sum(axis=1) == pytest.approx(1)


def test_card_names_data_terms_and_quality(shipped):
    card, text = judge.read_card("minilm-linear")
    assert card["emotions"] == list(EMOTIONS) and "research use" in card["terms"] and "research use" in text
    assert [entry["file"] for entry in card["train"]] == ["isear.jsonl", "crowd_envent.jsonl"] and card["test"][
        "file"
    ] == "enisear.jsonl"
    assert f"{card['test']['macro_f1']:.2f} on enisear.jsonl" in text and f"looks at it: {card['test']['looks']}" in text
    assert card["test"]["macro_f1"] == pytest.approx(np.mean(list(card["test"]["f1"].values())), abs=1e-4)


def test_card_text_is_written_from_its_figures():
    from affq.judge_training import describe

    card, text = judge.read_card("minilm-linear")
    assert text == describe("minilm-linear", card).strip()


def test_damaged_head_is_not_used(tmp_path, monkeypatch):
    import shutil

    copy = shutil.copytree(judge.JUDGES / "minilm-linear", tmp_path / "minilm-linear")
    with open(copy / "head.safetensors", "ab") as file:
        file.write(b"x")
    monkeypatch.setattr(judge, "JUDGES", tmp_path)
    with pytest.raises(InputError, match="head.safetensors has SHA-256 .*: it is not used"):
        judge.load_judge("minilm-linear")


def test_unknown_judge_names_those_there_are():
    with pytest.raises(InputError, match="unknown judge 'oracle'; known: minilm-linear"):
        judge.load_judge("oracle")


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "line 2: not JSON"),
        ('{"t": 1}', "line 2: a line must be"),
        ("[]", "line 2: a line must be"),
        ('{"text": 3}', "line 2: a line must be"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, said):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "x"}\n' + line + "\n")
    with pytest.raises(InputError, match=said):
        judge.read_texts(path)


def test_training_is_reproducible_and_its_card_is_what_the_head_does(tmp_path):
    """On texts of our own, far too few for a good judge: the mechanism, not the quality."""
    from affq import judge_training
    from affq.study import PACKAGE

    rows = [json.loads(line) for line in (PACKAGE / "references.jsonl").read_text().splitlines()]
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("".join(json.dumps({**row, "respondent": row["prompt_id"]}) + "\n" for row in rows))
    test.write_text("".join(json.dumps(row) + "\n" for row in rows[::5]))
    heads = []
    for name in ("one", "two"):
        judge_training.main([train], test, tmp_path / name, "none")
        heads.append((tmp_path / name / "head.safetensors").read_bytes())
    assert heads[0] == heads[1]
    judge_training.main([train], test, tmp_path / "one", "none")
    front = (tmp_path / "one" / "card.md").read_text().split("---\n")[1]
    assert "looks: 2" in front and "train_texts: 70" in front


def test_training_holds_a_respondents_texts_together():
    """Each respondent has a place of their own in the embeddings: only who was learnt from can be recognized."""
    from affq import judge_training

    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(20), 5)
    emotions = np.array(EMOTIONS)[rng.integers(0, 7, 20)][people]
    embeddings = np.eye(20)[people]
    assert max(judge_training.cross_validate(embeddings, emotions, people).values()) < 0.35


def test_training_line_without_respondent_is_refused(tmp_path):
    from affq import judge_training

    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "x", "emotion": "joy"}\n')
    with pytest.raises(InputError, match="a line has no respondent: 'x'"):
        judge_training.labelled([path], "emotion", "respondent")
