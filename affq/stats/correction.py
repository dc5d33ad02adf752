"""Emotion F1 corrected for the judge's errors: by labels that people gave to some texts, or by what its card assumes.

F1 is between the emotion asked for and the emotion that people read. Its statistics are sums over the texts, so that a judge's
reading of all texts and people's of some can be combined.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from affq.stats import compare

SIMULATED, NEAREST = 4_000, 200  # for the band
LEAST = 3  # labelled texts of each emotion asked for, below which they are taken together


def by_labels(
    targets: np.ndarray, judged: np.ndarray, labels: np.ndarray, emotions: Sequence[str], level: float = compare.LEVEL
) -> dict[str, float]:
    """Estimate macro-F1 of all texts from the judge's answers to all and people's to some: {estimate, low, high, weight, …}.

    targets: (texts,), indices of the emotions asked for. judged: of those answered, −1 for another answer. labels: (texts,
    emotions), the share of people who read each emotion, a row of nan where nobody labelled. The labelled texts must be a random
    sample, of each emotion asked for or of all.

    The estimate is prediction-powered (Angelopoulos et al. 2023, https://doi.org/10.1126/science.adi6000): the judge's sums over
    all texts, plus its errors on the labelled ones, scaled up; the judge's weight is that of least variance (PPI++, Angelopoulos,
    Duchi and Zrnic 2023, https://arxiv.org/abs/2311.01453). The interval is of these texts, by the stratified jackknife with
    t quantiles (Wolter, Introduction to Variance Estimation, 2007, chapter 4). Also returned: texts, labelled, judge_alone, and
    labels_alone_estimate with its ends. The ends are nan where fewer than two texts are labelled.
    """
    count = len(emotions)
    known = ~np.isnan(labels).any(axis=1)
    asked = np.bincount(targets, minlength=count)
    by_judge = _statistics(targets, np.eye(count + 1)[judged][:, :count])  # −1 is the last, and is left out
    by_people = _statistics(targets, np.nan_to_num(labels))
    enough = np.bincount(targets[known], minlength=count)[asked > 0].min() >= LEAST
    strata = targets if enough else np.zeros_like(targets)
    sample = _Sample(by_judge, by_people, known, strata, asked)
    estimate, low, high, weight = sample.interval(None, level)
    alone = dict(zip(("estimate", "low", "high"), sample.interval(0.0, level), strict=False))
    return {
        "texts": len(targets),
        "labelled": int(known.sum()),
        "judge_alone": float(_macro_f1(by_judge.sum(axis=0), asked)),
        **{"estimate": estimate, "low": low, "high": high, "weight": weight},
        **{f"labels_alone_{name}": value for name, value in alone.items()},
    }


def _macro_f1(sums: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return macro-F1 of the emotions that were asked for.

    sums: shape (…, 2 × emotions), the right answers of each emotion, then all its answers. asked: texts asked for each.
    """
    right, answered = np.split(np.asarray(sums, dtype=float), 2, axis=-1)
    terms = np.stack([right, answered, np.broadcast_to(asked, right.shape)], axis=-2)
    return compare.macro_f1(terms[..., asked > 0])


def _statistics(targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return each text's part in the sums that _macro_f1 takes: (texts, 2 × emotions)."""
    return np.hstack([answers * np.eye(answers.shape[1])[targets], answers])


class _Sample:
    """All texts of a run, of which some are labelled, by strata."""

    def __init__(
        self, by_judge: np.ndarray, by_people: np.ndarray, known: np.ndarray, strata: np.ndarray, asked: np.ndarray
    ) -> None:
        self.by_judge, self.asked = by_judge, asked
        members = [strata == stratum for stratum in np.unique(strata)]
        self.sizes = np.array([inside.sum() for inside in members])
        self.labelled = [np.flatnonzero(inside & known) for inside in members]
        self.by_people = by_people

    def interval(self, weight: float | None, level: float) -> tuple[float, float, float, float]:
        """Return (estimate, low, high, weight); weight: of the judge's answers, None for that of least variance."""
        from scipy.stats import t

        estimate, used = self._estimate(weight, self.labelled)
        counts = np.array([len(texts) for texts in self.labelled])
        if counts.min() < 2:
            return estimate, np.nan, np.nan, used
        variance, weighed = 0.0, np.mean(self._gradient(self._sums(self.labelled, used))[: len(self.asked)][self.asked > 0])
        for stratum, texts in enumerate(self.labelled):
            n = len(texts)
            others = ([*self.labelled[:stratum], texts[texts != text], *self.labelled[stratum + 1 :]] for text in texts)
            left = np.array([self._estimate(weight, labelled)[0] for labelled in others])
            seen = (n - 1) / n * ((left - left.mean()) ** 2).sum()
            # Where people and judge never differ, the next text may: one in n + 2 (Laplace's rule), weighed as a right answer is.
            rare = 1 / (n + 2)
            unseen = self.sizes[stratum] ** 2 * rare * (1 - rare) / n * weighed**2
            variance += (1 - n / self.sizes[stratum]) * max(seen, unseen)
        reach = t.ppf(0.5 + level / 2, counts.sum() - len(counts)) * np.sqrt(variance)
        return estimate, max(estimate - reach, 0.0), min(estimate + reach, 1.0), used

    def _estimate(self, weight: float | None, labelled: list[np.ndarray]) -> tuple[float, float]:
        """Return F1 by these labelled texts of each stratum, and the judge's weight."""
        if min(map(len, labelled)) == 0:
            return np.nan, np.nan
        if weight is None:
            gradient = self._gradient(self._sums(labelled, 1.0))
            weight = self._least_variance(labelled, gradient)
        return float(_macro_f1(self._sums(labelled, weight), self.asked)), weight

    def _sums(self, labelled: list[np.ndarray], weight: float) -> np.ndarray:
        errors = [
            size * (self.by_people[texts] - weight * self.by_judge[texts]).mean(axis=0)
            for size, texts in zip(self.sizes, labelled, strict=True)
        ]
        return weight * self.by_judge.sum(axis=0) + np.sum(errors, axis=0)

    def _gradient(self, sums: np.ndarray) -> np.ndarray:
        """Return the derivative of macro-F1 by each sum."""
        right, answered = np.split(sums, 2)
        both = np.maximum(answered + self.asked, 1.0)
        emotions = (self.asked > 0).sum()
        return np.concatenate([2 / both, -2 * right / both**2]) * np.tile(self.asked > 0, 2) / emotions

    def _least_variance(self, labelled: list[np.ndarray], gradient: np.ndarray) -> float:
        """Return the weight, from 0 to 1, at which the variance of F1, made linear, is least."""
        shared, own = 0.0, 0.0
        for size, texts in zip(self.sizes, labelled, strict=True):
            if len(texts) > 1:
                people, judge = self.by_people[texts] @ gradient, self.by_judge[texts] @ gradient
                covariance = np.cov(people, judge) * size**2 * (1 - len(texts) / size) / len(texts)
                shared, own = shared + covariance[0, 1], own + covariance[1, 1]
        return float(np.clip(shared / own, 0, 1)) if own > 0 else 0.0


def by_confusion(
    targets: np.ndarray, judged: np.ndarray, confusion: ArrayLike, emotions: Sequence[str], rng: np.random.Generator
) -> tuple[float, float]:
    """Return a band of macro-F1 as people would read the texts, if the judge erred on them as on its card's: (low, high).

    targets, judged: as by_labels takes them. confusion: counts of the card's test file, truth (rows) by answer (columns). It is
    simulated, SIMULATED times, that people read what was asked for in some share of the texts, any share being as likely, and
    another emotion otherwise, and that the judge then errs as on its card, whose confusion is drawn from its Dirichlet posterior
    (prior 1/2 a cell). The band is the middle 95 % of F1 by people in the NEAREST simulations, in which the judge agrees with the
    request about as often as here (approximate Bayesian computation: Beaumont, Zhang and Balding 2002,
    https://doi.org/10.1093/genetics/162.4.2025). That the judge errs here as there is an assumption, which nothing here tests.
    """
    count = len(emotions)
    asked = np.bincount(targets, minlength=count)
    readable = targets[judged >= 0]  # the others are nothing to people either
    errors = rng.gamma(np.asarray(confusion) + 0.5, size=(SIMULATED, count, count))
    errors /= errors.sum(axis=2, keepdims=True)
    shape = (SIMULATED, len(readable))
    other = (readable + rng.integers(1, count, shape)) % count
    read = np.where(rng.random(shape) < rng.random((SIMULATED, 1)), readable, other)
    agreed = (rng.random(shape) < errors[np.arange(SIMULATED)[:, None], read, readable]).sum(axis=1)
    distance = np.abs(agreed - (judged == targets).sum()) + rng.random(SIMULATED) / 2  # equals in random order
    read = read[np.argsort(distance)[:NEAREST]]
    right = np.stack([((read == e) & (readable == e)).sum(axis=1) for e in range(count)], axis=1)
    answered = np.stack([(read == e).sum(axis=1) for e in range(count)], axis=1)
    low, high = np.percentile(_macro_f1(np.concatenate([right, answered], axis=1), asked), (2.5, 97.5))
    return float(low), float(high)
