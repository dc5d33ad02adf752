"""What a report shows, and what it writes beside its page: tables as CSV and LaTeX, charts, references, what was published.

`write_to` says once where that is. Before it, frames and charts are shown, and nothing is written. A new report is written to a
folder of its own, `draft`, until `publish.report` puts it in the place of the former one.
"""

import html
import io
import re
import shutil
from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import numpy as np
import pandas as pd
from IPython.display import HTML, Image, Markdown, display
from pydantic import BaseModel

from affq import __version__, files
from affq.errors import InputError, printable
from affq.report.drawing import Drawing
from affq.report.reading import Column, escaped, for_reading, html_table, latex_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PUBLISHED = "published.json"
LINKED = {"Tables, as CSV": ("tables", "csv", "tex"), "Charts, as PNG": ("charts", "png", "svg", "pdf")}
FORMATS = {"tex": "LaTeX", "svg": "SVG", "pdf": "PDF"}
REMEDY = "delete it, and publish again"
# What csv_text puts in the place of what: a bare carriage return would not be quoted, and would break its row.
GUARDS = (("\r\n?", "\n"), (r"\A(?=[=+\-@\t\n\0])", "'"))


class Published(BaseModel):
    """What published.json says of a report: the page's answer in Markdown, its hardware, and the tables and charts beside it."""

    affq: str = ""  # version
    published: str = ""  # day, in UTC
    answer: str = ""
    hardware: str = ""
    files: list[str] = []


class _Beside:
    """The folder of a report, the names of the tables and charts that this process wrote there, and what draws more of them."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.names = folder, set[str]()
        self.drawing: Drawing | None = None

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the report, if it is said where."""
        if self.folder is None:
            return
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.names.add(name)

    def draw(self, name: str, figure: "Figure") -> None:
        """Write a figure to charts/<name>.svg and .pdf in a while, if it is said where the report is."""
        if self.folder is None:
            return
        self.drawing = self.drawing or Drawing()
        self.drawing.write(figure, (self.folder / "charts" / name).resolve())
        self.names |= {f"charts/{name}.svg", f"charts/{name}.pdf"}


_beside = _Beside(None)


def draft(folder: Path | str, empty: bool = True) -> Path:
    """Return the folder where the next report of a study's folder is written, and make it; empty: without what is there."""
    path = Path(folder) / "draft"
    if path.is_symlink():
        path.unlink()
    if empty:
        shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_to(folder: Path | str) -> None:
    """Begin a report: from now on tables go to folder/tables, charts to folder/charts."""
    global _beside
    _beside = _Beside(Path(folder))


def show(
    frame: pd.DataFrame,
    name: str,
    caption: str,
    *,
    columns: list[str] | None = None,
    folded: bool = False,
    empty: str = "",
) -> None:
    """Show a raw frame as a table for reading, and write it: all of it, raw, to tables/<name>.csv, the table to <name>.tex.

    columns: those to be shown, all by default. folded, empty: as `table` takes them.
    """
    csv(frame, name)
    shown = frame if columns is None else frame[columns]
    latex(for_reading(shown, empty), name)
    table(shown, caption, folded=folded, empty=empty)


def table(frame: pd.DataFrame, caption: str, *, folded: bool = False, empty: str = "") -> None:
    """Show a raw frame as a table for reading, and write nothing.

    folded: show the caption alone until a reader opens it. empty: what stands where there is no value; without it, columns
    without a value are left out.
    """
    if frame.empty:
        shown = f"<p>{escaped(caption)}: there is none.</p>"
    else:
        shown = html_table(for_reading(frame, empty), caption)
    if folded and not frame.empty:
        shown = f"<details><summary>{escaped(caption)}</summary>{shown}</details>"
    _show_html(shown)


def _show_html(text: str) -> None:
    # JupyterLab would typeset what looks like LaTeX.
    display(HTML(f'<div class="mathjax_ignore">{text}</div>'))


def csv(frame: pd.DataFrame, name: str) -> None:
    """Write a frame, raw, to tables/<name>.csv."""
    _beside.write(f"tables/{name}.csv", csv_text(frame).encode())


def csv_text(frame: pd.DataFrame) -> str:
    """Return a frame, raw, as CSV.

    A text that begins as a spreadsheet's formula does (= + - @, a tab, a line feed, NUL) gains an apostrophe before it, also in
    the name of a column.
    """
    whole = frame.rename(columns=_guarded)
    for pattern, instead in GUARDS:
        whole = whole.replace(pattern, instead, regex=True)
    return whole.to_csv(index=False, lineterminator="\n")


def _guarded(column: Hashable) -> Hashable:
    """Return the name of a column as csv_text writes it."""
    for pattern, instead in GUARDS:
        column = re.sub(pattern, instead, column) if isinstance(column, str) else column
    return column


def latex(columns: Sequence[Column], name: str, bold: Mapping[str, Sequence[bool]] | None = None) -> None:
    r"""Write a table to tables/<name>.tex, a tabular for \usepackage{booktabs}. bold: as reading.latex_table takes it."""
    _beside.write(f"tables/{name}.tex", latex_table(columns, bold).encode())


def chart(axes: "Axes", name: str, alt: str) -> None:
    """Show a chart with its alternative text, and write it to charts/<name>.png, .svg, .pdf; `finish` waits for the last two."""
    import matplotlib.pyplot as plt
    import PIL.Image
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, png = cast("Figure", axes.figure), io.BytesIO()
    plt.close(figure)
    dpi, canvas = figure.dpi, FigureCanvasAgg(figure)
    figure.set_dpi(2 * dpi)
    canvas.draw()
    figure.set_dpi(dpi)
    figure.set_layout_engine("none")  # it is laid out now, once for all formats
    # A chart has few colours: with a palette the page is a third of the size.
    with PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())) as picture:
        picture.convert("RGB").quantize(method=PIL.Image.Quantize.MAXCOVERAGE).save(png, format="png", compress_level=8)
    _beside.write(f"charts/{name}.png", png.getvalue())
    _beside.draw(name, figure)
    about = {"alt": printable(alt, in_text=True), "width": int(figure.get_figwidth() * dpi)}
    display(Image(png.getvalue(), format="png"), metadata={"image/png": about})


def markdown(text: str) -> None:
    """Show Markdown that code wrote, with its data escaped, unless it is empty; no part of it is maths."""
    if not text:
        return
    together = text.replace(" %", "\N{NO-BREAK SPACE}%")  # no line begins with a percent sign
    display(Markdown(f'<div class="mathjax_ignore">\n\n{together}\n\n</div>'))


def finish(answer: str, hardware: str) -> None:
    """End a report: show links to all that lies beside the page, and write references.bib and published.json there.

    answer: the report's first sentences, in Markdown; hardware: what the runs were executed on: for the index of reports.
    """
    if (folder := _beside.folder) is None:
        return
    if _beside.drawing:
        _beside.drawing.finish()
    today, names = datetime.now(UTC).date().isoformat(), sorted(_beside.names)
    about = Published(affq=__version__, published=today, answer=answer, hardware=hardware, files=names)
    files.write_json(folder / PUBLISHED, about.model_dump())
    shutil.copyfile(Path(__file__).with_name("references.bib"), folder / "references.bib")
    _show_html(f"<ul>{_links(_beside.names)}</ul>")


def published(folder: Path) -> Published | None:
    """Return what `finish` wrote of the report in a folder; None where there is none, or one of affq before 0.2.

    Raises InputError for a published.json that is none.
    """
    path = folder / PUBLISHED
    if not path.exists():
        return None
    return Published(**files.read_json(path, REMEDY, Published.model_validate))


def put_in_place(fresh: Path, folder: Path) -> None:
    """Move a whole report into a study's folder, its page last, and delete the tables and charts of the former one that it lacks.

    What affq did not write stays. A link where the report has a file or a folder is replaced, and what it leads to left alone.
    """
    try:
        former = published(folder)
    except InputError:
        former = None  # which of the files were affq's is not known any more
    for inside in ("tables", "charts"):
        if (folder / inside).is_symlink():
            (folder / inside).unlink()
    written = sorted((path for path in fresh.rglob("*") if path.is_file()), key=lambda path: path.name == "index.html")
    names = [path.relative_to(fresh).as_posix() for path in written]
    for path, name in zip(written, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.replace(folder / name)
    for path in [path for inside in ("tables", "charts") for path in (folder / inside).glob("*")]:
        if former and (name := path.relative_to(folder).as_posix()) in former.files and name not in names:
            path.unlink()
    shutil.rmtree(fresh)


def _links(names: set[str]) -> str:
    """Return list items with links to tables and charts in each of their formats, to the notebook and the references."""
    items = []
    for words, (inside, first, *others) in LINKED.items():
        each = []
        for name in sorted(name for name in names if name.startswith(f"{inside}/") and name.endswith(f".{first}")):
            stem = name.removesuffix(f".{first}")
            more = [_link(f"{stem}.{kind}", FORMATS[kind]) for kind in others if f"{stem}.{kind}" in names]
            each.append(_link(name, stem.partition("/")[2]) + (f" ({', '.join(more)})" if more else ""))
        items.append(f"<li>{words}: {'; '.join(each)}</li>")
    items.append('<li><a href="summary.ipynb">The notebook of this page</a>, with the code of every figure</li>')
    items.append('<li><a href="references.bib">References</a>, as BibTeX</li>')
    return "".join(items)


def _link(name: str, words: str) -> str:
    return f'<a href="{quote(name)}">{html.escape(words)}</a>'
