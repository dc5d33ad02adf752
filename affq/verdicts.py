"""Join the claims that a study tests with its figures."""

import numpy as np

from affq import InputError, claims, compare, resources


def verdicts(compared, records, summary):
    """Judge the study's claims by its runs: a frame of claims.COLUMNS, and `claimed`, in words. summary: tables.summary."""
    by_id = {record.run.id: record for record in records}

    def estimate_of(statistic, run_id, other_id):
        of = compare.PROMPTS_LIKE_THESE
        if statistic == "emotion_f1_difference":
            if not compared.has(run_id) or not compared.has(other_id):
                return np.nan, np.nan, np.nan, "not judged"
            found = compared.f1_difference(run_id, other_id)
            return float(found.estimate), float(found.low), float(found.high), of
        figure = {"weights_saving": "weights", "peak_saving": "peak", "latency_ratio": "latency"}[statistic]
        found, estimand = resources.ratio(figure, by_id[run_id], by_id[other_id])
        estimate, low, high = (float(end) for end in (found.estimate, found.low, found.high))
        return (estimate, low, high, estimand) if figure == "latency" else (1 - estimate, 1 - high, 1 - low, estimand)

    runs = summary.assign(parameters=[_parameters(record.run.model) for record in records])
    read = claims.read_claims(compared.study.claims)
    found = claims.verdicts(read, runs, estimate_of)
    found.insert(1, "claimed", found["claim"].map({claim.id: claim.sentence for claim in read}))
    return found


def _parameters(model):
    """Count a model's parameters; nan where its weights are not here to be counted."""
    try:
        return model.parameters
    except InputError:
        return np.nan
