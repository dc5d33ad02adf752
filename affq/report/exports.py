"""The main tables as LaTeX for a paper: summary, differences, claims; intervals in brackets, the best F1 in bold."""

import pandas as pd

from affq.analysis import NAMED, Compared
from affq.models import TRANSFORMERS
from affq.report.output import latex
from affq.report.reading import Column

F1 = "emotion F1"


def main_tables(summary: pd.DataFrame, differences: pd.DataFrame, claims: pd.DataFrame, compared: Compared) -> None:
    """Write tables/summary.tex, differences.tex and claims.tex.

    Intervals are in brackets, at 95 %. In bold: the highest F1, and each that is not told apart from it, which is where the
    interval of the difference, paired by prompt and for prompts like these, holds 0 or has no ends. The frames are those of
    `Results` of these names.
    """
    quality = [
        _figures(F1, ".2f", summary, "emotion_f1", "emotion_f1_low", "emotion_f1_high"),
        _figures("masked", ".2f", summary, "emotion_f1_masked"),
        _figures("chance", ".2f", summary, "emotion_f1_chance"),
    ]
    megabytes = summary.assign(weights=summary["weights_bytes"] / 1e6, peak=summary["peak_bytes"] / 1e6)
    costs = [
        _figures("weights (MB)", ",.0f", megabytes, "weights"),
        _figures("peak (MB)", ",.0f", megabytes, "peak"),
        _figures("latency (s)", ".2f", summary, "latency_s", "latency_low_s", "latency_high_s"),
    ]
    if summary["joules_a_text"].notna().any():
        costs.append(_figures("energy (J)", ".3g", summary, "joules_a_text"))
    best = unbeaten(summary, compared)
    columns = [*_words(summary, *_names(summary)), *(quality if summary["emotion_f1"].notna().any() else []), *costs]
    latex(columns, "summary", {F1: [run_id in best for run_id in summary["run_id"]]})

    overall = differences[(differences["family"] == "overall") & differences["wrong_sign"].notna()]
    columns = [
        *_words(overall, *_names(overall), "against"),
        _figures("difference of F1 (points)", "+z.1f", overall, "estimate_points", "low_points", "high_points"),
        _figures("p", ".3f", overall, "p"),
        _figures("p (Holm)", ".3f", overall, "p_holm"),
    ]
    latex(columns, "differences")

    named = claims.assign(statistic=[name.replace("_", " ") for name in claims["statistic"]])
    columns = [
        *_words(named, "claim", *_names(named), "against", "statistic"),
        _figures("estimate", ".2f", claims, "estimate", "low", "high"),
        *_words(claims, "verdict"),
    ]
    latex(columns, "claims")


def unbeaten(summary: pd.DataFrame, compared: Compared) -> set[str]:
    """Return the ids of the run with the highest F1 and of those that are not told apart from it: see `main_tables`."""
    judged = summary.dropna(subset="emotion_f1")
    if judged.empty:
        return set()
    best = judged.loc[judged["emotion_f1"].idxmax(), "run_id"]
    return {other for other in judged["run_id"] if other == best or not compared.f1_difference(best, other).low > 0}


def _names(frame: pd.DataFrame) -> list[str]:
    """Return what tells a frame's runs apart: the engine is left out where all have the usual one."""
    return [name for name in NAMED if name != "engine" or not frame["engine"].dropna().eq(TRANSFORMERS).all()]


def _words(frame: pd.DataFrame, *names: str) -> list[Column]:
    return [Column(name, ["" if pd.isna(value) else str(value) for value in frame[name]]) for name in names]


def _figures(title: str, form: str, frame: pd.DataFrame, figure: str, low: str | None = None, high: str | None = None) -> Column:
    """Return figures as a column, with the ends of their intervals in brackets where there are any."""
    cells = ["" if pd.isna(value) else format(value, form) for value in frame[figure]]
    if low is not None:
        ends = zip(cells, frame[low], frame[high], strict=True)
        cells = [cell if pd.isna(a) or pd.isna(b) else f"{cell} [{a:{form}}, {b:{form}}]" for cell, a, b in ends]
    return Column(title, [cell.replace("-", "\N{MINUS SIGN}") for cell in cells], True)
