"""The index of the reports in a folder: each study with its answer, picture, date and hardware."""

import html
import re
from pathlib import Path
from urllib.parse import quote

import nbformat
import pandas as pd
from jinja2 import Environment, FileSystemLoader

from affq import files
from affq.errors import printable

PICTURES = {
    "f1_against_memory": "Emotion F1 against peak memory, a point a run",
    "memory": "What the memory of each run is made of",
}


def write(results):
    """Write results/index.html over the published studies in it, by name; return its path.

    A study is a folder with index.html, summary.ipynb and tables/summary.csv.
    """
    results = Path(results)
    needed = ("index.html", "summary.ipynb", "tables/summary.csv")
    folders = sorted(path for path in results.iterdir() if all((path / name).is_file() for name in needed))
    template = Path(__file__).with_name("template")
    # Whatever a name or a sentence holds is text there.
    page = Environment(loader=FileSystemLoader(template), autoescape=True).get_template("studies.html.j2")
    files.write(results / "index.html", page.render(studies=[_study(folder) for folder in folders]))
    return results / "index.html"


def _study(folder):
    notebook = nbformat.read(folder / "summary.ipynb", as_version=4)
    pictures = (name for name in PICTURES if (folder / "charts" / f"{name}.png").is_file())
    return {
        "name": printable(folder.name),
        "link": quote(f"{folder.name}/index.html"),
        "answer": _answer(notebook),
        "picture": next(({"link": quote(f"{folder.name}/charts/{n}.png"), "alt": PICTURES[n]} for n in pictures), None),
        "published": notebook.metadata.get("affq", {}).get("published", ""),
        "hardware": _hardware(folder / "tables" / "provenance.csv"),
    }


def _answer(notebook):
    """Give the page's first sentences that code wrote, as plain text; "" if there are none."""
    outputs = (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))
    text = next((data["text/markdown"] for data in outputs if "text/markdown" in data), "")
    # What is data in them is written as character references, so that these marks are the code's own.
    return html.unescape(re.sub(r"</?div[^>]*>|[*`]", "", text)).strip()


def _hardware(path):
    """Say what the runs were executed on, from the published provenance."""
    if not path.is_file():
        return ""
    about = pd.read_csv(path, dtype=str).drop_duplicates(["field", "value"]).groupby("field")["value"].agg(", ".join)
    several = f"{about['devices']} × " if about.get("devices", "1") != "1" else ""
    said = [several + about["device_name"]] if "device_name" in about else []
    said += [about["system"]] if "system" in about else []
    said += [f"{int(about['memory_bytes']) / 1e9:,.0f} GB"] if about.get("memory_bytes", "").isdigit() else []
    return printable(", ".join(said))
