"""Publish: tables as HTML and CSV, charts as PNG and SVG, an executed notebook as one HTML page that loads nothing.

Texts and names are data wherever they are shown: never markup, maths, a formula or a control sequence.
"""

import html
import json
import re
from pathlib import Path

import nbformat
from IPython.display import HTML, Image, Markdown, display
from nbconvert import HTMLExporter

from affq import without_places

LONG = 40  # characters from which a cell is a text, set in a wider column


def markdown(text):
    """Show Markdown that code wrote, with its data escaped; no part of it is maths."""
    display(Markdown(f'<div class="mathjax_ignore">\n\n{text}\n\n</div>'))


def csv(frame, folder, name):
    """Write a frame, raw, to folder/tables/<name>.csv."""
    path = Path(folder) / "tables" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(frame, path)


def write_csv(frame, path):
    """Write a frame, raw, to a CSV file.

    A text that begins as a spreadsheet's formula does (= + - @, a tab, a line feed, NUL) has gained an apostrophe before it.
    """
    # A bare carriage return would not be quoted, and would break its row.
    lines = frame.replace("\r\n?", "\n", regex=True)
    lines.replace(r"\A(?=[=+\-@\t\n\0])", "'", regex=True).to_csv(path, index=False, lineterminator="\n")


def table(frame, caption, folded=False):
    """Show a table of cells as they are, every one escaped; `folded` shows its caption until a reader opens it."""
    if folded:
        shown = f"<details><summary>{_escaped(caption)}</summary>{_html(frame, '')}</details>"
    else:
        shown = _html(frame, f"<caption>{_escaped(caption)}</caption>")
    # JupyterLab would typeset what looks like LaTeX.
    display(HTML(f'<div class="mathjax_ignore">{shown}</div>'))


def _escaped(value):
    return html.escape(_visible(str(value)))


def _visible(text):
    """Show control characters, but for white space, as \\x1b."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


def _html(frame, caption):
    kinds = {name: _kind(frame[name]) for name in frame.columns}
    head = "".join(f'<th scope="col" class="{kinds[name]}">{_escaped(name)}</th>' for name in frame.columns)
    body = "".join(
        "<tr>" + "".join(f'<td class="{kinds[n]}">{_escaped(v)}</td>' for n, v in zip(frame.columns, row, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    return f'<div class="table"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _kind(column):
    cells = [str(v) for v in column if str(v)]
    if all(cell.strip("-").replace(",", "").replace(".", "", 1).replace("e-", "").isdigit() for cell in cells):
        return "number"
    return "text" if max(map(len, cells), default=0) > LONG else "word"


def chart(axes, folder, name, alt):
    """Show a chart with its alternative text and write it to folder/charts/<name>.svg and .png."""
    import matplotlib.pyplot as plt

    path = Path(folder) / "charts" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = axes.figure
    # No date and fixed ids: the same figures give the same file.
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=150)
    plt.close(figure)
    image = Image(path.with_suffix(".png").read_bytes(), format="png")
    display(image, metadata={"image/png": {"alt": _visible(alt), "width": int(figure.get_figwidth() * 100)}})


def report(notebook, folder, title):
    """Publish an executed notebook as folder/summary.ipynb and as folder/index.html; return the latter's path.

    The page has no code cells and no scripts, and loads nothing from elsewhere. Neither names a place of this machine.
    """
    node = nbformat.read(notebook, as_version=4)
    given = node.metadata.get("papermill", {}).get("parameters")
    for cell in node.cells:
        if "injected-parameters" in cell.metadata.get("tags", ()):
            # As seen from where the notebook is published, <results>/<study>/.
            cell.source = f'study = {json.dumps(Path(given["study"]).name)}\nresults = ".."'
        for output in cell.get("outputs", ()):
            texts = output.get("data", output)  # a stream's text lies in the output itself
            for kind in {"text", "text/plain", "text/html", "text/markdown"} & texts.keys():
                texts[kind] = without_places(texts[kind])
    for metadata in (node.metadata, *(cell.metadata for cell in node.cells)):
        metadata.pop("papermill", None)  # paths and times of this machine
    node.metadata.pop("widgets", None)
    nbformat.write(node, Path(folder) / "summary.ipynb")
    template = Path(__file__).with_name("report_template")
    exporter = HTMLExporter(
        template_name=template.name,
        extra_template_basedirs=[str(template.parent)],
        exclude_input=True,
        exclude_output_prompt=True,
    )
    text, _ = exporter.from_notebook_node(node, resources={"metadata": {"name": title}})
    index = Path(folder) / "index.html"
    index.write_text(text, encoding="utf-8")
    return index
