"""The frontier: which runs are not beaten at their cost."""

import numpy as np
from numpy.typing import ArrayLike


def on_frontier(f1: ArrayLike, cost: ArrayLike) -> np.ndarray:
    """Return which runs are not dominated: bool (…, runs) of F1 (…, runs) and cost (runs,).

    A run dominates another if its F1 is no lower and its cost no higher, and one of the two is better (Pareto dominance). Runs
    that are equal in both are on the frontier together; a run without F1 or cost is not on it, and dominates none.
    """
    f1, cost = np.asarray(f1, dtype=float), np.asarray(cost, dtype=float)
    no_lower = f1[..., :, None] >= f1[..., None, :]
    higher = f1[..., :, None] > f1[..., None, :]
    dominates = no_lower & (cost[:, None] <= cost) & (higher | (cost[:, None] < cost))
    return ~dominates.any(axis=-2) & np.isfinite(f1 + cost)
