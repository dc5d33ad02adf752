"""Judges that others made: real sequence classifiers, small, in a folder and in the hub's cache."""

import json

import numpy as np
import pytest
import torch
import transformers
import yaml
from conftest import WORDS, put_into_hub_cache, save_classifier
from tokenizers import Tokenizer, models, pre_tokenizers

from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.scoring import classifiers, packaged
from affq.study import load_study

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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
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
        ("oracle", f"unknown judge 'oracle' in .*; known: {', '.join(packaged())}, or a folder"),
        (str(classifier), "two judges in .* have the same name"),
    ]:
        study.write_text(yaml.safe_dump({**values, "judges": [str(classifier), wrong]}))
        with pytest.raises(InputError, match=said):
            load_study(study)
    study.write_text(yaml.safe_dump({**values, "judges": [str(classifier)], "emotions": ["joy", "guilt"]}))
    with pytest.raises(InputError, match="word-reader has no label for guilt"):
        load_study(study)


def save_gpt2(folder, eos):
    """Save a GPT-2 that classifies, random, whose tokenizer has no token for padding."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(("[END]", "[UNK]", *WORDS))}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token=eos).save_pretrained(folder)
    shape = {"vocab_size": 9, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    config = transformers.GPT2Config(**shape, id2label=dict(enumerate(EMOTIONS)))
    transformers.GPT2ForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("eos", ["[END]", None])
def test_a_tokenizer_without_padding_gives_each_text_what_it_gets_alone(tmp_path, eos):
    folder = save_gpt2(tmp_path / "gpt2", eos)
    texts = ["yay", "gone yay yay", " ".join(WORDS), "yay " * 40]  # the last beyond its 16 positions
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        alone = [model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=16)).logits[0] for text in texts]
    found = classifiers.find(str(folder), {}, tmp_path, EMOTIONS).probabilities(texts)
    assert found == pytest.approx(torch.stack(alone).softmax(dim=1).numpy(), abs=1e-6)


@pytest.mark.parametrize("eos", ["[END]", None])
def test_a_text_without_a_token_gives_all_labels_the_same_beside_others_and_alone(tmp_path, eos):
    judge = classifiers.find(str(save_gpt2(tmp_path / "gpt2", eos)), {}, tmp_path, EMOTIONS)
    assert judge.probabilities(["", "yay", ""])[[0, 2]] == pytest.approx(1 / 7)
    assert judge.probabilities([""]) == pytest.approx(1 / 7) and judge.probabilities([]).shape == (0, 7)


@pytest.mark.parametrize("kind, reads", [("Bert", 16), ("Roberta", 14)])  # RoBERTa's begin after the padding's, 1: 16 - 2
def test_a_text_is_read_as_far_as_a_model_has_positions(tmp_path, kind, reads):
    folder = save_classifier(tmp_path / "short")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10}
    config = getattr(transformers, f"{kind}Config")(
        **shape, max_position_embeddings=16, pad_token_id=int(kind == "Roberta"), id2label=dict(enumerate(EMOTIONS))
    )
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    judge = classifiers.find(str(folder), {}, tmp_path, EMOTIONS)
    longest, beyond, shorter = (judge.probabilities(["yay " * count]) for count in (reads, 40, reads - 1))
    assert longest == pytest.approx(beyond) and longest != pytest.approx(shorter)


def test_a_judge_whose_positions_have_no_end_reads_as_others(tmp_path):
    folder = save_classifier(tmp_path / "endless")
    judge = classifiers.find(str(folder), MAP, tmp_path, EMOTIONS)
    expected = judge.probabilities(["yay"])
    judge._loaded[1].config.max_position_embeddings = -1
    assert judge.probabilities(["yay"]) == pytest.approx(expected)


def test_a_pad_token_that_the_judge_has_no_embedding_for_changes_no_answer(tmp_path):
    folder = save_classifier(tmp_path / "padded")
    judge = classifiers.find(str(folder), MAP, tmp_path, EMOTIONS)
    texts = ["yay", "rage gone", "blush tears dread"]
    expected = judge.probabilities(texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PADDING]"})
    tokenizer.save_pretrained(folder)
    assert tokenizer.pad_token_id == 10  # of as many embeddings
    again = classifiers.find(str(folder), MAP, tmp_path, EMOTIONS)
    assert again.probabilities(texts) == pytest.approx(expected, abs=1e-6)


def test_a_label_of_its_own_called_none_is_not_taken_for_a_text_that_collapsed(tmp_path):
    names = ["Anger", "Disgust", "Fear", "guilt", "Joy", "Sadness", "shame", "None"]
    folder = save_classifier(tmp_path / "nihil", labels=names)
    with pytest.raises(InputError, match="judge nihil has a label of its own called none, .* or rename it"):
        classifiers.find(str(folder), {}, tmp_path, EMOTIONS).need(("joy",))
    assert "none" not in classifiers.find(str(folder), {"none": "sadness"}, tmp_path, EMOTIONS).emotions
