"""Sentences about how runs differ: the report's first, differences of F1, what moves them, what could be detected."""

import numpy as np
import pandas as pd

from affq.analysis import NAMED, WANTED
from affq.report.words.text import as_data, at, run_name
from affq.stats import PROMPTS_LIKE_THESE, THESE_PROMPTS


def headline(summary: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Return, in two sentences a model and engine, what the lowest precision saves, and what it costs of the emotion.

    The frames are those of Results.
    """
    complete, lines = summary["weights_bytes"].notna().sum(), []
    if complete < len(summary):
        lines.append(f"{complete} of {len(summary)} runs are complete.")
    several = summary["engine"].nunique() > 1
    for (model, engine), runs in summary.groupby(["model", "engine"], sort=False):
        name = f"**{as_data(model)}**{f' on {as_data(engine)}' if several else ''}"
        ends = runs.iloc[[0, -1]]
        if (lost := ends["weights_bytes"].isna()).any():
            precisions = " and ".join(ends["precision"][lost].unique())
            lines.append(f"{name}: no comparison, since {precisions} is not complete.")
        elif len(runs) > 1:
            high, low = runs.iloc[0], runs.iloc[-1]
            saved = 1 - low["weights_bytes"] / high["weights_bytes"]
            lines.append(
                f"{name} {at(low['precision'])} takes {saved:.0%} less memory for its weights than "
                f"{at(high['precision'])}, {low['weights_bytes'] / 1e6:,.0f} MB, and {low['latency_s'] / high['latency_s']:.2f} "
                f"times the time for a text.{_f1_change(high, low, differences)}"
            )
    return "\n\n".join(lines)


def _f1_change(high: pd.Series, low: pd.Series, differences: pd.DataFrame) -> str:
    if pd.isna(low["emotion_f1"]):
        return ""
    is_this = differences[[*NAMED, "family"]].eq([*low[NAMED], "overall"]).all(axis="columns")
    change = ""
    for row in differences[is_this].dropna(subset=["wrong_sign", "low_points"]).itertuples():
        chance = ", which chance could give" if row.low_points <= 0 <= row.high_points else ""
        change = f", {row.estimate_points:+z.0f} points (95 % interval {row.low_points:+z.0f} to {row.high_points:+z.0f}){chance}"
    masked = [row["emotion_f1_masked"] for row in (low, high)]
    hidden = "" if pd.isna(masked[0]) else f"; with emotion words masked {masked[0]:.2f} and {masked[1]:.2f}"
    return (
        f" Its emotion F1 is {low['emotion_f1']:.2f} where {high['precision']} has {high['emotion_f1']:.2f}{change}{hidden}; "
        f"shuffled targets would give {low['emotion_f1_chance']:.2f}."
    )


def differences(frame: pd.DataFrame, greedy: bool) -> str:
    """Return how each run's F1 differs from the baseline's, and how sure that is. frame: Results.differences."""
    overall = frame[frame["family"] == "overall"]
    tested = overall[overall["estimand"] == PROMPTS_LIKE_THESE]
    if tested.empty:
        return "No judged run has its baseline's judged texts beside it: there is no difference to test."
    tests = f"{len(tested)} test{'s' * (len(tested) > 1)}"
    lines = []
    for row in tested.itertuples():
        run = run_name(row.model, row.precision, row.engine)
        points = f"- **{run} against {row.against}**: {row.estimate_points:+z.1f} points of F1"
        if np.isnan(row.low_points):
            lines.append(f"{points}; too few prompts, or all alike, so that there is no interval.")
            continue
        short = " The interval may hold the truth less often than it says." if row.falls_short else ""
        lines.append(
            f"{points}, 95 % interval {row.low_points:+z.1f} to {row.high_points:+z.1f} for {PROMPTS_LIKE_THESE}; p {_p(row.p)} "
            f"(Holm-adjusted for {tests}: {_p(row.p_holm)}). The chance that the true difference has the other sign is "
            f"{row.wrong_sign:.0%} under a flat prior; effect size d_z = {row.effect_size:.2f}.{short}"
        )
    return "\n".join([*lines, "", _of_these(overall, greedy)])


def _p(value: float) -> str:
    """Return a p-value with two figures, three decimals at most."""
    if value < 0.0005:
        return "< 0.001"
    return f"= {value:.2f}" if value >= 0.095 else f"= {value:.3f}"


def _of_these(overall: pd.DataFrame, greedy: bool) -> str:
    if greedy:
        return (
            f"For *{THESE_PROMPTS}* alone the differences are exact: greedy decoding gives the same texts again. "
            f"*{PROMPTS_LIKE_THESE.capitalize()}* is the question of whoever will ask other prompts."
        )
    these = overall[overall["estimand"] == THESE_PROMPTS]
    if these["low_points"].isna().all():
        return f"For *{THESE_PROMPTS}* the interval is not estimable: each text was drawn once (`samples: 1`)."
    lines = [
        f"- {run_name(row.model, row.precision, row.engine)} {row.estimate_points:+z.1f} "
        f"({row.low_points:+z.1f} to {row.high_points:+z.1f})"
        for row in these.itertuples()
    ]
    return "\n".join([f"For *{THESE_PROMPTS}* alone, with the interval over what sampling gives:", "", *lines])


def shortfalls(intervals: pd.DataFrame) -> str:
    """Return a warning of intervals that cover less often than they say; "" where none does. intervals: Results.intervals."""
    known = intervals["low"].notna() & (intervals["estimand"] == PROMPTS_LIKE_THESE)
    short = intervals[known & intervals["falls_short"]]
    overall = short[short["figure"].isin(["emotion_f1", "emotion_f1_masked"])]
    runs = list(dict.fromkeys(run_name(row.model, row.precision, row.engine) for row in overall.itertuples()))
    emotions = int(short["figure"].str.startswith("f1 ").sum())
    sentences = []
    if runs:
        whose = f"The interval of {runs[0]}" if len(runs) == 1 else f"The intervals of {len(runs)} runs"
        sentences.append(f"**{whose} may hold the truth less often than said**: few texts are right, or wrong.")
    if emotions:
        sentences.append(
            f"{emotions} interval{'s of single emotions rest' if emotions > 1 else ' of a single emotion rests'} on so few texts "
            "that are right, or wrong, that the truth may lie outside more often than 1 in 20."
        )
    return " ".join([*sentences, "See `falls_short` in `tables/intervals.csv`."]) if sentences else ""


def detectable(frame: pd.DataFrame) -> str:
    """Return what change of F1 the study detects, and what the wanted change needs. frame: Results.detectable."""
    known = frame.dropna(subset="detectable_points")
    if known.empty:
        return "How small a change this study detects is unknown: no two runs to compare, too few prompts, or all alike."
    first, lines = known.iloc[0], []
    for row in known.itertuples():
        prompts = "no number of" if pd.isna(row.prompts_needed) else row.prompts_needed
        more = "" if pd.isna(row.samples_needed) else f", or {row.samples_needed} samples of each of these"
        run = run_name(row.model, row.precision, row.engine)
        lines.append(
            f"- **{run} against {row.against}**: {least(row.detectable_points, '.1f')}; a change of {100 * WANTED:.0f} points "
            f"would need {prompts} prompts{more}."
        )
    samples = f" and {first['samples']} samples of each" if first["samples"] > 1 else ""
    head = f"With {first['prompts']} prompts{samples}, one paired test at 5 % detects, with 80 % power, a change of F1:"
    return "\n".join([head, "", *lines])


def least(detectable_points: float, digits: str) -> str:
    """Return from what change of F1 on a study sees it. F1 lies between 0 and 1: a change cannot exceed 100 points."""
    return "none, however large" if detectable_points > 100 else f"from {detectable_points:{digits}} points"


def by_prompts(frame: pd.DataFrame) -> str:
    """Return how far the choice of prompts moves F1; "" where there are too few to choose from. frame: Results.by_prompts."""
    lines = []
    for run, rows in frame[frame["blocks"] > 1].groupby(NAMED, sort=False):
        ends = ", ".join(f"{row.lowest:.2f} to {row.highest:.2f} with {row.prompts}" for row in rows.itertuples())
        lines.append(f"- **{run_name(*run)}**: {ends}.")
    head = "How far does the choice of prompts move F1? Lowest to highest, over sets of as many prompts that share none:"
    return "\n".join([head, "", *lines]) if lines else ""


def variance(frame: pd.DataFrame) -> str:
    """Return where the variance of right and wrong comes from. frame: Results.variance."""
    lines = []
    for model, rows in frame.dropna(subset="share").groupby("model", sort=False):
        shares = dict(zip(rows["source"], rows["share"], strict=True))
        residual = shares.pop("sample")
        explained = ", ".join(f"the {source} {share:.0%}" for source, share in shares.items())
        lines.append(
            f"Of the variance in whether a text of {as_data(model)} is judged as asked, {explained} explain"
            f"{'s' if len(shares) == 1 else ''}; {residual:.0%} is residual (text-level) variance."
        )
    return "\n\n".join(lines)
