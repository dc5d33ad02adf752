"""Agreement beyond chance between those who give labels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score


def kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Cohen's κ (1960, https://doi.org/10.1177/001316446002000104) of two lists of labels; nan where it is undefined."""
    if len(first) == 0 or len({*first, *second}) < 2:
        return np.nan
    return float(cohen_kappa_score(first, second))


def alpha(labels: pd.DataFrame) -> float:
    """Return Krippendorff's α for nominal labels; nan where it is undefined.

    labels: one row a text, one column for each who labelled, empty where one did not (Krippendorff 2011,
    https://repository.upenn.edu/handle/20.500.14332/2089).
    """
    import krippendorff

    paired = labels[labels.notna().sum(axis=1) > 1]  # a label that nobody else's stands beside says nothing of agreement
    codes, known = pd.factorize(paired.to_numpy().ravel())
    if len(known) < 2:
        return np.nan
    values = np.where(codes < 0, np.nan, codes).reshape(paired.shape).T
    return float(krippendorff.alpha(reliability_data=values, level_of_measurement="nominal"))
