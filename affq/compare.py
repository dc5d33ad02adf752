"""Comparisons: what chance alone would give. Statistic and generator are arguments."""

import numpy as np


def under_shuffled_targets(statistic, targets, judged, rng, draws):
    """Give the mean of statistic(targets, judged) with the targets shuffled: the floor that needs no emotion in the texts.

    Shuffling keeps how often each emotion was asked for and how often each was judged, and breaks only their pairing.
    """
    targets = np.asarray(targets)
    return float(np.mean([statistic(rng.permutation(targets), judged) for _ in range(draws)]))
