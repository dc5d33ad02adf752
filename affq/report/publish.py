"""Publish an executed notebook as one HTML page that loads nothing and runs nothing."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from jupyter_core.paths import ENV_JUPYTER_PATH, SYSTEM_JUPYTER_PATH, jupyter_path
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from affq import __version__, files
from affq.files import without_places
from affq.report.output import draft, put_in_place

TEMPLATE = Path(__file__).with_name("template")


class Exporter(HTMLExporter):
    """Publishes with the templates that nbconvert itself brought: a user's own of the same name change no page."""

    def get_prefix_root_dirs(self) -> list[str]:
        places = (*ENV_JUPYTER_PATH, *SYSTEM_JUPYTER_PATH, *jupyter_path())
        return [place for place in places if Path(place, "nbconvert", "templates", "basic").is_dir()][:1]


def report(notebook: Path, folder: Path, title: str) -> Path:
    """Publish an executed notebook as folder/summary.ipynb and as folder/index.html; return the latter's path.

    The page has no code cells and no scripts, and loads nothing from elsewhere. Neither names a place of this machine, nor says
    what libraries warn of: that stays in the executed notebook. They take the place of the former report together with the
    tables and charts of output.draft, once all is written.
    """
    node = nbformat.read(notebook, as_version=4)
    given = node.metadata.get("papermill", {}).get("parameters")
    for cell in node.cells:
        if "injected-parameters" in cell.metadata.get("tags", ()):
            # As seen from where the notebook is published, <results>/<study>/.
            cell.source = f'study = {json.dumps(Path(given["study"]).name)}\nresults = ".."'
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            texts = output.get("data", output)  # a stream's text lies in the output itself
            for kind in {"text", "text/plain", "text/html", "text/markdown"} & texts.keys():
                texts[kind] = without_places(texts[kind])
    for metadata in (node.metadata, *(cell.metadata for cell in node.cells)):
        metadata.pop("papermill", None)  # paths and times of this machine
    node.metadata.pop("widgets", None)
    node.metadata["affq"] = {"version": __version__, "published": datetime.now(UTC).date().isoformat()}
    fresh = draft(folder, empty=False)
    nbformat.write(node, fresh / "summary.ipynb")
    exporter = Exporter(
        template_name=TEMPLATE.name,
        extra_template_basedirs=[str(TEMPLATE.parent)],
        exclude_input=True,
        exclude_output_prompt=True,
        filters={"markdown2html": markdown_html},
    )
    opening = [cell for cell in node.cells if cell.cell_type == "markdown" and cell.source.startswith("## ")]
    chapters = [cell.source.splitlines()[0].removeprefix("## ") for cell in opening]
    resources = {"metadata": {"name": title}, "chapters": chapters, "first_chapter": opening[0].id if opening else None}
    text, _ = exporter.from_notebook_node(node, resources=resources)
    files.write(fresh / "index.html", text)
    put_in_place(fresh, Path(folder))
    return Path(folder) / "index.html"


def markdown_html(source: str) -> str:
    """Return Markdown as HTML; a table of it, such as a card's, gets a box to scroll in and scopes."""
    text = markdown2html(source)
    text = re.sub(r"<tr>\s*<td>(.*?)</td>", r'<tr><th scope="row">\1</th>', text)
    text = re.sub(r"<th(?=[ >])(?! scope)", '<th scope="col"', text)
    text = text.replace("<table>", '<div class="table" tabindex="0" role="group" aria-label="Table"><table>')
    return text.replace("</table>", "</table></div>")
