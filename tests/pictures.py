"""Make the README's pictures of the default study: python tests/pictures.py FOLDER, where FOLDER/reports/default has its runs.

They are of the report's first screen and of the explorer, and go to reports/default/pictures/ of this repository.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from test_jupyterlab import chromium, lab, run_all

PICTURES = Path(__file__).parents[1] / "reports" / "default" / "pictures"


def save(png, name):
    """Keep a screenshot with a palette: a tenth of its bytes."""
    with Image.open(png) as image:
        few = image.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE)  # keeps the rare colours, as of a chart's marks
    few.save(PICTURES / f"{name}.png", optimize=True)


def main(folder):
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, chromium() as browser:
        place = Path(place)
        shutil.copytree(Path(folder) / "reports", place / "reports")
        page = browser.new_page(viewport={"width": 1000, "height": 1080})
        page.goto((place / "reports" / "default" / "index.html").as_uri())
        page.screenshot(path=place / "report.png")
        save(place / "report.png", "report")
        with lab(place, "default") as address:
            page = browser.new_page(viewport={"width": 1400, "height": 1150})
            page.set_default_timeout(60_000)
            run_all(page, f"{address}/doc/tree/reports/default/4_explore.ipynb?reset")
            page.locator(".jupyter-widgets canvas").first.wait_for()
            page.get_by_role("button", name="No", exact=True).click()  # JupyterLab's news
            page.get_by_role("heading", name="The texts, side by side").evaluate("heading => heading.scrollIntoView()")
            page.wait_for_timeout(3_000)  # what is drawn last has no mark of its own
            page.screenshot(path=place / "explorer.png")
            save(place / "explorer.png", "explorer")


if __name__ == "__main__":
    main(*sys.argv[1:])
