"""Simulate judged studies, and write how often compare's intervals hold the truth, and how often its test errs.

OMP_NUM_THREADS=1 python tests/bench/coverage.py takes some minutes, and writes coverage.md beside itself. Three runs of the same
prompts: two that differ by nothing but chance, and one that is worse. A text is judged right, or as one of the other emotions
or none, by a multinomial logit. Prompts differ in how easily they are judged right (all their texts together, each by itself,
and each in each run) and in what they are mistaken for. Runs share the chance that makes a text for half of their texts.
"""

from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from affq.stats import compare

SEED = 20261124
SIMULATIONS = 4000  # of each row; Monte Carlo error of a coverage of 95 %: 0.34 percentage points
CHUNK = 250
POPULATION = 200_000  # prompts, of which the truth for prompts like these is reckoned
DRAWS = 499  # of the test, where swaps are too many to look at
AIM, LEVEL_OF_TEST, MONTE_CARLO_ERRORS = 0.93, 0.05, 2
EMOTIONS = 7
F1S, SAMPLES, PROMPTS = (0.15, 0.3, 0.6, 0.85, 0.95), (1, 3, 10), (5, 10, 40)
SPREADS = {"none": 0, "low": 0.5, "high": 1.5}
WORSE = 0.5  # the logit by which the third run is judged right less often
ESTIMANDS = (compare.PROMPTS_LIKE_THESE, compare.THESE_PROMPTS)
STATISTICS = {
    "macro-F1": (compare.macro_f1, "logit"),
    "an emotion's F1": (compare.f1_by_emotion, "logit"),
    "difference of macro-F1": (compare.difference(compare.macro_f1), "identity"),
}
# What emotions are taken for: uneven, and the same in every row.
MISTAKEN_FOR = np.log(np.random.default_rng(SEED).dirichlet(np.ones(EMOTIONS + 1), EMOTIONS))


def probabilities(rng, right, spread, prompts, studies):
    """Draw what the texts of three runs are judged as: probabilities (3, studies, prompts, emotions, emotions and none)."""
    target = np.eye(EMOTIONS, EMOTIONS + 1, dtype=bool)
    wrong = np.where(target, -np.inf, MISTAKEN_FOR)
    wrong = wrong - np.log(np.exp(wrong).sum(axis=-1, keepdims=True))
    logits = wrong + spread / 2 * rng.normal(size=(1, studies, prompts, 1, EMOTIONS + 1))
    ease = right + spread * (rng.normal(size=(studies, prompts, 1)) + rng.normal(size=(studies, prompts, EMOTIONS)))
    ease = ease + spread / 2 * rng.normal(size=(3, studies, prompts, EMOTIONS)) - [[[[0]]], [[[0]]], [[[WORSE]]]]
    found = np.exp(np.where(target, ease[..., None], logits))
    return found / found.sum(axis=-1, keepdims=True)


def judged(rng, chances, samples):
    """Draw judged emotions (3, studies, prompts, emotions, samples) from such probabilities."""
    runs, *shape, outcomes = chances.shape
    common, own = rng.random((1, *shape, samples)), rng.random((runs, *shape, samples))
    luck = np.where(rng.random(own.shape) < np.sqrt(0.5), common, own)  # shared by two runs half the time
    found = np.zeros(luck.shape, dtype=np.int8)
    for limit in np.moveaxis(chances.cumsum(axis=-1), -1, 0)[:-1]:
        found += luck > limit[..., None]
    return np.where(found == EMOTIONS, -1, found)


def expected_terms(chances):
    """Give the counts that are expected of prompts, (3, studies, 3, emotions): a mean over them."""
    by_target = chances[..., :EMOTIONS].mean(axis=2)
    true = np.diagonal(by_target, axis1=-2, axis2=-1)
    return np.stack((true, by_target.sum(axis=-2), np.ones_like(true)), axis=-2)


def truth(terms):
    """Give each statistic of expected terms (3, ..., 3, emotions), the difference of the first run and the worse."""
    pair = np.stack((terms[0], terms[2]), axis=-1)
    return {name: statistic(pair if "difference" in name else terms[0]) for name, (statistic, _) in STATISTICS.items()}


def population(right, spread, prompts, seed):
    """Give the expected terms of a population of prompts, (3, 3, emotions); the same seed gives the same prompts."""
    rng, at_once = np.random.default_rng(seed), 10_000
    return np.mean([expected_terms(probabilities(rng, right, spread, at_once, 1)) for _ in range(prompts // at_once)], axis=0)[
        :, 0
    ]


def warned(terms, samples, prompts):
    """Say of each statistic whether compare.falls_short of the right and wrong texts to expect, by terms (3, 3, emotions)."""
    texts = samples * prompts
    right = terms[:, 0] * texts
    of_all = right.sum(axis=-1), (texts - right).sum(axis=-1)
    return {
        "macro-F1": compare.falls_short(of_all[0][0], of_all[1][0], samples),
        "an emotion's F1": compare.falls_short(right[0].mean(), texts - right[0].mean(), samples),
        "difference of macro-F1": compare.falls_short(*of_all, samples)[[0, 2]].any(),
    }


def simulate(rng, right, spread, samples, prompts, in_the_limit):
    """Give {(statistic, estimand): (coverage, mean width)}, and the share of equal runs that the test calls different."""
    covered, widths, rejected = {}, {}, []
    for _ in range(SIMULATIONS // CHUNK):
        chances = probabilities(rng, right, spread, prompts, CHUNK)
        one, equal, worse = (
            compare.counts(np.moveaxis(run, 0, -1)).astype(float) for run in judged(rng, chances, samples)
        )  # each (prompts, samples, studies, 3, emotions)
        pair = np.stack((one, worse), axis=-1)
        truths = {compare.PROMPTS_LIKE_THESE: in_the_limit, compare.THESE_PROMPTS: truth(expected_terms(chances))}
        for (name, (statistic, scale)), of in product(STATISTICS.items(), ESTIMANDS):
            if of == compare.THESE_PROMPTS and samples == 1:
                continue
            found = compare.interval(pair if "difference" in name else one, statistic, of, scale)
            holds = (found.low <= truths[of][name]) & (truths[of][name] <= found.high)  # no interval holds nothing
            covered.setdefault((name, of), []).append(holds)
            widths.setdefault((name, of), []).append(found.high - found.low)
        rejected.append(compare.swapped_p(np.stack((one, equal), axis=-1), compare.macro_f1, rng, DRAWS) <= LEVEL_OF_TEST)
    return {key: (np.mean(covered[key]), np.nanmean(widths[key])) for key in covered}, np.mean(rejected)


def rows():
    """Simulate the whole grid: yield (its values, coverages and widths, what is warned of, share that the test finds)."""
    populations = {}
    for i, (f1, (label, spread)) in enumerate(product(F1S, SPREADS.items())):
        right = brentq(lambda r, s=spread, f=f1: truth(population(r, s, 20_000, SEED))["macro-F1"] - f, -9, 20, xtol=1e-3)
        populations[f1, label] = right, population(right, spread, POPULATION, [SEED, i])
    for i, (f1, label, samples, prompts) in enumerate(product(F1S, SPREADS, SAMPLES, PROMPTS)):
        right, terms = populations[f1, label]
        rng = np.random.default_rng([SEED, 1000 + i])
        found, differ = simulate(rng, right, SPREADS[label], samples, prompts, truth(terms))
        print(f1, label, samples, prompts, flush=True)
        yield [f"{truth(terms)['macro-F1']:.2f}", label, samples, prompts], found, warned(terms, samples, prompts), differ


def cell(held, width, warned):
    """Write a coverage and a width: in bold what falls short, with ! what compare.falls_short warns of."""
    text = f"**{held:.1%}**" if held < AIM else f"{held:.1%}"
    return f"{text}{'!' if warned else ''} ({width:.3f})"


def main():
    """Write coverage.md: the table, and what falls short with a warning and without."""
    found, error = list(rows()), np.sqrt(LEVEL_OF_TEST * (1 - LEVEL_OF_TEST) / SIMULATIONS)
    too_often = LEVEL_OF_TEST + MONTE_CARLO_ERRORS * error
    spreads = ", ".join(f"{label} {spread}" for label, spread in SPREADS.items())
    columns = ["F1", "spread", "samples", "prompts", *(f"{name}, {of}" for of in ESTIMANDS for name in STATISTICS), "swapped"]
    table, coverages, often = [], [], 0
    for head, held, warnings, differ in found:
        cells = [
            cell(*held[key], warnings[key[0]]) if (key := (name, of)) in held else "" for of in ESTIMANDS for name in STATISTICS
        ]
        coverages += [(value, warnings[name], name, of, head) for (name, of), (value, _) in held.items()]
        often += differ > too_often
        table.append([*head, *cells, f"**{differ:.1%}**" if differ > too_often else f"{differ:.1%}"])
    unwarned = [row for row in coverages if not row[1]]
    short, short_and_warned = [row for row in unwarned if row[0] < AIM], sum(value < AIM for value, warn, *_ in coverages if warn)
    lines = [
        "# How often intervals hold the truth",
        "",
        f"Made by `OMP_NUM_THREADS=1 python tests/bench/coverage.py`, seed {SEED}: {SIMULATIONS:,} simulated studies a row, of",
        f"{EMOTIONS} emotions. Aim: {AIM:.0%} of the intervals at {compare.LEVEL:.0%} hold the truth; below it is **bold**.",
        f"Monte Carlo error {error:.1%}. In brackets the mean width. Where there is no interval, none holds the truth. With !",
        f"fewer than {compare.FEW} right or wrong texts are expected, "
        f"or {compare.FEW_A_SAMPLE} a sample: `compare.falls_short` warns.",
        f"Spread: the standard deviation of the logit of being judged right ({spreads}), once for a prompt and once more for",
        f"each of its {EMOTIONS} texts. Swapped: how often swapping by prompt two runs that do not differ finds a difference",
        f"at {LEVEL_OF_TEST:.0%}; bold where it is more than {too_often:.1%}, which is more than Monte Carlo error.",
        "",
        "## What falls short",
        "",
        f"- With a warning: {short_and_warned} of {len(coverages) - len(unwarned)} coverages.",
        f"- Without one: {len(short)} of {len(unwarned)}; the least of them is {min(unwarned)[0]:.1%}.",
        *(
            f"  - {held:.1%}: {name} for {of}, F1 {h[0]}, spread {h[1]}, samples {h[2]}, prompts {h[3]}"
            for held, _, name, of, h in short
        ),
        f"- Swapping by prompt: {often} of {len(found)} rows.",
        "",
        "## All of it",
        "",
        *(f"| {' | '.join(map(str, row))} |" for row in [columns, ["---"] * 2 + ["---:"] * (len(columns) - 2), *table]),
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
