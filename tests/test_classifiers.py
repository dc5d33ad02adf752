"""Judges that others made: real sequence classifiers, small, in a folder and in the hub's cache."""

import json

import numpy as np
import pytest
import transformers
import yaml
from conftest import WORDS, put_into_hub_cache, save_classifier

from affq import InputError, classifiers
from affq.study import EMOTIONS, load_study

MAP = {"remorse": "guilt", "embarrassment": "shame"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("judges") / "word-reader")


def test_labels_that_differ_are_mapped_and_those_of_one_emotion_added(classifier):
    judge = classifiers.find(str(classifier), {**MAP, "grief": "sadness"}, classifier, EMOTIONS)
    judge.need(EMOTIONS)
    assert judge.emotions == ("anger", "disgust", "fear", "guilt", "joy", "sadness", "shame", "neutral")
    found = judge.probabilities([*WORDS, "gone"])
    # Softmax of logits 8 and eight times 0; "gone" has the label Grief, which is sadness too.
    top = np.exp(8) / (np.exp(8) + 8)
    expected = [[top if i == j else (1 - top) / 8 for j in range(8)] for i in range(7)] + [[(1 - top) / 8] * 8]
    for row in expected[:7]:
        row[5] += (1 - top) / 8  # sadness is two labels
    expected[7][5] = top + (1 - top) / 8
    assert found == pytest.approx(np.array(expected), abs=1e-3)
    assert found.sum(axis=1) == pytest.approx(1)


def test_labels_do_not_depend_on_the_batch(classifier):
    judge = classifiers.find(str(classifier), MAP, classifier, EMOTIONS)
    texts = [f"{word} {'gone ' * n}" for n, word in enumerate(WORDS)]
    assert judge.probabilities(texts, 1) == pytest.approx(judge.probabilities(texts, 4), abs=1e-5)


def test_probabilities_of_several_labels_a_text_are_each_by_itself(tmp_path):
    folder = save_classifier(tmp_path / "several", problem_type="multi_label_classification")
    judge = classifiers.find(str(folder), {**MAP, "grief": "sadness"}, tmp_path, EMOTIONS)
    found = judge.probabilities(["gone", "yay"])
    # The logistic function of 8 and of 0; sadness is the greater of its two labels.
    own, other = 1 / (1 + np.exp(-8)), 0.5
    assert found[0] == pytest.approx([other] * 5 + [own, other, other], abs=1e-3)
    assert found[1][4] == pytest.approx(own, abs=1e-3)


def test_missing_labels_are_refused_with_those_it_has(classifier):
    judge = classifiers.find(str(classifier), {}, classifier, EMOTIONS)
    with pytest.raises(InputError, match="judge word-reader has no label for guilt, shame; its labels: anger, disgust, fear"):
        judge.need(EMOTIONS)
    judge.need(("joy", "fear"))  # a study of these two can have it


@pytest.mark.parametrize(
    "labels, said",
    [
        ({"regret": "guilt"}, "has no label 'regret'; its labels: anger, "),
        ({"remorse": "envy"}, "unknown emotion 'envy' in the labels of judge .*; known: anger, disgust"),
    ],
)
def test_labels_that_do_not_map_are_refused(classifier, labels, said):
    with pytest.raises(InputError, match=said):
        classifiers.find(str(classifier), labels, classifier, EMOTIONS).need(("joy",))


def test_a_packaged_judge_takes_no_labels(tmp_path):
    with pytest.raises(InputError, match="judge minilm-lora is packaged"):
        classifiers.find("minilm-lora", {"a": "joy"}, tmp_path, EMOTIONS)


def test_a_model_that_generates_is_no_judge(tiny_llama):
    with pytest.raises(InputError, match=r"holds no classifier of texts \(LlamaForCausalLM\)"):
        classifiers.find(str(tiny_llama), {}, tiny_llama.parent, EMOTIONS)


def test_a_head_that_is_not_there_is_not_made_up(tmp_path):
    folder = save_classifier(tmp_path / "headless")
    transformers.AutoModel.from_pretrained(folder).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(InputError, match="lacks 2 of its weights, as classifier.bias"):
        classifiers.find(str(folder), {}, tmp_path, EMOTIONS).probabilities(["yay"])


def test_a_classifier_of_the_hubs_cache_is_a_judge_of_a_study(classifier, tmp_path, monkeypatch, write_study):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = put_into_hub_cache(tmp_path / "hub", "someone/reader", classifier)
    (judge,) = load_study(write_study(judges=["someone/reader"])).judges
    assert judge.name == "someone-reader" and judge.identity["revision"] == f"someone/reader@{snapshot.name}"
    judge.fetch(print)  # all of it is here
    assert judge.emotions[int(judge.probabilities(["yay"])[0].argmax())] == "joy"


def test_a_study_says_where_a_judge_does_not_fit(classifier, write_study):
    study = write_study(judges=["minilm-lora", {"judge": str(classifier), "labels": MAP}])
    assert [judge.name for judge in load_study(study).judges] == ["minilm-lora", "word-reader"]
    values = yaml.safe_load(study.read_text())
    for wrong, said in [
        ({"judge": str(classifier), "label": {}}, "unknown key 'label' in .*; known: judge, labels"),
        ({"labels": {"a": "joy"}}, "a judge in .* must be a name, or {judge: its name"),
        ({"judge": str(classifier), "labels": {"a": 3}}, "a judge in .* must be a name"),
        ("oracle", "unknown judge 'oracle' in .*; known: minilm-goemotions, minilm-lora, or a folder"),
        (str(classifier), "two judges in .* have the same name"),
    ]:
        study.write_text(yaml.safe_dump({**values, "judges": [str(classifier), wrong]}))
        with pytest.raises(InputError, match=said):
            load_study(study)
    study.write_text(yaml.safe_dump({**values, "judges": [str(classifier)], "emotions": ["joy", "guilt"]}))
    with pytest.raises(InputError, match="word-reader has no label for guilt"):
        load_study(study)
