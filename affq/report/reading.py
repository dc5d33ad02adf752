"""Frames as people read them: titles, units, rounded figures; as HTML for the page and as LaTeX for a paper.

A cell is data wherever it is shown: never markup, maths, a command or a control sequence.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import pandas as pd

from affq.errors import printable
from affq.models import TRANSFORMERS

AT_A_GLANCE = (
    "model precision engine status device emotion_f1 emotion_f1_low emotion_f1_high emotion_f1_masked emotion_f1_chance "
    "rougeL_to_baseline weights_bytes peak_bytes latency_s joules_a_text note"
).split()
UNDER_LOAD = (
    "model precision engine streams rate asked_per_s texts_per_s tokens_per_s ttft_p50_s ttft_p90_s ttft_p99_s "
    "gap_p50_s gap_p99_s latency_p50_s latency_p90_s latency_p99_s joules_a_text good_texts_per_s errors client_bound"
).split()
TITLES = {
    "emotion_f1": "emotion F1",
    "emotion_f1_low": "low",
    "emotion_f1_high": "high",
    "emotion_f1_masked": "masked",
    "emotion_f1_chance": "chance",
    "f1": "F1",
    "f1_alone": "F1 alone",
    "f1_baseline": "F1 of baseline",
    "rougeL_to_baseline": "ROUGE-L to baseline",
} | {f"rouge{n}": f"ROUGE-{n}" for n in "12L"}
WIDE = 14  # columns from which a table is printed in smaller letters
LONG = 40  # characters from which a cell is a text, set in a wider column
LATEX = str.maketrans({mark: f"\\{mark}" for mark in "&%$#_{}"})
# pdflatex has no letter for a minus.
LATEX |= str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})
LATEX |= str.maketrans({"\N{MINUS SIGN}": "$-$"})


@dataclass(frozen=True)
class Column:
    """A column as people read it: a title with its unit, and cells as text; is_number says whether they are figures."""

    title: str
    cells: list[str]
    is_number: bool = False

    @property
    def kind(self) -> str:
        """Return `number`, `text` where a cell is long, or `word`: the class of its cells on the page."""
        if self.is_number:
            return "number"
        return "text" if max(map(len, self.cells), default=0) > LONG else "word"


def for_reading(frame: pd.DataFrame, empty: str = "") -> list[Column]:
    """Return the columns of a raw frame with units: bytes in MB (10^6), seconds and joules to three figures, others to two
    decimals.

    empty: what stands where there is no value. Run ids are left out, since model, precision and engine name a run, and an engine
    that is the usual one throughout; so are columns without a value, unless `empty` says something of them. A column whose name
    is no identifier is called as data are, such as a run.
    """
    usual = "engine" in frame and frame["engine"].dropna().isin([TRANSFORMERS, "all"]).all()  # all: a row over all runs
    named = [name for name in frame.columns if not str(name).endswith("run_id") and not (usual and str(name).endswith("engine"))]
    known = [name for name in named if empty or frame.empty or frame[name].notna().any()]
    return [_column(str(name), frame[name], empty) for name in known]


def _column(name: str, values: pd.Series, empty: str) -> Column:
    title = TITLES.get(name, name.replace("_", " ") if name.isidentifier() else name)
    form, is_number = "{}", True
    if name.endswith("bytes"):
        title, form = f"{title.removesuffix('bytes').strip() or 'stored'} (MB)", "{:,.1f}"
        values = pd.to_numeric(values) / 1e6
    elif name.endswith("_s") and not name.endswith("_per_s"):
        title, values = f"{title.removesuffix(' s')} (s)", pd.to_numeric(values)
        return Column(title, [_cell(v, _three_figures(v), empty) for v in values], True)
    elif "joules" in name or name.endswith("_watts"):
        return Column(title, [_cell(v, _three_figures(v), empty) for v in pd.to_numeric(values)], True)
    elif pd.api.types.is_float_dtype(values):
        form = "{:.2f}"
    elif pd.api.types.is_integer_dtype(values):
        form = "{:,}"
    else:
        is_number = False
    return Column(title, [_cell(v, form, empty) for v in values], is_number)


def _three_figures(value: float) -> str:
    return "{:#.3g}" if abs(value) < 99.95 else "{:,.0f}"


def _cell(value: object, form: str, empty: str) -> str:
    return empty if pd.isna(value) else form.format(value)


def escaped(value: object) -> str:
    """Return a value as HTML that shows it: no markup, and no control character."""
    return html.escape(printable(value, in_text=True))


def html_table(columns: Sequence[Column], caption: str) -> str:
    """Return a table as HTML, in a box of its own that a narrow page scrolls and a keyboard reaches.

    The leading columns of words, as few as tell every row from the others, head the rows.
    """
    heading = _heading(columns)
    head = "".join(f'<th scope="col" class="{column.kind}">{escaped(column.title)}</th>' for column in columns)
    cells = [_html_cells(column, number < heading) for number, column in enumerate(columns)]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    return (
        f'<div class="table{" wide" * (len(columns) > WIDE)}" tabindex="0" role="group" aria-label="{escaped(caption)}">'
        f"<table><caption>{escaped(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _heading(columns: Sequence[Column]) -> int:
    """Return how many of the leading columns head the rows."""
    words = [column.cells for column in takewhile(lambda column: column.kind == "word", columns)]
    for count in range(1, len(words) + 1):
        rows = list(zip(*words[:count], strict=True))
        if len(set(rows)) == len(rows):
            return count
    return len(words)


def _html_cells(column: Column, heads: bool) -> Iterable[str]:
    opening, closing = ('<th scope="row"', "</th>") if heads else ("<td", "</td>")
    for cell, pad in zip(column.cells, _pads(column), strict=True):
        # The page's style shows these digits unseen, so that the points of a column stand below each other.
        padded = f' data-pad="{pad}"' if pad else ""
        yield f'{opening} class="{column.kind}"{padded}>{escaped(cell)}{closing}'


def _pads(column: Column) -> list[str]:
    """Return the decimals that each figure lacks beside the longest; none where a figure has an exponent."""
    is_figure = [column.is_number and cell[-1:].isdigit() for cell in column.cells]
    figures = [cell for cell, is_one in zip(column.cells, is_figure, strict=True) if is_one]
    if any("e" in figure for figure in figures):
        return [""] * len(column.cells)
    longest = max(map(_places, figures), default=0)
    pads = ["" if _places(cell) else "." * (longest > 0) for cell in column.cells]
    pads = [pad + "0" * (longest - _places(cell + pad)) for cell, pad in zip(column.cells, pads, strict=True)]
    return [pad if is_one else "" for pad, is_one in zip(pads, is_figure, strict=True)]


def _places(figure: str) -> int:
    """Return how many letters a figure takes from its point on."""
    return len(figure) - figure.find(".") if "." in figure else 0


def latex_table(columns: Sequence[Column], bold: Mapping[str, Sequence[bool]] | None = None) -> str:
    r"""Return a tabular for \usepackage{booktabs}. bold: by a column's title, which of its cells are set in bold."""
    marks = bold or {}
    cells = [_latex_cells(column, marks.get(column.title, ())) for column in columns]
    lines = [" & ".join(row) + r" \\" for row in zip(*cells, strict=True)]
    head, *rows = lines or [r"\\"]
    sides = "".join({"number": "r", "word": "l", "text": "p{6cm}"}[column.kind] for column in columns)
    parts = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"


def _latex_cells(column: Column, bold: Sequence[bool]) -> list[str]:
    """Return the title and the cells of a column, escaped."""
    cells = [printable(cell).translate(LATEX) for cell in (column.title, *column.cells)]
    # After a row's end LaTeX would take a bracket or a star for that end's own argument.
    safe = ["{}" * cell.startswith(("[", "*")) + cell for cell in cells]
    marked = [False, *(bold or [False] * len(column.cells))]
    return [rf"\textbf{{{cell}}}" if is_bold else cell for cell, is_bold in zip(safe, marked, strict=True)]
