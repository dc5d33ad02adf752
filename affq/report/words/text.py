"""How names and figures are written in a sentence."""

import re

import pandas as pd

from affq.analysis import run_labels
from affq.errors import printable
from affq.models import STORED
from affq.study import run_label


def as_data(text: object) -> str:
    """Return text escaped for Markdown: every mark is a character reference, which reads as itself and is never markup."""
    return re.sub(r"[^\w -]|_", lambda mark: f"&#{ord(mark[0])};", printable(text))


def run_name(model: str, precision: str, engine: str) -> str:
    """Return the name of a run, for Markdown."""
    return as_data(run_label(model, precision, engine))


def at(precision: str) -> str:
    """Return how a model is had at a precision."""
    return "as it was published" if precision == STORED else f"at {precision}"


def span(values: pd.Series, form: str = ".0%") -> str:
    """Return the least and the greatest of the runs' figures, `unknown` where there is none."""
    known = values.dropna().astype(float)
    if known.empty:
        return "unknown"
    return " to ".join(dict.fromkeys(f"{end:{form}}" for end in (known.min(), known.max())))


def shown(summary: pd.DataFrame, column: str, unit: str = "", scale: float = 1, digits: int = 2) -> str:
    """Return a column of the summary run by run, in plain text: the alternative text of its chart."""
    runs = zip(run_labels(summary), summary[column], strict=True)
    figures = [f"{run} {value * scale:,.{digits}f}{unit}" for run, value in runs if pd.notna(value)]
    title = column.removesuffix("_s").removesuffix("_bytes").replace("_", " ").replace("f1", "F1")
    return f"{title}: {', '.join(figures)}"
