"""Sentences about judges, and about people who judge."""

import pandas as pd

from affq.analysis import run_labels
from affq.report.words.text import as_data, run_name
from affq.scoring import Judge


def agreement(by_judge: pd.DataFrame, between: pd.DataFrame) -> str:
    """Return how far the judges agree, how each orders a model's runs, and whether one contradicts another.

    The frames are Results.by_judge and between_judges. The orders are of estimates; a contradiction is of intervals: by one
    judge a run is better than its baseline, by another worse.
    """
    paragraphs = []
    for row in between[between["model"] == "all"].itertuples():
        coefficients = {"Cohen's κ": row.cohen_kappa, "Krippendorff's α": row.krippendorff_alpha}
        known = [f"{name} {value:.2f}" for name, value in coefficients.items() if pd.notna(value)]
        beyond_chance = f" ({', '.join(known)}; 0 is chance, 1 full agreement)" if known else ""
        paragraphs.append(f"{as_data(row.judges)} {_same(row.same, row.texts)}{beyond_chance}.")
    for model, runs in by_judge.groupby("model", sort=False):
        runs = runs.assign(run=run_labels(runs))
        if runs["run"].nunique() < 2:
            continue
        ranks = runs.pivot(index="run", columns="judge", values="rank")
        orders = "; ".join(f"by {as_data(judge)} {_order(ranks[judge])}" for judge in runs["judge"].unique())
        same = "in the same order" if ranks.nunique(axis=1).eq(1).all() else "in different orders"
        several = "precisions" if runs["engine"].nunique() == 1 else "runs"
        paragraphs.append(f"**{as_data(model)}**: estimated F1 puts the {several} {same}: {orders}. {_contradictions(runs)}")
    return "\n\n".join(paragraphs)


def _same(share: float, texts: float) -> str:
    return f"give the same answer to {share:.0%} of {texts:.0f} texts" if texts else "have no text in common"


def _order(ranks: pd.Series) -> str:
    """Return runs by rank, equals joined."""
    return ", ".join(" = ".join(equals.index) for _, equals in ranks.groupby(ranks))


def _contradictions(runs: pd.DataFrame) -> str:
    better, worse = (set(runs.loc[sure, "run"]) for sure in (runs["low_points"] > 0, runs["high_points"] < 0))
    if both := [run for run in runs["run"].unique() if run in better & worse]:
        return f"**The conclusion depends on the judge**: by one {', '.join(both)} is better than the baseline, by another worse."
    return "No judge's interval contradicts another's."


def people(between: pd.DataFrame, corrected: pd.DataFrame) -> str:
    """Return how far people, judge and target agree, and F1 as people read the texts. The frames: Results.people, corrected."""
    lines = []
    for row in between[between["first"] != "all people"].itertuples():
        kappa = "" if pd.isna(row.cohen_kappa) else f" (Cohen's κ {row.cohen_kappa:.2f})"
        pair = f"{as_data(row.first)} and {as_data(row.second)}"
        lines.append(f"{pair} {_same(row.same, row.texts)}{kappa}")
    for row in corrected.itertuples():
        interval = "too few labels for an interval" if pd.isna(row.low) else f"95 % interval {row.low:.2f} to {row.high:.2f}"
        run = run_name(row.model, row.precision, row.engine)
        lines.append(
            f"**{run}**: emotion F1 as people read the texts is {row.estimate:.2f}, {interval} "
            f"({row.labelled} of {row.texts} texts labelled); by the judge alone it is {row.judge_alone:.2f}"
        )
    return "\n".join(f"- {line}." for line in lines)


def band(test_file: str) -> str:
    """Return what Results.judge_band assumes: that the judge errs on generated texts as on its card. test_file: the card's."""
    return (
        f"Nobody has labelled these texts. **An assumption**: if the judge errs on them as it does on "
        f"{as_data(test_file)}, people would find an emotion F1 from *low* to *high*. Generated text "
        f"is other text, and nothing here tests the assumption; affq annotate writes a sample for people to label, which does."
    )


def card(judge: Judge) -> str:
    """Return a judge's card; of a judge without one, what is known of it."""
    if judge.about:
        return judge.about.replace("# ", "### ", 1)
    labels = judge.identity["labels"]
    stands_for = ", ".join(f"{as_data(label)} for {emotion}" for label, emotion in labels.items())
    return (
        f"### {as_data(judge.name)}\n\nA sequence classifier, {as_data(judge.identity['revision'])}. It answers one of "
        f"{as_data(', '.join(judge.emotions))}{f'; its label {stands_for}' if stands_for else ''}. It has no card: how often it "
        f"errs is not known here."
    )
