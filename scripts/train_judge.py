"""Train a judge, evaluate it, and write its weights and its card, from a folder of labelled texts.

    python scripts/train_judge.py --data FOLDER --terms "research use" --out affq/scoring/judges/minilm-lora

Lines are objects with text and emotion, and those to train on with respondent where it is known who wrote several texts: a tenth
of the respondents is held out, for their figures and for the temperature; a text without a respondent counts as one of its own.
The test files are evaluated once, at the end, and nothing is chosen by them. Same seed, data and machine: same weights.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import judge_card
import numpy as np
import torch
import typer
import yaml
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit

from affq.emotions import EMOTIONS, MASK, mask_emotion_words
from affq.errors import InputError
from affq.files import sha256_of
from affq.models import weights
from affq.report import charts
from affq.scoring.judge import Classifier, load_encoder, mean_state, probabilities, tokens
from affq.scoring.judge_file import read_texts

ENCODER = "all-minilm-l6-v2"
ADAPTERS: dict[str, Any] = {"r": 32, "lora_alpha": 64, "lora_dropout": 0.0, "target_modules": ["query", "key", "value", "dense"]}
# Chosen by the macro-F1 on held-out respondents.
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch": 32,
    "learning_rate": 2e-3,
    "warmup_share": 0.06,
    "label_smoothing": 0.1,
    "head_dropout": 0.1,
    "tokens": 128,
    "masked_share": 0.5,  # of the times that a text is drawn, its emotion words are masked
    "opened_share": 0.3,  # of those times, it is opened as enISEAR's texts are: I felt ... when
}
TRAIN = ["isear.jsonl", "crowd_envent.jsonl"]
HELD_OUT = 0.1  # of the respondents
LINEAR_PENALTY = 3.0  # scikit-learn's C of the linear head, the best of 1, 3, 10, 30 by cross-validation over respondents


Row = dict[str, Any]  # {text, emotion, respondent}


def labelled(paths: Iterable[Path]) -> list[Row]:
    """Return the lines of JSONL files whose emotion is one of the seven; raise InputError for a line without an emotion."""
    rows = []
    for path in paths:
        for number, row in enumerate(read_texts(path), 1):
            if "emotion" not in row:
                text = row["text"][:60]
                raise InputError(f"{{place}} has no emotion: {text!r}", value=text, place=f"{path}, line {number}")
            if row["emotion"] in EMOTIONS:
                rows.append({"respondent": f"{path.name}, line {number}", **row})
    return rows


def hold_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Split rows into what is learnt from and what is held out; no respondent has texts in both."""
    split = GroupShuffleSplit(n_splits=1, test_size=HELD_OUT, random_state=0)
    learnt, held = next(split.split(rows, groups=[row["respondent"] for row in rows]))
    return [rows[i] for i in learnt], [rows[i] for i in held]


def truth_of(rows: Iterable[Row]) -> np.ndarray:
    """Return the index of each row's emotion."""
    return np.array([EMOTIONS.index(row["emotion"]) for row in rows])


def vary(text: str, rng: random.Random) -> str:
    """Mask a text's emotion words, or open it as a report of an event begins, or both, or neither: as chance has it."""
    if rng.random() < SETTINGS["masked_share"]:
        text = mask_emotion_words(text)
    if rng.random() < SETTINGS["opened_share"]:
        told = text if text[:2] in ("I ", "I'") else text[:1].lower() + text[1:]
        text = f"I felt {MASK} {'' if told.startswith('when ') else 'when '}{told}"
    return text


def batches(rows: Sequence[Row], rng: random.Random) -> list[list[Row]]:
    """Return one epoch's batches in random order, each of texts of about the same length."""
    order, size = rng.sample(range(len(rows)), len(rows)), SETTINGS["batch"]
    batched = []
    for start in range(0, len(order), 40 * size):
        alike = sorted(order[start : start + 40 * size], key=lambda i: len(rows[i]["text"]))
        batched += [[rows[i] for i in alike[at : at + size]] for at in range(0, len(alike), size)]
    rng.shuffle(batched)
    return batched


def train(rows: Sequence[Row], folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """Train low-rank updates of the encoder in `folder`, and a head; return tensors as Classifier takes them, in float16."""
    import peft
    from transformers import get_linear_schedule_with_warmup

    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer, encoder = load_encoder(folder)
    model = peft.get_peft_model(encoder, peft.LoraConfig(**ADAPTERS)).train()
    head = torch.nn.Linear(encoder.config.hidden_size, len(EMOTIONS))
    learning = [*filter(lambda p: p.requires_grad, model.parameters()), *head.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=SETTINGS["learning_rate"], weight_decay=0.01)
    steps = SETTINGS["epochs"] * len(batches(rows, random.Random(0)))
    schedule = get_linear_schedule_with_warmup(optimizer, int(SETTINGS["warmup_share"] * steps), steps)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=SETTINGS["label_smoothing"])
    for _ in range(SETTINGS["epochs"]):
        for batch in batches(rows, rng):
            inputs = tokens(tokenizer, [vary(row["text"], rng) for row in batch], SETTINGS["tokens"])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                state = mean_state(model, inputs)
            logits = head(torch.nn.functional.dropout(state, SETTINGS["head_dropout"]))
            loss(logits, torch.from_numpy(truth_of(batch))).backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    tensors = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    tensors |= {name.removeprefix("base_model.model."): t for name, t in peft.get_peft_model_state_dict(model).items()}
    return {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}


def linear_head(rows: Sequence[Row], folder: Path) -> Callable[[list[str]], np.ndarray]:
    """Fit a linear head over the unchanged encoder's embeddings, at unit length, to compare with: texts to probabilities."""
    zeros = {"head.weight": torch.zeros(len(EMOTIONS), 1), "head.bias": torch.zeros(len(EMOTIONS))}
    encoder = Classifier(folder, zeros, ADAPTERS)

    def embed(texts: list[str]) -> np.ndarray:
        return torch.nn.functional.normalize(encoder.embed(texts), dim=1).numpy()

    head = LogisticRegression(C=LINEAR_PENALTY, max_iter=2000).fit(embed([row["text"] for row in rows]), truth_of(rows))
    return lambda texts: head.predict_proba(embed(texts))


def main(
    data: Annotated[Path, typer.Option(help="folder of the JSONL files")],
    out: Annotated[Path, typer.Option(help="folder for weights.safetensors, card.md and reliability.png")],
    terms: Annotated[str, typer.Option(help="terms of use that the training data put on the weights")],
    learn: Annotated[list[str], typer.Option("--train", help="a file of it; can be given several times")] = TRAIN,
    test: Annotated[str, typer.Option(help="a file of it; looked at once, at the end")] = "enisear.jsonl",
    other: Annotated[str, typer.Option(help="a file of it in another language; looked at likewise")] = "deisear.jsonl",
    seeds: Annotated[int, typer.Option(help="how many judges to train; that of seed 0 is written")] = 5,
) -> None:
    """Train the judge with several seeds, evaluate them once, and write the first with its card."""
    rows = labelled(data / name for name in learn)
    unseen, foreign = labelled([data / test]), labelled([data / other])
    learnt, held = hold_out(rows)
    folder = weights.fetch(ENCODER)
    trained = []
    for seed in range(seeds):
        begun = time.perf_counter()
        trained.append(train(learnt, folder, seed))
        print(f"seed {seed} trained in {time.perf_counter() - begun:.0f} s", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "weights.safetensors"
    save_file(trained[0], file)
    trained[0] = load_file(file)  # what is evaluated is what ships

    named = {"held_out": held, "test": unseen, "other": foreign}
    named["masked"] = [{**row, "text": mask_emotion_words(row["text"])} for row in held]
    texts = {name: [row["text"] for row in rows] for name, rows in named.items()}
    truth = {name: truth_of(rows) for name, rows in named.items()}
    classifiers = [Classifier(folder, tensors, ADAPTERS) for tensors in trained]
    logits = [{name: classifier.logits(of_file) for name, of_file in texts.items()} for classifier in classifiers]
    linear = linear_head(learnt, folder)
    figures = judge_card.figures(truth, logits, {name: linear(of_file) for name, of_file in texts.items()}, EMOTIONS)
    probes = judge_card.read_probes()
    chances = probabilities(classifiers[0].logits([row["text"] for row in probes]), figures["temperature"])

    card = {
        "encoder": ENCODER,
        "encoder_sha256": weights.catalog()[ENCODER]["sha256"],
        "weights_sha256": sha256_of(file),
        "weights_bytes": file.stat().st_size,
        "emotions": list(EMOTIONS),
        "adapters": ADAPTERS,
        "terms": terms,
        "train": [{"file": name, "sha256": sha256_of(data / name)} for name in learn],
        "train_texts": len(learnt),
        "settings": SETTINGS,
        **figures,
        "probes": judge_card.probe(probes, chances, EMOTIONS),
    }
    hidden = np.mean([text != masked for text, masked in zip(texts["held_out"], texts["masked"], strict=True)])
    card["held_out"] |= {"respondents": len({row["respondent"] for row in held}), "names_emotion": round(float(hidden), 4)}
    card["test"] |= {"file": test, "sha256": sha256_of(data / test), "looks": looks_before(out / "card.md") + 1}
    card["test"]["masked"] = round(float(np.mean([MASK in text for text in texts["test"]])), 4)
    card["other"] |= {"file": other, "sha256": sha256_of(data / other)}
    judge_card.write(out / "card.md", card)
    charts.reliability(card["calibration"]["bins"]).figure.savefig(out / "reliability.png")
    print((out / "card.md").read_text(encoding="utf-8"))


def looks_before(path: Path) -> int:
    """Return how often the test file was looked at before, by the card that is to be replaced; 0 if there is none."""
    if not path.exists():
        return 0
    return yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])["test"]["looks"]


if __name__ == "__main__":
    typer.run(main)
