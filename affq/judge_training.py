"""Train the shipped judge's linear head from JSONL files that the user names, and write it with its card.

    python -m affq.judge_training --train isear.jsonl --train crowd_envent.jsonl --test enisear.jsonl \\
        --terms "research use" --out affq/judges/minilm-linear

Training lines are objects with text, emotion and respondent (no respondent's texts are both learnt from and held out); test
lines have text and emotion. The test file is evaluated once, at the end, and nothing is chosen by it.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_recall_fscore_support
from sklearn.model_selection import GroupKFold, cross_val_predict

from affq import InputError, weights
from affq.judge import Encoder, probabilities, read_texts
from affq.study import EMOTIONS
from affq.weights import sha256_of

ENCODER = "all-minilm-l6-v2"
PENALTIES = (1.0, 3.0, 10.0, 30.0)  # inverse strengths of the L2 penalty (scikit-learn's C), tried by cross-validation
FOLDS = 5


def labelled(paths, *fields):
    """Read the lines of JSONL files whose emotion is one of the seven; raise InputError for a line without one of `fields`."""
    rows = []
    for path in paths:
        for row in read_texts(path):
            if lacking := [field for field in fields if field not in row]:
                raise InputError(f"{path}: a line has no {', '.join(lacking)}: {row['text'][:60]!r}")
            if row["emotion"] in EMOTIONS:
                rows.append(row)
    return rows


def cross_validate(embeddings, emotions, respondents):
    """Choose the penalty by macro-F1 on held-out respondents: {penalty: macro-F1}."""
    found = {}
    for penalty in PENALTIES:
        head = LogisticRegression(C=penalty, max_iter=2000)
        predicted = cross_val_predict(head, embeddings, emotions, groups=respondents, cv=GroupKFold(FOLDS))
        found[penalty] = float(f1_score(emotions, predicted, average="macro"))
    return found


def main(
    train: Annotated[list[Path], typer.Option(help="JSONL: text, emotion, respondent; may be given several times")],
    test: Annotated[Path, typer.Option(help="JSONL: text, emotion; looked at once, at the end")],
    out: Annotated[Path, typer.Option(help="folder for head.safetensors and card.md")],
    terms: Annotated[str, typer.Option(help="terms of use that the training data put on the weights")],
):
    """Train the linear head and write its card."""
    rows = labelled(train, "emotion", "respondent")
    emotions = np.array([row["emotion"] for row in rows])
    encoder = Encoder(weights.fetch(ENCODER))
    embeddings = encoder.embed([row["text"] for row in rows])
    held_out = cross_validate(embeddings, emotions, [row["respondent"] for row in rows])
    penalty = max(held_out, key=held_out.get)
    head = LogisticRegression(C=penalty, max_iter=2000).fit(embeddings, emotions)
    assert tuple(head.classes_) == EMOTIONS

    out.mkdir(parents=True, exist_ok=True)
    # safetensors writes an array's memory as it lies: it must lie row by row.
    weight = np.ascontiguousarray(head.coef_, dtype=np.float32)
    save_file({"weight": weight, "bias": head.intercept_.astype(np.float32)}, out / "head.safetensors")

    unseen = labelled([test], "emotion")
    truth = [row["emotion"] for row in unseen]
    # What is tested is what ships: the head as it is read back.
    chances = probabilities(encoder.embed([row["text"] for row in unseen]), load_file(out / "head.safetensors"))
    predicted = np.array(EMOTIONS)[chances.argmax(axis=1)]
    per_emotion = precision_recall_fscore_support(truth, predicted, labels=EMOTIONS, zero_division=0)

    card_path = out / "card.md"
    before = yaml.safe_load(card_path.read_text(encoding="utf-8").split("---\n")[1]) if card_path.exists() else {}
    card = {
        "encoder": ENCODER,
        "encoder_sha256": weights.catalog()[ENCODER]["sha256"],
        "head_sha256": sha256_of(out / "head.safetensors"),
        "emotions": list(EMOTIONS),
        "terms": terms,
        "train": [{"file": p.name, "sha256": sha256_of(p)} for p in train],
        "train_texts": len(rows),
        "penalty": penalty,
        "held_out_macro_f1": round(held_out[penalty], 4),
        "test": {
            "file": test.name,
            "sha256": sha256_of(test),
            "texts": len(unseen),
            "macro_f1": round(float(f1_score(truth, predicted, average="macro", labels=EMOTIONS)), 4),
            "precision": dict(zip(EMOTIONS, np.round(per_emotion[0], 4).tolist(), strict=True)),
            "recall": dict(zip(EMOTIONS, np.round(per_emotion[1], 4).tolist(), strict=True)),
            "f1": dict(zip(EMOTIONS, np.round(per_emotion[2], 4).tolist(), strict=True)),
            "looks": before.get("test", {}).get("looks", 0) + 1,
        },
    }
    card_path.write_text(f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n{describe(out.name, card)}", encoding="utf-8")
    print(card_path.read_text(encoding="utf-8"))


def describe(name, card):
    """Put a card's figures into words: its Markdown text."""
    files = ", ".join(entry["file"] for entry in card["train"])
    test, f1 = card["test"], card["test"]["f1"]
    worst = min(f1, key=f1.get)
    return f"""# {name}

An emotion classifier: a linear head over frozen {card["encoder"]} embeddings. It reads English and answers one of
{", ".join(card["emotions"])}; it has no answer for a text without emotion, and gives one all the same.

- **Trained on** {files} ({card["train_texts"]} texts), splits grouped by respondent.
- **Macro-F1** {card["held_out_macro_f1"]:.2f} on held-out respondents of the training data ({FOLDS} folds, by which the penalty
  was chosen); {test["macro_f1"]:.2f} on {test["file"]} ({test["texts"]} texts; looks at it: {test["looks"]}).
  Worst there: {worst}, F1 {f1[worst]:.2f}.
- **Terms**: {card["terms"]}.
- **Limits**: people's reports of events trained it, not generated text. A text that names its emotion is easily judged.
"""


if __name__ == "__main__":
    typer.run(main)
