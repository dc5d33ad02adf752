"""The index of the reports in a folder: each study with its answer, picture, date and hardware."""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from affq import files
from affq.errors import InputError, printable
from affq.report.output import Published, published
from affq.report.publish import TEMPLATE, markdown_html

PICTURES = {
    "f1_against_memory": "Emotion F1 against peak memory, a point a run",
    "memory": "What the memory of each run is made of",
}


class Listed(TypedDict):
    """What the index shows of a study. answer: HTML; picture: the name of its chart, with its alternative text."""

    name: str
    link: str
    answer: Markup
    picture: dict[str, str] | None
    published: str
    hardware: str


def write(results: Path | str, say: Callable[[str], None] = print) -> Path:
    """Write results/index.html over the published studies in it, by name; return its path.

    A study is a folder with index.html and summary.ipynb. Of one that affq before 0.2 published, the index knows no answer. One
    that cannot be read is another's: it is left out, and say(words) is told so.
    """
    results = Path(results)
    listed = []
    for folder in sorted(results.iterdir()):
        try:
            if all((folder / name).is_file() for name in ("index.html", "summary.ipynb")):
                listed.append(_study(folder))
        except (InputError, OSError) as error:
            say(f"{folder.name} is not listed in {results / 'index.html'}: {error}")
    # Whatever a name or a sentence holds is text there.
    page = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True).get_template("studies.html.j2")
    files.write(results / "index.html", page.render(studies=listed))
    return results / "index.html"


def _study(folder: Path) -> Listed:
    about = published(folder) or Published()
    pictures = (name for name in PICTURES if (folder / "charts" / f"{name}.png").is_file())
    return {
        "name": printable(folder.name),
        "link": quote(f"{folder.name}/index.html"),
        "answer": Markup(markdown_html(about.answer)),  # its data are escaped
        "picture": next(({"link": quote(f"{folder.name}/charts/{n}.png"), "alt": PICTURES[n]} for n in pictures), None),
        "published": about.published,
        "hardware": printable(about.hardware),
    }
