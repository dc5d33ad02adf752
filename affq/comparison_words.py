"""Sentences about differences, claims and choices, written from figures: Markdown, as in `words`."""

import numpy as np
import pandas as pd

from affq import choose
from affq.compare import PROMPTS_LIKE_THESE, THESE_PROMPTS
from affq.comparison import WANTED
from affq.words import as_data


def differences(frame, greedy):
    """Say of each run how its F1 differs from the baseline's, and how sure that is. frame: comparison.differences."""
    overall = frame[frame["family"] == "overall"]
    tested = overall[overall["estimand"] == PROMPTS_LIKE_THESE]
    if tested.empty:
        return "No run has its baseline's judged texts beside it: there is no difference to test."
    lines = []
    for row in tested.itertuples():
        said = f"**{as_data(f'{row.model} {row.precision}')} against {row.against}**: {row.estimate_points:+.1f} points of F1"
        if np.isnan(row.low_points):
            lines.append(f"- {said}; no prompt differs from another, so that there is no interval.")
            continue
        lines.append(
            f"- {said}, 95 % interval {row.low_points:+.1f} to {row.high_points:+.1f} for {PROMPTS_LIKE_THESE}; p = {row.p:.3f}, "
            f"held against {len(tested)} test{'s' * (len(tested) > 1)} {row.p_holm:.3f} (Holm). The chance that the true "
            f"difference has the other sign is {row.wrong_sign:.0%}; effect size d_z = {row.effect_size:.2f}."
        )
    return "\n".join([*lines, "", _of_these(overall, greedy)])


def _of_these(overall, greedy):
    if greedy:
        return (
            f"For *{THESE_PROMPTS}* alone the differences are exact: greedy decoding gives the same texts again. "
            f"*{PROMPTS_LIKE_THESE.capitalize()}* is the question of whoever will ask other prompts."
        )
    these = overall[overall["estimand"] == THESE_PROMPTS]
    if these["low_points"].isna().all():
        return f"For *{THESE_PROMPTS}* the interval is not estimable: each text was drawn once (`samples: 1`)."
    listed = "; ".join(
        f"{as_data(f'{row.model} {row.precision}')} {row.estimate_points:+.1f} ({row.low_points:+.1f} to {row.high_points:+.1f})"
        for row in these.itertuples()
    )
    return f"For *{THESE_PROMPTS}* alone, over what sampling gives: {listed}."


def shortfalls(intervals):
    """Warn of intervals that cover less often than they say; "" where none does. intervals: comparison.intervals."""
    short = intervals[intervals["falls_short"] & (intervals["estimand"] == PROMPTS_LIKE_THESE)]
    if short.empty:
        return ""
    runs = [as_data(f"{row.model} {row.precision}") for row in short.itertuples() if row.figure == "emotion_f1"]
    emotions = short["figure"].str.startswith("f1 ").sum()
    said = []
    if runs:
        said.append(
            f"**The interval of {', '.join(runs)} holds the truth less often than 95 %**: too few texts are right, or wrong."
        )
    if emotions:
        said.append(
            f"{emotions} intervals of single emotions rest on so few right, or wrong, texts that they hold the truth less often "
            f"than 95 %: `falls_short` in `tables/intervals.csv` marks them."
        )
    return " ".join(said)


def detectable(frame):
    """Say what change the study could see, and what the wanted change needs. frame: comparison.detectable."""
    known = frame.dropna(subset="detectable_points")
    if known.empty:
        return "How small a change this study can see is unknown: no prompt differs from another."
    first, listed = known.iloc[0], []
    for row in known.itertuples():
        run = as_data(f"{row.model} {row.precision}")
        prompts = "no number of" if pd.isna(row.prompts_needed) else row.prompts_needed
        more = "" if pd.isna(row.samples_needed) else f", or {row.samples_needed} samples of each of these"
        listed.append(
            f"- **{run} against {row.against}**: {row.detectable_points:.1f} points; a change of {100 * WANTED:.0f} points would "
            f"need {prompts} prompts{more}."
        )
    samples = f" and {first['samples']} samples of each" if first["samples"] > 1 else ""
    said = f"With {first['prompts']} prompts{samples}, a paired test at 5 % sees four times in five a change of F1 of:"
    return "\n".join([said, "", *listed])


def planned(frame, of):
    """Say in plain lines, for affq plan, what change of F1 each comparison can see. of: whose variance it is."""
    lines = []
    for row in frame.dropna(subset="detectable_points").itertuples():
        needed = "no number of" if pd.isna(row.prompts_needed) else f"{row.prompts_needed:,}"
        lines.append(
            f"{row.model}: {row.precision} against {row.against}: from {row.detectable_points:.0f} points; {100 * WANTED:.0f} "
            f"points need {needed} prompts"
        )
    head = f"Smallest change of emotion F1 that this study sees at 80 % power, prompts varying as in {of}:"
    return [head, *lines] if lines else []


def variance(frame):
    """Say where the variance of right and wrong comes from. frame: comparison.variance."""
    lines = []
    for model, of in frame.dropna(subset="share").groupby("model", sort=False):
        share = dict(zip(of["source"], of["share"], strict=True))
        listed = ", ".join(f"the {source} {part:.0%}" for source, part in share.items() if source != "sample")
        lines.append(
            f"Of the variance in whether a text of {as_data(model)} is judged as asked, {listed} explain"
            f"{'s' if len(share) == 2 else ''}; {share['sample']:.0%} is left to the single text."
        )
    return "\n\n".join(lines)


def verdicts(frame):
    """List the verdict on each claim. frame: comparison.verdicts."""
    lines = []
    for row in frame.itertuples():
        sentence = as_data(row.sentence).replace(f"is {row.verdict}", f"is **{row.verdict}**", 1)
        lines.append(f"- *{as_data(row.claimed)}.* {sentence}")
    return "\n".join(lines)


def choice(summary, budget, draws):
    """Say which run to take within a study's budget; "" where the study states none. draws: comparison's, of `summary`'s rows."""
    if budget["memory_gb"] is None and budget["seconds_a_text"] is None:
        return ""
    peak_bytes = np.inf if budget["memory_gb"] is None else 1e9 * budget["memory_gb"]
    latency_s = np.inf if budget["seconds_a_text"] is None else budget["seconds_a_text"]
    return as_data(choose.advice(choose.within_budget(summary, peak_bytes, latency_s, draws), peak_bytes, latency_s))
