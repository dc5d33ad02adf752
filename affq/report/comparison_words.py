"""Sentences about differences, claims and choices, written from figures: Markdown, as in `words`."""

import numpy as np
import pandas as pd

from affq.analysis import WANTED, Reason, Verdict, choose
from affq.report.words import as_data
from affq.stats import PROMPTS_LIKE_THESE, THESE_PROMPTS
from affq.study import STATISTICS


def headline(summary, differences):
    """Answer, model by model and in two sentences, what the lowest precision saves, and what it costs of the emotion.

    summary: tables.summary. differences: comparison.differences.
    """
    complete, lines = summary["weights_bytes"].notna().sum(), []
    if complete < len(summary):
        lines.append(f"{complete} of {len(summary)} runs are complete.")
    for model, runs in summary.groupby("model", sort=False):
        ends = runs.iloc[[0, -1]]
        if (lost := ends["weights_bytes"].isna()).any():
            lost = " and ".join(ends["precision"][lost].unique())
            lines.append(f"**{as_data(model)}**: no comparison, since {lost} is not complete.")
        elif len(runs) > 1:
            high, low = runs.iloc[0], runs.iloc[-1]
            saved = 1 - low["weights_bytes"] / high["weights_bytes"]
            lines.append(
                f"**{as_data(model)}** at {low['precision']} takes {saved:.0%} less memory for its weights than at "
                f"{high['precision']}, {low['weights_bytes'] / 1e6:,.0f} MB, and {low['latency_s'] / high['latency_s']:.2f} "
                f"times the time for a text.{_f1_change(high, low, differences)}"
            )
    return "\n\n".join(lines)


def _f1_change(high, low, differences):
    if low["emotion_f1"] != low["emotion_f1"]:
        return ""
    of = differences[(differences["model"] == low["model"]) & (differences["precision"] == low["precision"])]
    sure = ""
    for row in of[of["family"] == "overall"].dropna(subset=["wrong_sign", "low_points"]).itertuples():
        chance = ", which chance could give" if row.low_points <= 0 <= row.high_points else ""
        sure = f", {row.estimate_points:+.0f} points (95 % interval {row.low_points:+.0f} to {row.high_points:+.0f}){chance}"
    hidden = [row["emotion_f1_masked"] for row in (low, high)]
    masked = f"; with emotion words masked {hidden[0]:.2f} and {hidden[1]:.2f}" if hidden[0] == hidden[0] else ""
    return (
        f" Its emotion F1 is {low['emotion_f1']:.2f} where {high['precision']} has {high['emotion_f1']:.2f}{sure}{masked}; "
        f"shuffled targets would give {low['emotion_f1_chance']:.2f}."
    )


def differences(frame, greedy):
    """Say of each run how its F1 differs from the baseline's, and how sure that is. frame: comparison.differences."""
    overall = frame[frame["family"] == "overall"]
    tested = overall[overall["estimand"] == PROMPTS_LIKE_THESE]
    if tested.empty:
        return "No judged run has its baseline's judged texts beside it: there is no difference to test."
    lines = []
    for row in tested.itertuples():
        said = f"**{as_data(f'{row.model} {row.precision}')} against {row.against}**: {row.estimate_points:+.1f} points of F1"
        if np.isnan(row.low_points):
            lines.append(f"- {said}; too few prompts, or all alike, so that there is no interval.")
            continue
        p, p_holm = (f"p = {value:.3f}" if value >= 0.0005 else "p < 0.001" for value in (row.p, row.p_holm))
        short = " The interval may hold the truth less often than it says." if row.falls_short else ""
        lines.append(
            f"- {said}, 95 % interval {row.low_points:+.1f} to {row.high_points:+.1f} for {PROMPTS_LIKE_THESE}; {p}, and held "
            f"against {len(tested)} test{'s' * (len(tested) > 1)} {p_holm} (Holm). The chance that the true difference has the "
            f"other sign is {row.wrong_sign:.0%} under a flat prior; effect size d_z = {row.effect_size:.2f}.{short}"
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
    known = intervals["low"].notna() & (intervals["estimand"] == PROMPTS_LIKE_THESE)
    short = intervals[known & intervals["falls_short"]]
    if short.empty:
        return ""
    overall = short[short["figure"].isin(["emotion_f1", "emotion_f1_masked"])]
    runs = dict.fromkeys(as_data(f"{row.model} {row.precision}") for row in overall.itertuples())
    emotions = short["figure"].str.startswith("f1 ").sum()
    said = []
    if runs:
        said.append(
            f"**The interval of {', '.join(runs)} may hold the truth less often than it says**: few texts are right, or wrong."
        )
    if emotions:
        said.append(
            f"{emotions} interval{'s of single emotions rest' if emotions > 1 else ' of a single emotion rests'} on so few "
            "right, or wrong, texts that the truth may lie outside more often than 1 in 20: `falls_short` in "
            "`tables/intervals.csv`."
        )
    return " ".join(said)


def detectable(frame):
    """Say what change the study could see, and what the wanted change needs. frame: comparison.detectable."""
    known = frame.dropna(subset="detectable_points")
    if known.empty:
        return "How small a change this study can see is unknown: no two runs to compare, too few prompts, or all alike."
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
    said = f"With {first['prompts']} prompts{samples}, one paired test at 5 % sees four times in five a change of F1 of:"
    return "\n".join([said, "", *listed])


def by_prompts(frame):
    """Say how far the choice of prompts moves F1; "" where there are too few to choose from. frame: comparison.by_prompts."""
    lines = []
    for (model, precision), of in frame[frame["blocks"] > 1].groupby(["model", "precision"], sort=False):
        listed = ", ".join(f"{row.lowest:.2f} to {row.highest:.2f} with {row.prompts}" for row in of.itertuples())
        lines.append(f"- **{as_data(f'{model} {precision}')}**: {listed}.")
    head = "How far does the choice of prompts move F1? Lowest to highest, over sets of so many prompts that share none:"
    return "\n".join([head, "", *lines]) if lines else ""


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
            f"{'s' if len(share) == 2 else ''}; {share['sample']:.0%} is left, to the single text and what is not told from it."
        )
    return "\n\n".join(lines)


def verdicts(frame):
    """List the verdict on each claim. frame: Results.claims."""
    lines = []
    for row in frame.itertuples():
        sentence = _not_testable(row) if row.verdict == Verdict.NOT_TESTABLE else _verdict(row)
        lines.append(f"- *{as_data(row.claimed)}.* {sentence}")
    return "\n".join(lines)


def _verdict(row):
    statistic = STATISTICS[row.statistic]
    interval = "" if row.low == row.high else statistic.figure(row.low, row.high)
    details = "; ".join(part for part in (interval, row.estimand) if part)
    claimed = statistic.figure(row.claimed_low, row.claimed_high)
    if np.isinf(row.claimed_high):
        claimed = f"above {statistic.neutral}"
    elif np.isinf(row.claimed_low):
        claimed = f"below {statistic.neutral}"
    resident = " Here that is resident memory, not a GPU's." if (row.statistic, row.peak_kind) == ("peak_saving", "rss") else ""
    return (
        f"{as_data(row.claim)} is **{row.verdict}** for {as_data(row.model)} on {row.device}: {statistic.title}, {row.precision} "
        f"against {as_data(row.against)}, {as_data(statistic.figure(row.estimate))}"
        f"{as_data(f' ({details})') if details else ''}, where the claim is {as_data(claimed)}.{resident}"
    )


def _not_testable(row):
    statistic, estimand = STATISTICS[row.statistic], f" ({row.estimand})" if isinstance(row.estimand, str) else ""
    of_models = "" if row.models == "all" else f" ({row.models} parameters)"
    why = {
        Reason.NO_MODEL: f"the study has no model that it speaks of ({row.models} parameters)",
        Reason.NO_PAIR: f"no larger model{of_models} at a lower precision has a peak within {row.detail} of a smaller one's at a "
        "higher",
        Reason.UNKNOWN_SIZE: "how many parameters it has is unknown",
        Reason.NO_RUN: f"the study has no run of it at {row.detail}",
        Reason.NOT_COMPLETE: row.detail,
        Reason.RANDOM_TEXTS: "its weights are random, and what they write means nothing",
        Reason.RANDOM_OUTLIERS: "its weights are random, without the outlier columns that LLM.int8 computes apart, which takes "
        "time",
        Reason.OTHER_DEVICE: f"its runs were made on different devices, {row.detail}",
        Reason.UNKNOWN_FIGURE: row.detail,
        Reason.NO_INTERVAL: f"its {statistic.title} of {statistic.figure(row.estimate)} has no interval{estimand}",
    }[Reason(row.reason)]
    of_model = f" for {as_data(row.model)}" if isinstance(row.model, str) else ""
    return f"{as_data(row.claim)} is **{row.verdict}**{of_model}: {as_data(why)}."


def choice(summary, budget, draws):
    """Say which run to take within a study's budget; "" where the study states none. draws: comparison's, of `summary`'s rows."""
    if budget.memory_gb is None and budget.seconds_a_text is None:
        return ""
    peak_bytes = np.inf if budget.memory_gb is None else 1e9 * budget.memory_gb
    latency_s = np.inf if budget.seconds_a_text is None else budget.seconds_a_text
    return as_data(choose.advice(choose.within_budget(summary, peak_bytes, latency_s, draws), peak_bytes, latency_s))
