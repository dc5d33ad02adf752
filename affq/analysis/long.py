"""Long texts: from which word on they repeat themselves, as survival curves. A text that does not is censored where it ends."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from affq.analysis.texts import NAMED, RUN, baseline_of, complete, named
from affq.results import Reading
from affq.scoring import LOOP
from affq.stats import compare

ONSETS = [*NAMED, "texts", "repeating", "quarter_words", "half_words", "against", "p"]
REPETITION = [*NAMED, "words", "texts", "not_repeating", "low", "high"]


def observed(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the scored texts that were asked for an emotion: columns RUN, repeats, at (words).

    at: as of which word a text repeats itself; of one that does not, how far that is known: in its last LOOP words it could not
    be told. texts: as quality.with_statistics returns them.
    """
    scored = texts[texts["emotion"].notna() & texts["words"].notna()]
    onset, words = scored["repeats_from"].astype(float), scored["words"].astype(float)
    return scored[RUN].assign(repeats=onset.notna(), at=onset.fillna((words - LOOP).clip(lower=0)))


def repetition(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the share of texts that do not repeat themselves yet, over words: columns REPETITION, a row a run and step.

    By Kaplan and Meier (1958, https://doi.org/10.1080/01621459.1958.10501452), with the interval at each place that is symmetric
    on the scale of log(-log); it takes texts as independent. The column texts: how many are observed as far. texts: as
    quality.with_statistics returns them.
    """
    frames = [_curve(rows) for _, rows in observed(texts).groupby(RUN, sort=False)]
    return pd.concat(frames, ignore_index=True)[REPETITION] if frames else pd.DataFrame(columns=REPETITION)


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the curve of one run's texts, which begins at 1."""
    from scipy.stats import ecdf

    survival = ecdf(_censored(rows)).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where none repeats yet, and where all do, there is no interval
        interval = survival.confidence_interval(compare.LEVEL, method="log-log")
    steps = pd.DataFrame({"words": survival.quantiles, "not_repeating": survival.probabilities})
    steps = steps.assign(low=interval.low.probabilities, high=interval.high.probabilities)
    if not rows["repeats"].any():
        steps[["low", "high"]] = np.nan
    start = pd.DataFrame([{"words": 0.0, "not_repeating": 1.0, "low": np.nan, "high": np.nan}])
    curve = pd.concat([start, steps]).drop_duplicates("words", ignore_index=True).assign(**rows[NAMED].iloc[0])
    return curve.assign(texts=[int((rows["at"] >= place).sum()) for place in curve["words"]])


def _censored(rows: pd.DataFrame) -> object:
    from scipy.stats import CensoredData

    return CensoredData(uncensored=rows.loc[rows["repeats"], "at"], right=rows.loc[~rows["repeats"], "at"])


def onsets(texts: pd.DataFrame, records: Sequence[Reading]) -> pd.DataFrame:
    """Return where each run's texts begin to repeat themselves, columns ONSETS.

    quarter_words, half_words: by which word so many do, by the curve; nan where it does not fall so far. p: of the log-rank test
    against the baseline, which takes texts as independent. texts: as quality.with_statistics returns them.
    """
    from scipy.stats import logrank

    by_run = {run[0]: rows for run, rows in observed(texts).groupby(RUN, sort=False)}
    lines = []
    for record in complete(records):
        if (rows := by_run.get(record.run.id)) is None:
            continue
        curve, baseline = _curve(rows), baseline_of(record, records)
        line = {**named(record.run), "texts": len(rows), "repeating": int(rows["repeats"].sum())}
        line |= {"quarter_words": _falls_to(curve, 0.75), "half_words": _falls_to(curve, 0.5)}
        if baseline is not record and (others := by_run.get(baseline.run.id)) is not None:
            with np.errstate(invalid="ignore"):  # no text of either repeats itself
                p = float(logrank(_censored(rows), _censored(others)).pvalue)
            line |= {"against": baseline.run.precision, "p": p}
        lines.append(line)
    return pd.DataFrame(lines, columns=ONSETS).astype({"p": float})


def _falls_to(curve: pd.DataFrame, share: float) -> float:
    """Return the first word at which no more than a share of the texts does not repeat itself yet; nan where none is."""
    fallen = curve.loc[curve["not_repeating"] <= share, "words"]
    return float(fallen.iloc[0]) if len(fallen) else np.nan
