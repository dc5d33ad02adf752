"""Exports: the main tables as LaTeX, what to cite as BibTeX, and links to all that lies beside the page."""

import html
import shutil
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from IPython.display import HTML, display

from affq.errors import printable

RUN = ["model", "precision"]
F1 = "emotion F1"
LINKED = {"Tables, as CSV": ("tables", "csv", "tex"), "Charts, as PNG": ("charts", "png", "svg", "pdf")}
FORMATS = {".tex": "LaTeX", ".svg": "SVG", ".pdf": "PDF"}


def latex(folder, summary, differences, verdicts, compared):
    r"""Write summary.tex, differences.tex and claims.tex to folder/tables, each a tabular for \usepackage{booktabs}.

    Intervals are in brackets, at 95 %. In bold: the highest F1, and each that is not told apart from it, which is where the
    interval of the difference, paired by prompt and for prompts like these, holds 0 or has no ends. summary: tables.summary;
    compared: comparison.Compared; differences and verdicts: comparison's.
    """
    runs = pd.DataFrame({name: summary[name] for name in RUN})
    if summary["emotion_f1"].notna().any():
        runs[F1] = _figures(summary, ".2f", "emotion_f1", "emotion_f1_low", "emotion_f1_high")
        runs["masked"] = _figures(summary, ".2f", "emotion_f1_masked")
        runs["chance"] = _figures(summary, ".2f", "emotion_f1_chance")
    runs["weights (MB)"] = _figures(summary.assign(shown=summary["weights_bytes"] / 1e6), ",.0f", "shown")
    runs["peak (MB)"] = _figures(summary.assign(shown=summary["peak_bytes"] / 1e6), ",.0f", "shown")
    runs["latency (s)"] = _figures(summary, ".2f", "latency_s", "latency_low_s", "latency_high_s")
    _write(runs, folder, "summary", summary["run_id"].isin(unbeaten(summary, compared)))

    overall = differences[(differences["family"] == "overall") & differences["wrong_sign"].notna()]
    shown = overall[[*RUN, "against"]].assign(
        difference=_figures(overall, "+.1f", "estimate_points", "low_points", "high_points"),
        p=_figures(overall, ".3f", "p"),
        holm=_figures(overall, ".3f", "p_holm"),
    )
    _write(shown.rename(columns={"difference": "difference of F1 (points)", "holm": "p (Holm)"}), folder, "differences")

    shown = verdicts[["claim", *RUN, "against", "statistic"]].assign(
        estimate=_figures(verdicts, ".2f", "estimate", "low", "high"), verdict=verdicts["verdict"]
    )
    _write(shown.assign(statistic=[name.replace("_", " ") for name in shown["statistic"]]), folder, "claims")


def unbeaten(summary, compared):
    """Give the ids of the run with the highest F1 and of those that are not told apart from it: see `latex`."""
    judged = summary.dropna(subset="emotion_f1")
    if judged.empty:
        return set()
    best = judged.loc[judged["emotion_f1"].idxmax(), "run_id"]
    return {other for other in judged["run_id"] if other == best or not compared.f1_difference(best, other).low > 0}


def _figures(frame, form, figure, low=None, high=None):
    """Write figures as text, with the ends of their intervals in brackets where there are any; "" for what is not known."""
    shown = ["" if pd.isna(value) else format(value, form) for value in frame[figure]]
    if low is not None:
        ends = zip(shown, frame[low], frame[high], strict=True)
        shown = [one if pd.isna(a) or pd.isna(b) else f"{one} [{a:{form}}, {b:{form}}]" for one, a, b in ends]
    return pd.Series([one.replace("-", "\N{MINUS SIGN}") for one in shown], frame.index, dtype=str)


def _write(frame, folder, name, bold=None):
    """Write a frame of text; bold: for each row, whether its F1 is."""
    shown = frame.map(lambda cell: "" if pd.isna(cell) else printable(cell)).reset_index(drop=True)
    style = shown.style.hide(axis="index").format(_cell, escape="latex")
    style = style.format_index(escape="latex", axis="columns")
    if bold is not None and F1 in frame:
        style = style.apply(lambda column: ["textbf:--rwrap;" if yes else "" for yes in bold], subset=F1)
    sides = "".join("l" if any(map(str.isalpha, "".join(shown[column]))) else "r" for column in shown)
    text = style.to_latex(hrules=True, column_format=sides)
    (Path(folder) / "tables" / f"{name}.tex").write_text(text, encoding="utf-8")


def _cell(text):
    # After a row's end LaTeX would take a bracket or a star for that end's own argument; pdflatex has no letter for a minus.
    return ("{}" if text[:1] in ("[", "*") else "") + text.replace("\N{MINUS SIGN}", "$-$")


def references(folder):
    """Write folder/references.bib: what affq follows, and what its judges and default model come from."""
    shutil.copyfile(Path(__file__).with_name("references.bib"), Path(folder) / "references.bib")


def links(folder):
    """Show links to every table and chart beside the page, in each of their formats, to the notebook and the references."""
    folder, said = Path(folder), []
    for words, (inside, first, *more) in LINKED.items():
        each = []
        for path in sorted((folder / inside).glob(f"*.{first}")):
            others = [path.with_suffix(f".{kind}") for kind in more]
            listed = ", ".join(_link(folder, other, FORMATS[other.suffix]) for other in others if other.exists())
            each.append(_link(folder, path, path.stem) + (f" ({listed})" if listed else ""))
        said.append(f"<li>{words}: {'; '.join(each)}</li>")
    said.append('<li><a href="summary.ipynb">The notebook of this page</a>, with the code of every figure</li>')
    said.append('<li><a href="references.bib">References</a>, as BibTeX</li>')
    display(HTML(f'<div class="mathjax_ignore"><ul>{"".join(said)}</ul></div>'))


def _link(folder, path, words):
    return f'<a href="{quote(path.relative_to(folder).as_posix())}">{html.escape(words)}</a>'
