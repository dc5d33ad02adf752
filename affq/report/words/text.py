"""How names and figures are written in a sentence."""

import re

import pandas as pd

from affq.errors import printable


def as_data(text: object) -> str:
    """Return text escaped for Markdown: every mark is a character reference, which reads as itself and is never markup."""
    return re.sub(r"[^\w -]|_", lambda mark: f"&#{ord(mark[0])};", printable(text))


def run_name(model: str, precision: str) -> str:
    """Return the name of a run, for Markdown."""
    return as_data(f"{model} {precision}")


def span(values: pd.Series, form: str = ".0%") -> str:
    """Return the least and the greatest of the runs' figures, `unknown` where there is none."""
    known = values.dropna().astype(float)
    if known.empty:
        return "unknown"
    return " to ".join(dict.fromkeys(f"{end:{form}}" for end in (known.min(), known.max())))


def shown(summary: pd.DataFrame, column: str, unit: str = "", scale: float = 1, digits: int = 2) -> str:
    """Return a column of the summary run by run, in plain text: the alternative text of its chart."""
    named = summary["model"].nunique() > 1
    figures = [
        f"{f'{row.model} ' if named else ''}{row.precision} {getattr(row, column) * scale:,.{digits}f}{unit}"
        for row in summary.dropna(subset=column).itertuples()
    ]
    title = column.removesuffix("_s").removesuffix("_bytes").replace("_", " ").replace("f1", "F1")
    return f"{title}: {', '.join(figures)}"
