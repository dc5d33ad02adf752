"""Sentences about judges and people who judge, written from figures: Markdown, as in `words`."""

from affq.report.words import as_data


def judges(by_judge, between):
    """Say how far the judges agree, how each orders a model's precisions, and whether one contradicts another.

    by_judge: agreement.by_judge. between: agreement.between_judges. The orders are of estimates; a contradiction is of intervals:
    by one judge a run is better than its baseline, by another worse.
    """
    said = []
    for row in between[between["model"] == "all"].itertuples():
        beyond = [f"{name} {value:.2f}" for name, value in _beyond_chance(row) if value == value]
        said.append(
            f"{as_data(row.judges)} give the same answer to {row.same:.0%} of {row.texts} texts"
            + (f" ({', '.join(beyond)}; 0 is chance, 1 full agreement)." if beyond else ".")
        )
    for model, of in by_judge.groupby("model", sort=False):
        if of["precision"].nunique() < 2:
            continue
        ranks = of.pivot(index="precision", columns="judge", values="rank")
        listed = "; ".join(f"by {as_data(judge)} {_ordered(ranks[judge])}" for judge in of["judge"].unique())
        same = "in the same order" if ranks.nunique(axis=1).eq(1).all() else "in different orders"
        said.append(f"**{as_data(model)}**: F1, as estimated, puts the precisions {same}: {listed}. {_contradictions(of)}")
    return "\n\n".join(said)


def _ordered(ranks):
    """List precisions by rank, equals joined."""
    return ", ".join(" = ".join(of.index) for _, of in ranks.groupby(ranks))


def _contradictions(of):
    better, worse = (set(of.loc[sure, "precision"]) for sure in (of["low_points"] > 0, of["high_points"] < 0))
    if both := [precision for precision in of["precision"].unique() if precision in better & worse]:
        return f"**The conclusion depends on the judge**: by one {', '.join(both)} is better than the baseline, by another worse."
    return "No judge's interval contradicts another's."


def _beyond_chance(row):
    return ("Cohen's κ", row.cohen_kappa), ("Krippendorff's α", row.krippendorff_alpha)


def people(between, corrected):
    """Say how far people, judge and target agree, and what F1 is as people read the texts. Both frames are annotation's."""
    said = []
    for row in between[between["first"] != "all people"].itertuples():
        beyond = f" (Cohen's κ {row.cohen_kappa:.2f})" if row.cohen_kappa == row.cohen_kappa else ""
        said.append(
            f"{as_data(row.first)} and {as_data(row.second)} give the same to {row.same:.0%} of {row.texts:.0f} texts{beyond}"
        )
    for row in corrected.itertuples():
        interval = (
            f", 95 % interval {row.low:.2f} to {row.high:.2f}" if row.low == row.low else ", too few labels for an interval"
        )
        said.append(
            f"**{as_data(f'{row.model} {row.precision}')}**: emotion F1 as people read the texts is {row.estimate:.2f}{interval} "
            f"({row.labelled} of {row.texts} texts labelled); the judge alone says {row.judge_alone:.2f}"
        )
    return "\n".join(f"- {line}." for line in said)


def bands(bands, card):
    """Say what F1 would be if the judge erred as on its card. bands: annotation.bands."""
    listed = "; ".join(f"{as_data(f'{row.model} {row.precision}')} {row.low:.2f} to {row.high:.2f}" for row in bands.itertuples())
    return (
        f"Nobody has labelled these texts. **An assumption**: if the judge errs on them as it does on "
        f"{as_data(card['test']['file'])}, people would find an emotion F1 of: {listed}. Generated text is other text, and "
        f"nothing here tests it; affq annotate writes a sample for people to label, which does."
    )


def judge(judge):
    """Give a judge's card as Markdown; of one without, what is known of it."""
    if judge.card:
        return judge.about.replace("# ", "### ", 1)
    stands_for = ", ".join(f"{as_data(label)} for {emotion}" for label, emotion in judge.identity["labels"].items())
    return (
        f"### {as_data(judge.name)}\n\nA sequence classifier, {as_data(judge.identity['revision'])}. It answers one of "
        f"{as_data(', '.join(judge.emotions))}{f'; its label {stands_for}' if stands_for else ''}. It has no card: how often it "
        f"errs is not known here."
    )
