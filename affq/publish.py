"""Publish: tables as HTML and CSV, charts as PNG and SVG, an executed notebook as one HTML page that loads nothing."""

import html
from pathlib import Path

import nbformat
from IPython.display import HTML, Image, Markdown, display
from nbconvert import HTMLExporter

LONG = 40  # characters from which a cell is a text, set in a wider column


def markdown(text):
    """Show Markdown that code wrote."""
    display(Markdown(text))


def csv(frame, folder, name):
    """Write a frame, raw, to folder/tables/<name>.csv."""
    path = Path(folder) / "tables" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A bare carriage return would not be quoted, and would break its row.
    frame.replace("\r\n?", "\n", regex=True).to_csv(path, index=False, lineterminator="\n")


def table(frame, caption, folded=False):
    """Show a table of cells as they are, every one escaped; `folded` shows its caption until a reader opens it."""
    caption = html.escape(caption)
    if folded:
        display(HTML(f"<details><summary>{caption}</summary>{_html(frame, '')}</details>"))
    else:
        display(HTML(_html(frame, f"<caption>{caption}</caption>")))


def _html(frame, caption):
    kinds = {name: _kind(frame[name]) for name in frame.columns}
    head = "".join(f'<th scope="col" class="{kinds[name]}">{html.escape(str(name))}</th>' for name in frame.columns)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kinds[n]}">{html.escape(str(v))}</td>' for n, v in zip(frame.columns, row, strict=True))
        + "</tr>"
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
    display(image, metadata={"image/png": {"alt": alt, "width": int(figure.get_figwidth() * 100)}})


def report(notebook, folder, title):
    """Publish an executed notebook as folder/summary.ipynb and as folder/index.html; return the latter's path.

    The page has no code cells and no scripts, and loads nothing from elsewhere.
    """
    node = nbformat.read(notebook, as_version=4)
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
