"""How often does the interval of a percentile hold the truth, where requests wait for each other? Writes queues.md.

OMP_NUM_THREADS=1 python tests/bench/queues.py: some minutes on one core.
"""

from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from affq.stats import percentile

SEED, STUDIES, TRUTH = 20261128, 200, 10_000
REPETITIONS, TEXTS, PERCENTS = (3, 5), (20, 80, 300), (50, 90, 99)
AIM = 0.9


def queue(rng, repetitions, texts, busy, takes):
    """Give the waits of one queue that begins empty, served one after the other, as Poisson requests come."""
    apart = rng.exponential(1 / busy, (repetitions, texts))
    waits = np.zeros((repetitions, texts))
    for number in range(1, texts):
        waits[:, number] = np.maximum(0, waits[:, number - 1] + takes[:, number - 1] - apart[:, number])
    return waits + takes


def random_queue(busy):
    return lambda rng, *size: queue(rng, *size, busy, rng.exponential(1, size))


def even_queue(busy):
    return lambda rng, *size: queue(rng, *size, busy, np.maximum(0.5, rng.normal(1, 0.05, size)))


def drifting(rng, repetitions, texts):
    """Give times of streams that share a machine: each is like the one before (autoregressive, 0.7)."""
    times = np.zeros((repetitions, texts))
    noise = rng.standard_normal((repetitions, texts))
    for number in range(1, texts):
        times[:, number] = 0.7 * times[:, number - 1] + noise[:, number]
    return np.exp(0.1 * times)


SHAPES = {
    "independent, lognormal": lambda rng, *size: rng.lognormal(0, 0.3, size),
    "each like the one before (0.7)": drifting,
    "a queue, busy half of the time (M/M/1)": random_queue(0.5),
    "a queue, busy 80 % of the time (M/M/1)": random_queue(0.8),
    "a queue, busy 90 %, texts that take alike": even_queue(0.9),
}


def covers(low, high, truth):
    """Give whether an interval holds the truth; an end that is not known leaves nothing out."""
    return not (truth < low or truth > high)


def simulated(draw, repetitions, texts, truths):
    """Give for each percentile how often order statistics alone cover, ours does, and it has no upper end."""
    rng = np.random.default_rng(SEED)
    seen = {percent: [] for percent in truths}
    for _ in range(STUDIES):
        study = draw(rng, repetitions, texts)
        for percent, truth in truths.items():
            plain = stats.quantile_test(study.ravel(), p=percent / 100).confidence_interval(0.95)
            whole = percentile(study, percent)
            if not np.isnan(whole.estimate):
                seen[percent].append((covers(*plain, truth), covers(whole.low, whole.high, truth), np.isnan(whole.high)))
    return {percent: np.mean(trials, axis=0) if trials else None for percent, trials in seen.items()}


def cell(shares, column):
    if shares is None:
        return ""
    return f"**{shares[column]:.1%}**" if column < 2 and shares[column] < AIM else f"{shares[column]:.1%}"


def main():
    rows, least = [], {column: [] for column in (0, 1)}
    for (shape, draw), texts in product(SHAPES.items(), TEXTS):
        many = draw(np.random.default_rng(SEED + 1), TRUTH, texts)
        truths = {percent: np.percentile(many, percent) for percent in PERCENTS}
        for repetitions in REPETITIONS:
            by_percent = simulated(draw, repetitions, texts, truths)
            for column, shares in product(least, filter(lambda one: one is not None, by_percent.values())):
                least[column].append(shares[column])
            cells = [cell(by_percent[percent], column) for column in (0, 1, 2) for percent in PERCENTS]
            rows.append(f"| {' | '.join([shape, str(texts), str(repetitions), *cells])} |")
            print(rows[-1], flush=True)
    heads = [f"{what}, p{percent}" for what in ("order statistics", "ours", "no upper end") for percent in PERCENTS]
    page = f"""# Intervals of percentiles under load

Made by `OMP_NUM_THREADS=1 python tests/bench/queues.py`, seed {SEED}: {STUDIES} simulated levels a row. Aim: at 95 % an interval
holds the percentile that endless repetitions of the level would have, each beginning with an empty queue; below {AIM:.0%} it is
**bold**. Monte Carlo error 1.5 %. An end that is not known leaves nothing out; how often the upper one is not is in the last
columns. No figure: too few readings for that percentile.

- Order statistics of all requests, as if they were independent (`scipy.stats.quantile_test`): {sum(s < AIM for s in least[0])} of
  {len(least[0])} coverages are below {AIM:.0%}, the least {min(least[0]):.1%}.
- Ours (`affq.stats.percentile`): {sum(s < AIM for s in least[1])} of {len(least[1])}, the least {min(least[1]):.1%}.

| requests | texts | repetitions | {" | ".join(heads)} |
| --- | ---: | ---: | {" | ".join(["---:"] * len(heads))} |
"""
    Path(__file__).with_name("queues.md").write_text(page + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
