import json
import random
import shutil

import judge_card
import numpy as np
import peft
import pytest
import torch
import train_judge
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from affq import emotions
from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.files import sha256_of
from affq.models import weights
from affq.scoring import judge, judge_file

REFERENCES = [json.loads(line) for line in emotions.REFERENCES.read_text().splitlines()]


@pytest.fixture(scope="module")
def shipped():
    loaded = judge.PackagedJudge("minilm-lora")
    loaded.fetch(print)
    return loaded


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A BERT with random weights, and a tokenizer of whole words: an encoder as small as one can be."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]"]
    words.train_from_iterator((row["text"] for row in REFERENCES), trainers.WordLevelTrainer(special_tokens=special))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=words.get_vocab_size(), **shape)).save_pretrained(folder)
    return folder


def test_probabilities_by_hand():
    # Logits 0 and ln 9: softmax 1/10 and 9/10; at temperature 2 the second is ln 3: 1/4 and 3/4.
    logits = np.array([[0.0, np.log(9)]])
    assert judge.probabilities(logits, 1)[0] == pytest.approx([0.1, 0.9])
    assert judge.probabilities(logits, 2)[0] == pytest.approx([0.25, 0.75])


def test_low_rank_updates_are_merged_as_peft_merges_them(tiny_bert):
    torch.manual_seed(1)
    _, encoder = judge.load_encoder(tiny_bert)
    settings = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["query", "dense"], init_lora_weights=False)
    model = peft.get_peft_model(encoder, settings).eval()
    tensors = {name.removeprefix("base_model.model."): t for name, t in peft.get_peft_model_state_dict(model).items()}
    tensors |= {"head.weight": torch.eye(7, 32), "head.bias": torch.arange(7.0)}
    ours = judge.Classifier(tiny_bert, tensors, {"r": 4, "lora_alpha": 12})
    inputs = judge.tokens(ours.tokenizer, texts := ["the old house", "rain"], 16)
    with torch.inference_mode():
        theirs = judge.mean_state(model.merge_and_unload(), inputs)[:, :7] + torch.arange(7.0)
    plain = judge.Classifier(tiny_bert, {k: v for k, v in tensors.items() if "head" in k}, {"r": 4, "lora_alpha": 12})
    assert ours.logits(texts) == pytest.approx(theirs.numpy(), abs=1e-5)
    assert np.abs(plain.logits(texts) - theirs.numpy()).max() > 0.1


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


def test_labels_do_not_depend_on_the_batch(shipped):
    texts = [row["text"] for row in REFERENCES] + ["The long road was dark and I was afraid of every sound. " * 5, ""]
    found = [shipped.probabilities(texts, batch) for batch in (1, 7, 64)]
    assert found[0] == pytest.approx(found[1], abs=1e-4) and found[0] == pytest.approx(found[2], abs=1e-4)
    assert (found[0].argmax(1) == found[1].argmax(1)).all() and (found[0].argmax(1) == found[2].argmax(1)).all()
    assert found[0].sum(axis=1) == pytest.approx(1)


def test_card_names_data_terms_and_quality(shipped):
    card, text = judge.read_card("minilm-lora")
    assert card["emotions"] == list(EMOTIONS) and "research use" in card["terms"] and "research use" in text
    assert [entry["file"] for entry in card["train"]] == ["isear.jsonl", "crowd_envent.jsonl"]
    assert (card["test"]["file"], card["other"]["file"]) == ("enisear.jsonl", "deisear.jsonl")
    assert f"{card['test']['macro_f1']:.2f} (" in text and f"looks at it: {card['test']['looks']}" in text
    assert card["test"]["macro_f1"] == pytest.approx(np.mean(list(card["test"]["f1"].values())), abs=1e-4)
    assert card["test"]["seeds"][0] == card["test"]["macro_f1"] and len(card["test"]["seeds"]) == 5
    assert sum(sum(row.values()) for row in card["test"]["confusion"].values()) == card["test"]["texts"] == 998


def test_card_says_what_the_shipped_judge_gets_right_of_the_probes(shipped):
    probes = judge_card.read_probes()
    chances = shipped.probabilities([row["text"] for row in probes])
    assert judge_card.probe(probes, chances, EMOTIONS) == shipped.card["probes"]


@pytest.mark.parametrize("name", judge.packaged())
def test_card_text_is_written_from_its_figures(name):
    card, text = judge.read_card(name)
    assert text == judge_card.describe(name, card).strip()


@pytest.mark.parametrize("name", judge.packaged())
def test_shipped_weights_are_small_and_those_of_the_card(name):
    card, _ = judge.read_card(name)
    file = judge.JUDGES / name / "weights.safetensors"
    assert file.stat().st_size == card["weights_bytes"] < 5e6 and sha256_of(file) == card["weights_sha256"]


def test_damaged_weights_are_not_used(tmp_path, monkeypatch):
    copy = shutil.copytree(judge.JUDGES / "minilm-lora", tmp_path / "minilm-lora")
    with open(copy / "weights.safetensors", "ab") as file:
        file.write(b"x")
    monkeypatch.setattr(judge, "JUDGES", tmp_path)
    with pytest.raises(InputError, match="weights.safetensors has SHA-256 .*: it is not used"):
        judge.PackagedJudge("minilm-lora").probabilities(["x"])


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
        judge_file.read_texts(path)


@pytest.fixture
def labelled_folder(tmp_path):
    """The packaged references as training and test files: far too few for a good judge. The mechanism, not the quality."""
    (tmp_path / "data").mkdir()
    for name in ("isear", "crowd_envent", "enisear", "deisear"):
        rows = [{**row, "respondent": row["prompt_id"]} for row in (REFERENCES if name == "isear" else REFERENCES[::5])]
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def test_training_is_reproducible_and_its_card_is_what_the_judge_does(labelled_folder, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "fetch", lambda name: tiny_bert)
    monkeypatch.setattr(weights, "folder", lambda name: tiny_bert)
    monkeypatch.setattr(train_judge, "SETTINGS", {**train_judge.SETTINGS, "epochs": 1})
    monkeypatch.setattr(judge_card, "RESAMPLES", 20)
    written = []
    for name in ("one", "two", "one"):
        train_judge.main(labelled_folder, tmp_path / name, "none", seeds=2)
        written.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert written[0] == written[1] == written[2]
    shutil.copy(judge.JUDGES / "probes.jsonl", tmp_path)
    monkeypatch.setattr(judge, "JUDGES", tmp_path)
    made = judge.PackagedJudge("one")
    assert made.card["test"]["looks"] == 2 and judge.read_card("two")[0]["test"]["looks"] == 1
    assert made.card["train_texts"] + made.card["held_out"]["texts"] == len(REFERENCES) + len(REFERENCES[::5])
    chances = made.probabilities([row["text"] for row in REFERENCES[::5]])
    right = chances.argmax(1) == [EMOTIONS.index(row["emotion"]) for row in REFERENCES[::5]]
    assert right.sum() == sum(made.card["test"]["confusion"][emotion][emotion] for emotion in EMOTIONS)
    assert made.card["test"]["seeds"][0] == made.card["test"]["macro_f1"] and len(made.card["test"]["seeds"]) == 2
    assert (tmp_path / "one" / "reliability.png").stat().st_size > 0


def test_another_seed_gives_other_weights(tiny_bert, monkeypatch):
    monkeypatch.setattr(train_judge, "SETTINGS", {**train_judge.SETTINGS, "epochs": 1})
    one, two = (train_judge.train(REFERENCES, tiny_bert, seed)["head.weight"] for seed in (0, 1))
    assert not torch.equal(one, two)


def test_training_holds_a_respondents_texts_together():
    rows = [{"text": str(n), "respondent": n // 5} for n in range(200)]
    learnt, held = train_judge.hold_out(rows)
    assert len(learnt) + len(held) == 200 and len(held) == 20  # a tenth of forty people with five texts each
    assert not {row["respondent"] for row in learnt} & {row["respondent"] for row in held}


def test_texts_are_varied_by_masking_and_opening(monkeypatch):
    monkeypatch.setattr(train_judge, "SETTINGS", {"masked_share": 1, "opened_share": 1})
    varied = [train_judge.vary(text, random.Random(0)) for text in ("When fear came", "I was glad", "My joy", "")]
    assert varied == ["I felt ... when ... came", "I felt ... when I was ...", "I felt ... when my ...", "I felt ... when "]
    monkeypatch.setattr(train_judge, "SETTINGS", {"masked_share": 0, "opened_share": 0})
    assert train_judge.vary("My joy", random.Random(0)) == "My joy"


def test_every_text_is_drawn_once_an_epoch():
    rows = [{"text": "x" * (n % 7), "n": n} for n in range(100)]
    drawn = train_judge.batches(rows, random.Random(0))
    assert sorted(row["n"] for batch in drawn for row in batch) == list(range(100))
    assert sorted(map(len, drawn)) == [4, 32, 32, 32]


def test_training_line_without_respondent_is_its_own_and_one_without_emotion_is_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "x", "emotion": "joy"}\n{"text": "y", "emotion": "fear"}\n')
    assert len({row["respondent"] for row in train_judge.labelled([path])}) == 2
    path.write_text('{"text": "x", "emotion": "joy"}\n{"text": "y"}\n')
    with pytest.raises(InputError, match="train.jsonl, line 2 has no emotion: 'y'"):
        train_judge.labelled([path])
