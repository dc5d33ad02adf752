"""Publish: tables as HTML and CSV, charts as PNG and SVG, an executed notebook as one HTML page that loads nothing.

Texts and names are data wherever they are shown: never markup, maths, a formula or a control sequence.
"""

import html
import json
import re
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

import nbformat
from IPython.display import HTML, Image, Markdown, display
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from affq import __version__
from affq.files import without_places

WIDE = 14  # columns from which a table is printed in smaller letters
LONG = 40  # characters from which a cell is a text, set in a wider column
WRITTEN = set()  # the tables and charts that this process wrote


def markdown(text):
    """Show Markdown that code wrote, with its data escaped, unless it is empty; no part of it is maths."""
    if not text:
        return
    together = text.replace(" %", "\N{NO-BREAK SPACE}%")  # no line begins with a percent sign
    display(Markdown(f'<div class="mathjax_ignore">\n\n{together}\n\n</div>'))


def csv(frame, folder, name):
    """Write a frame, raw, to folder/tables/<name>.csv."""
    path = Path(folder) / "tables" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(frame, path)
    WRITTEN.add(path)


def drop_former(folder):
    """Delete an earlier report's tables and charts: what of folder/tables and folder/charts this process did not write.

    To be called once a report has written all of its CSV files and charts, so that a report that fails takes nothing away; LaTeX
    is written after it.
    """
    for inside in ("tables", "charts"):
        for path in set((Path(folder) / inside).glob("*.*")) - WRITTEN:
            path.unlink()


def write_csv(frame, path):
    """Write a frame, raw, to a CSV file.

    A text that begins as a spreadsheet's formula does (= + - @, a tab, a line feed, NUL) has gained an apostrophe before it.
    """
    # A bare carriage return would not be quoted, and would break its row.
    lines = frame.replace("\r\n?", "\n", regex=True)
    lines.replace(r"\A(?=[=+\-@\t\n\0])", "'", regex=True).to_csv(path, index=False, lineterminator="\n")


def table(frame, caption, folded=False):
    """Show a table of cells as they are, every one escaped; `folded` shows its caption until a reader opens it.

    The leading columns of words, as few as tell every row from the others, head the rows.
    """
    if frame.empty:
        shown = f"<p>{_escaped(caption)}: there is none.</p>"
    else:
        shown = _html(frame, _escaped(caption))
    if folded and not frame.empty:
        shown = f"<details><summary>{_escaped(caption)}</summary>{shown}</details>"
    # JupyterLab would typeset what looks like LaTeX.
    display(HTML(f'<div class="mathjax_ignore">{shown}</div>'))


def _escaped(value):
    return html.escape(_visible(str(value)))


def _visible(text):
    """Show control characters, but for white space, as \\x1b."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


def _html(frame, caption):
    kinds = {name: _kind(frame[name]) for name in frame.columns}
    heading = _heading(frame, kinds)
    head = "".join(f'<th scope="col" class="{kinds[name]}">{_escaped(name)}</th>' for name in frame.columns)
    columns = [_cells(frame[name], kinds[name], number < heading) for number, name in enumerate(frame.columns)]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    return (
        f'<div class="table{" wide" * (len(kinds) > WIDE)}" tabindex="0" role="group" aria-label="{caption}">'
        f"<table><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _kind(column):
    cells = [str(v) for v in column if str(v)]
    if all(cell.strip("-").replace(",", "").replace(".", "", 1).replace("e-", "").isdigit() for cell in cells):
        return "number"
    return "text" if max(map(len, cells), default=0) > LONG else "word"


def _heading(frame, kinds):
    """Count the leading columns that head the rows."""
    words = list(takewhile(lambda name: kinds[name] == "word", frame.columns))
    return next((n for n in range(1, len(words) + 1) if not frame[words[:n]].duplicated().any()), len(words))


def _cells(column, kind, heads):
    tag = 'th scope="row"' if heads else "td"
    close = tag.partition(" ")[0]
    cells = [str(value) for value in column]
    decimals = ["." + cell.partition(".")[2] if "." in cell else "" for cell in cells]
    longest = max(map(len, decimals), default=0) if kind == "number" and not any("e" in cell for cell in cells) else 0
    for cell, part in zip(cells, decimals, strict=True):
        # The page's style shows these digits unseen, so that the points of a column stand below each other.
        pad = f' data-pad="{"." * (not part)}{"0" * (longest - max(len(part), 1))}"' if cell and len(part) < longest else ""
        yield f'<{tag} class="{kind}"{pad}>{_escaped(cell)}</{close}>'


def chart(axes, folder, name, alt):
    """Show a chart with its alternative text and write it to folder/charts/<name>.svg, .pdf and .png."""
    import matplotlib.pyplot as plt
    import PIL.Image

    path = Path(folder) / "charts" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = axes.figure
    # No date and fixed ids: the same figures give the same file.
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    figure.savefig(path.with_suffix(".png"), dpi=2 * figure.dpi)
    plt.close(figure)
    # A chart has few colours: with a palette the page is a third of the size.
    with PIL.Image.open(path.with_suffix(".png")) as picture:
        few = picture.convert("RGB").quantize(method=PIL.Image.Quantize.MAXCOVERAGE)
    few.save(path.with_suffix(".png"), optimize=True)
    WRITTEN.update(path.with_suffix(kind) for kind in (".svg", ".pdf", ".png"))
    image = Image(path.with_suffix(".png").read_bytes(), format="png")
    display(image, metadata={"image/png": {"alt": _visible(alt), "width": int(figure.get_figwidth() * figure.dpi)}})


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
    node.metadata["affq"] = {"version": __version__, "published": datetime.now(UTC).date().isoformat()}
    nbformat.write(node, Path(folder) / "summary.ipynb")
    template = Path(__file__).with_name("template")
    exporter = HTMLExporter(
        template_name=template.name,
        extra_template_basedirs=[str(template.parent)],
        exclude_input=True,
        exclude_output_prompt=True,
        filters={"markdown2html": _markdown_html},
    )
    opening = [cell for cell in node.cells if cell.cell_type == "markdown" and cell.source.startswith("## ")]
    chapters = [re.match(r"## (.+)", cell.source)[1] for cell in opening]
    resources = {"metadata": {"name": title}, "chapters": chapters, "first_chapter": opening[0].id if opening else None}
    text, _ = exporter.from_notebook_node(node, resources=resources)
    index = Path(folder) / "index.html"
    index.write_text(text, encoding="utf-8")
    return index


def _markdown_html(source):
    """Render Markdown; a table of it, such as a card's, gets a box to scroll in and scopes."""
    text = markdown2html(source)
    text = re.sub(r"<tr>\s*<td>(.*?)</td>", r'<tr><th scope="row">\1</th>', text)
    text = re.sub(r"<th(?=[ >])(?! scope)", '<th scope="col"', text)
    text = text.replace("<table>", '<div class="table" tabindex="0" role="group" aria-label="Table"><table>')
    return text.replace("</table>", "</table></div>")
