"""A judge's card: its figures, each from labelled texts and a judge's probabilities, and the text written from them.

Probabilities are arrays of shape (texts, emotions); truth is the index of each text's emotion.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import minimize_scalar

from affq.scoring.judge import JUDGES, probabilities
from affq.stats import compare

BINS = 15  # of equal width, as Guo et al. 2017 take them
RESAMPLES = 2000
CONFIDENT = 0.5  # from here on a judge asserts its answer


def figures(
    truth: Mapping[str, np.ndarray],
    logits: Sequence[Mapping[str, np.ndarray]],
    linear: Mapping[str, np.ndarray],
    emotions: Sequence[str],
) -> dict[str, Any]:
    """Return what a card says of a judge on labelled texts: temperature, held_out, calibration, test, other, linear_head.

    truth: {held_out, masked (the same texts), test, other}. logits: for each seed the same, the judge's own first. linear: the
    same of the linear head's probabilities. Calibration's bins are the test file's.
    """
    own = logits[0]
    temperature = fit_temperature(truth["held_out"], own["held_out"])
    chances = {name: probabilities(of_texts, temperature) for name, of_texts in own.items()}
    by_seed = {name: [macro_f1(truth[name], of_seed[name]) for of_seed in logits] for name in truth}
    before = {name: calibration(truth[name], probabilities(own[name], 1))[0] for name in ("held_out", "test")}
    after = {name: calibration(truth[name], chances[name]) for name in before}
    test = quality(truth["test"], chances["test"], emotions, np.random.default_rng(0))
    of_linear = {f"{name}_macro_f1": macro_f1(truth[name], linear[name]) for name in truth}
    return {
        "temperature": temperature,
        "held_out": {
            "texts": len(truth["held_out"]),
            "macro_f1": by_seed["held_out"][0],
            "macro_f1_masked": by_seed["masked"][0],
            "seeds": by_seed["held_out"],
            "seeds_masked": by_seed["masked"],
        },
        "calibration": {
            **{name: {"before": before[name], "after": after[name][0]} for name in before},
            "bins": after["test"][1],
        },
        "test": test | {"seeds": by_seed["test"], "seeds_mean": _round(np.mean(by_seed["test"]))},
        "other": {"texts": len(truth["other"]), "macro_f1": by_seed["other"][0], "seeds": by_seed["other"]},
        "linear_head": of_linear,
    }


def macro_f1(truth: np.ndarray, chances: np.ndarray) -> float:
    """Return the unweighted mean over the emotions of F1."""
    return _round(compare.macro_f1(compare.tally(truth, chances.argmax(1), chances.shape[1])))


def quality(truth: np.ndarray, chances: np.ndarray, emotions: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    """Return macro-F1, and precision, recall and F1 by emotion, with 95 % intervals; and the confusion, truth by answer.

    The intervals are percentiles of the bootstrap over texts (Efron 1979, https://doi.org/10.1214/aos/1176344552).
    """
    kinds, answers, count = ("precision", "recall", "f1"), chances.argmax(1), len(emotions)
    estimates = _by_emotion(compare.tally(truth, answers, count))
    drawn = rng.integers(0, len(truth), (RESAMPLES, len(truth)))
    draws = np.array([_by_emotion(compare.tally(truth[texts], answers[texts], count)) for texts in drawn])
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    macro = np.percentile(draws[:, 2].mean(axis=1), (2.5, 97.5))
    confusion = np.bincount(truth * count + answers, minlength=count**2).reshape(count, count)
    return {
        "texts": len(truth),
        "macro_f1": macro_f1(truth, chances),
        "macro_f1_interval": [_round(end) for end in macro],
        **{kind: _named(emotions, map(_round, estimates[i])) for i, kind in enumerate(kinds)},
        "intervals": {
            kind: _named(emotions, ([_round(a), _round(b)] for a, b in zip(low[i], high[i], strict=True)))
            for i, kind in enumerate(kinds)
        },
        "confusion": _named(emotions, (_named(emotions, row) for row in confusion.tolist())),
    }


def _by_emotion(terms: np.ndarray) -> np.ndarray:
    """Return precision, recall and F1, (3, emotions), of counts as compare.tally has them; 0 where nothing divides."""
    true, judged, asked = terms
    shares = [np.divide(true, of, out=np.zeros(len(true)), where=of > 0) for of in (judged, asked)]
    return np.stack([*shares, compare.f1_by_emotion(terms)])


def _named(emotions: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    return dict(zip(emotions, values, strict=True))


def _round(value: float | np.floating | np.ndarray) -> float:
    return round(float(value), 4)


def fit_temperature(truth: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature at which the probabilities' log-likelihood of the truth is greatest (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        chances = probabilities(logits, np.exp(log_temperature))
        return -np.log(chances[np.arange(len(truth)), truth] + 1e-12).mean()

    return _round(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def calibration(truth: np.ndarray, chances: np.ndarray) -> tuple[float, list[dict[str, Any]]]:
    """Return the expected calibration error, and by bin of the answer's probability: texts, mean probability, share right.

    The error is the mean over texts of the distance between the last two (Guo et al. 2017, equation 5). Empty bins are left out.
    """
    confidence, right = chances.max(1), chances.argmax(1) == truth
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # a bin holds its upper end
    bins = [
        {"texts": int(inside.sum()), "confidence": _round(confidence[inside].mean()), "accuracy": _round(right[inside].mean())}
        for inside in (places == place for place in np.unique(places))
    ]
    error = sum(row["texts"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / len(truth)
    return _round(error), bins


def read_probes() -> list[dict[str, str]]:
    """Return the sentences written for affq that a judge of words gets wrong: {text, kind, names (an emotion)}."""
    return [json.loads(line) for line in (JUDGES / "probes.jsonl").read_text(encoding="utf-8").splitlines()]


def probe(probes: Sequence[Mapping[str, str]], chances: np.ndarray, emotions: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count what a judge gets right of each kind of probe: {kind: {texts, right}}.

    A negation is right unless the emotion that it denies is the answer. A mention or a neutral sentence carries no emotion, and
    there is no such answer: it is right if no emotion has a probability of CONFIDENT or more.
    """
    by_kind: dict[str, dict[str, int]] = {}
    for row, given in zip(probes, chances, strict=True):
        denied = row["kind"] == "negation"
        right = emotions[given.argmax()] != row["names"] if denied else given.max() < CONFIDENT
        counts = by_kind.setdefault(row["kind"], {"texts": 0, "right": 0})
        counts["texts"] += 1
        counts["right"] += int(right)
    return by_kind


def write(path: Path, card: Mapping[str, Any]) -> None:
    """Write a card: its figures as front matter, and its text."""
    front = yaml.safe_dump(card, sort_keys=False, default_flow_style=None, width=130)
    path.write_text(f"---\n{front}---\n{describe(path.parent.name, card)}", encoding="utf-8")


def describe(name: str, card: Mapping[str, Any]) -> str:
    """Return a card's figures in words: its Markdown text."""
    test, held, other, linear = card["test"], card["held_out"], card["other"], card["linear_head"]
    worst = min(test["f1"], key=test["f1"].get)
    missed = {(e, a): n for e, row in test["confusion"].items() for a, n in row.items() if a != e}
    (felt, answered), times = max(missed.items(), key=lambda item: item[1])
    known = held["respondents"] < held["texts"]  # who wrote several of them
    writers = "respondents" if known else "writers"
    of_others = f"texts of {held['respondents']} other respondents" if known else "other texts"
    over_seeds = (
        f" Over {len(test['seeds'])} seeds the mean is {test['seeds_mean']:.3f} ({_listed(test['seeds'])}); "
        f"seed 0 is this judge, whichever is best."
    )
    better = test["seeds_mean"] > linear["test_macro_f1"]
    lines = [
        f"# {name}\n",
        f"An emotion classifier: {card['encoder']} with low-rank updates of its linear layers (rank {card['adapters']['r']}) and "
        f"a linear head. It reads English and answers one of {', '.join(card['emotions'])}; it has no answer for a text without "
        "emotion, and gives one all the same.\n",
        f"- **Trained on** {', '.join(entry['file'] for entry in card['train'])}: {card['train_texts']} texts. "
        f"{held['texts']} {of_others} were held out.",
        f"- **Macro-F1** {test['macro_f1']:.2f} ({_range(test['macro_f1_interval'])}) on {test['file']}: {test['texts']} texts, "
        f"{test['masked']:.0%} of which have `...` in the place of a word; looks at it: {test['looks']}."
        + over_seeds
        * (len(test["seeds"]) > 1),
        f"- **Held-out {writers}**: {held['macro_f1']:.2f} on their texts as they stand, {held['macro_f1_masked']:.2f} with "
        f"emotion words masked; {held['names_emotion']:.0%} of the texts have such a word.",
        f"- **Another language**: {other['macro_f1']:.2f} on {other['file']} ({other['texts']} texts); it was not made for it.",
        f"- **A linear head** over the same encoder, unchanged: {linear['test_macro_f1']:.2f} on {test['file']}, "
        f"{linear['held_out_macro_f1']:.2f} on the held-out {writers}, {linear['masked_macro_f1']:.2f} masked. "
        + ("This judge is better." if better else "This judge is no better."),
        f"- **Terms**: {card['terms']}.",
        f"- **Weights**: {card['weights_bytes'] / 1e6:.2f} MB, SHA-256 `{card['weights_sha256']}`.\n",
        f"**By emotion**, on {test['file']}, with 95 % intervals by bootstrap over texts:\n",
        *_table(
            ["emotion", "precision", "recall", "F1"],
            ([e, *(f"{test[k][e]:.2f} ({_range(test['intervals'][k][e])})" for k in test["intervals"])] for e in test["f1"]),
        ),
        "\n**Confusion**: answers (columns) to the texts of each emotion (rows):\n",
        *_table(["emotion", *test["confusion"]], ([e, *row.values()] for e, row in test["confusion"].items())),
        f"\n**Calibration**: a temperature of {card['temperature']:.2f}, fitted on the held-out texts, divides the "
        f"logits. Expected calibration error ({BINS} bins of equal width), before and after: "
        f"{_change(card['calibration']['held_out'])} on those same texts, {_change(card['calibration']['test'])} on "
        f"{test['file']}. By the probability of the answer, on {test['file']} (`reliability.png` draws it):\n",
        *_table(
            ["texts", "mean probability", "share right"],
            ([b["texts"], f"{b['confidence']:.2f}", f"{b['accuracy']:.2f}"] for b in card["calibration"]["bins"]),
        ),
        "\n**Known failures**:\n",
        f"- Worst emotion: {worst}, F1 {test['f1'][worst]:.2f}. Most frequent error: {felt} read as {answered}, {times} of "
        f"{sum(test['confusion'][felt].values())} texts.",
        f"- Sentences written to mislead it: {_probes(card['probes'])}. A negation counts as right unless the emotion that it "
        f"denies is the answer, which {1 - 1 / len(card['emotions']):.0%} of blind answers fulfil; a mention of an emotion's "
        f"word, or a neutral sentence, counts as right if no emotion has a probability of {CONFIDENT:g} or more.",
        "- What people wrote trained it, not generated text. A text that names its emotion is easily judged.",
    ]
    return "\n".join(lines) + "\n"


def _range(interval: Sequence[float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _listed(figures: Iterable[float]) -> str:
    return ", ".join(f"{figure:.3f}" for figure in figures)


def _change(errors: Mapping[str, float]) -> str:
    return f"{errors['before']:.3f} and {errors['after']:.3f}"


def _probes(by_kind: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{kind} {counts['right']} of {counts['texts']}" for kind, counts in by_kind.items())


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]
