"""Where do a model's precisions disagree? Each text with what was asked for, and how far apart the answers to it are."""

import pandas as pd

from affq.analysis import annotation
from affq.analysis.results import Results
from affq.analysis.texts import NO_EMOTION
from affq.inference import KEY
from affq.study import prompts


def texts(results: Results) -> pd.DataFrame:
    """Return Results.texts by `id` (as in a sample to label), with what an explorer shows of each.

    Adds `request` (the prompt without a chat's marks) and `probabilities` ({emotion: p} by the study's first judge, None where it
    did not judge); emotion is NO_EMOTION for the control.
    """
    study = results.study
    shown = annotation.identified(results.texts.assign(emotion=results.texts["emotion"].fillna(NO_EMOTION)))
    probabilities = {
        (record.run.id, row["prompt_id"], row["emotion"] or NO_EMOTION, row["sample"]): row["probabilities"]
        for record in results.records
        if record.complete
        for row in record.scores(study.judges[0].name)
    }
    crossed = prompts.cross(prompts.read_prompts(study.prompts), study.emotions, study.samples)
    asked = {(row["prompt_id"], row["emotion"] or NO_EMOTION, row["sample"]): row["request"] for row in crossed}
    keys = list(shown[["run_id", *KEY]].itertuples(index=False, name=None))
    shown["probabilities"] = pd.Series([probabilities.get(key) for key in keys], dtype=object)
    shown["request"] = [asked[key[1:]] for key in keys]
    return shown.set_index("id", drop=False)


def requests(texts: pd.DataFrame) -> pd.DataFrame:
    """Return what was asked for, one row a prompt, emotion and sample, and how far one model's precisions disagree on its text.

    Columns KEY, `emotions` and `spread`: of the model that disagrees most, how many emotions its precisions' texts are judged to
    carry, and the largest less the smallest probability of the emotion that was asked for. Unjudged texts count for neither.
    """
    by_model = texts.groupby([*KEY, "model"], sort=False)
    probability = by_model["target_probability"]
    each = pd.DataFrame({"emotions": by_model["judged_emotion"].nunique(), "spread": probability.max() - probability.min()})
    return each.groupby(level=KEY, sort=False).max().reset_index()


def most_first(requests: pd.DataFrame) -> pd.DataFrame:
    """Return `requests` by disagreement: more judged emotions first, then the larger spread."""
    return requests.sort_values(["emotions", "spread"], ascending=False, kind="stable", na_position="last")
