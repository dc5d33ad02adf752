"""The lines of `affq plan`, in plain text: what will run, whether it fits, what int8 saves, what change of F1 can be seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from affq.analysis import WANTED
from affq.models import TRANSFORMERS, lacks
from affq.report.words.comparisons import least
from affq.study import Claim, Run, on_engine

if TYPE_CHECKING:  # it imports torch, which the summary's sentences do without
    from affq.models import memory

SHORT = 40  # characters of a reason that is said again, where a longer one is "as above"


def planned(runs: Sequence[dict], machine: memory.Machine | None, claims: Iterable[Claim] = ()) -> list[str]:
    """Return the lines of affq plan: a table of the runs, what is at hand, what int8 saves, and what is claimed of that.

    runs: analysis.planned_runs. machine: memory.at_hand. claims: the study's. A measured peak stands beside the predicted one.
    What is said of several runs is said once.
    """
    names = [run["run_id"] or f"{run['model']}--{run['precision']}" for run in runs]
    width = max(map(len, names))
    lines = [f"{'status':8} {'run':{width}}  weights GB  peak GB  measured GB  fits        why"]
    reason = ""
    for name, run in zip(names, runs, strict=True):
        reason, former = run["reason"], reason
        why = "as above" if reason == former and len(reason) > SHORT else reason
        fits = {True: "yes", False: "no", None: "?"}[run["fits"]] + (f": {n} GPUs" if (n := run["gpus"] or 1) > 1 else "")
        amounts = ["?" if run[key] is None else f"{run[key] / 1e9:,.2f}" for key in ("weights_bytes", "peak_bytes")]
        measured = "" if run["measured_peak_bytes"] is None else f"{run['measured_peak_bytes'] / 1e9:,.2f}"
        memory = f"{amounts[0]:>10}  {amounts[1]:>7}  {measured:>11}"
        lines.append(f"{run['status']:8} {name:{width}}  {memory}  {fits:10}  {why}".rstrip())
    lines += [
        f"{name} does not fit in the study's batch; in one of {run['batch_that_fits']} it would: batch: {run['batch_that_fits']}"
        for name, run in zip(names, runs, strict=True)
        if run["batch_that_fits"]
    ]
    lines += unpredicted(runs)
    lines.append(_at_hand(machine))
    if saved := savings(runs):
        about = [c for c in claims if c.statistic in ("weights_saving", "peak_saving") and c.precision == "int8"]
        lines += ["Predicted:", *saved, *(f"Claimed ({claim.id}): {claim.sentence}" for claim in about)]
    return lines


def left_out(combinations: Iterable[tuple[Run, str]]) -> list[str]:
    """Return the combinations that a study has no run of, each reason once. combinations: Study.left_out."""
    by_reason: dict[str, list[str]] = {}
    for run, why in combinations:
        by_reason.setdefault(why, []).append(f"{run.model.name} {run.precision} on {run.engine.label}")
    return [f"Left out: {', '.join(runs)}: {why}" for why, runs in by_reason.items()]


def lacking(runs: Iterable[Run]) -> list[str]:
    """Return which packages runs need that are not installed here, each said once."""
    words = (lacks(run.model, run.precision, run.engine) for run in runs)
    return [f"Lacking: {what}" for what in dict.fromkeys(filter(None, words))]


def unpredicted(runs: Sequence[dict]) -> list[str]:
    """Return why the memory of runs is not predicted, each reason once, unless it is why they are to be run.

    runs: {model, reason, unpredicted}.
    """
    untold = [run for run in runs if run["unpredicted"] and run["unpredicted"] not in run["reason"]]
    models = dict.fromkeys((run["unpredicted"], run["model"]) for run in untold)
    return [f"Memory of {model} is not predicted: {why}" for why, model in models]


def _at_hand(machine: memory.Machine | None) -> str:
    if machine is None:
        return "At hand: no GPU, which the study asks for"
    size = f"{machine.device_bytes / 1e9:,.1f} GB"
    return f"At hand: {size} of memory" if machine.kind == "cpu" else f"At hand: {machine.devices} GPUs of {size} each"


def savings(runs: Sequence[dict]) -> list[str]:
    """Return for each model what int8 saves of the predicted memory, by arithmetic.

    runs: {model, precision, engine, weights_bytes, peak_bytes}, the bytes None where unknown. Nothing for models without int8
    beside fp32 or fp16.
    """
    usual = [run for run in runs if run["peak_bytes"] is not None and run["engine"] == TRANSFORMERS]
    lines, known = [], {(run["model"], run["precision"]): run for run in usual}
    for model in dict.fromkeys(model for model, precision in known if precision == "int8"):
        low, saved = known[model, "int8"], []
        for high in (known[model, precision] for precision in ("fp32", "fp16") if (model, precision) in known):
            weights, peak = (1 - low[key] / high[key] for key in ("weights_bytes", "peak_bytes"))
            saved.append(f"against {high['precision']} {weights:.1%} of the weights and {peak:.1%} of the peak")
        if saved:
            lines.append(f"{model}: int8 saves {'; '.join(saved)}")
    return lines


def planned_power(detectable: pd.DataFrame, texts: str) -> list[str]:
    """Return what change of F1 each comparison detects, and what a change of WANTED needs. texts: whose variance it is.

    What is the same for all of several models, as where none was run, is said once.
    """
    changes: dict[str, list[str]] = {}  # which models each is that of
    for row in detectable.dropna(subset="detectable_points").itertuples():
        needed = "no number of" if pd.isna(row.prompts_needed) else f"{row.prompts_needed:,}"
        change = f"{least(row.detectable_points, '.0f')}; {100 * WANTED:.0f} points need {needed} prompts"
        changes.setdefault(f"{row.precision} against {row.against}{on_engine(row.engine)}: {change}", []).append(row.model)
    lines: list[str] = []
    for change, models in changes.items():
        is_general = len(models) == detectable["model"].nunique() > 1
        lines += [f"{model}: {change}" for model in (["each model"] if is_general else models)]
    head = f"Smallest change of emotion F1 that this study detects with 80 % power, if prompts vary as in {texts}:"
    return [head, *lines] if lines else []
