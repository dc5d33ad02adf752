"""Report and index as a reader's browser shows them: wide, narrow, dark, on paper; and to a program that reads aloud."""

import re
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from bench import summary
from playwright.sync_api import sync_playwright
from test_browser import chromium
from test_publish import publish_hostile

from affq.report import index, publish
from affq.results import record as records
from affq.runner import execute
from affq.study import load_study

pytestmark = pytest.mark.full

WIDTHS = {"desk": 1280, "telephone": 390}  # CSS pixels
A4 = {"width": 688, "height": 1000}  # CSS pixels within the page's margins of 14 and 16 mm, rounded down
LARGEST = 5_000_000  # bytes of a report of 15 runs of 700 texts


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, tiny_llama):
    """A report whose every name and text is hostile, and the index over it."""
    report = publish_hostile(tmp_path_factory.mktemp("hostile"), tiny_llama, "http://127.0.0.1:9")
    return {"report": report, "index": index.write(report.parents[1])}


@pytest.fixture
def opened(browser, pages):
    """Open one of the pages; give it, and the addresses that it asked for."""
    contexts = []

    def open_page(name, width=1280, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme))
        page, asked = contexts[-1].new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page, asked

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "index"])
def test_page_fits_its_window_and_axe_finds_no_violation(opened, name, width, scheme):
    page, _ = opened(name, WIDTHS[width], scheme)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[width]
    found = Axe().run(page).response
    assert found["violations"] == [] and len(found["passes"]) > 10
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 22, 24)"}[scheme]
    assert {"light": "rgb(255, 255, 255)", "dark": "rgb(255, 255, 255)"}[scheme] == page.evaluate(
        "getComputedStyle(document.querySelector('main img')).backgroundColor"
    )


@pytest.mark.parametrize("name", ["report", "index"])
def test_no_request_leaves_the_page_but_for_the_pictures_beside_it(opened, pages, name):
    page, asked = opened(name)
    beside = {path.as_uri() for path in pages["report"].parent.glob("charts/*.png")} if name == "index" else set()
    loaded = {url for url in asked if not url.startswith("data:image/png")}
    assert loaded - {pages[name].as_uri()} <= beside
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_letters_of_a_chart_are_legible_on_a_telephone(opened):
    page, _ = opened("report", WIDTHS["telephone"])
    shown = page.evaluate("document.querySelector('main img').getBoundingClientRect().width") - 22  # its card's edge
    assert 7 * shown / (3.3 * 72) > 9  # letters of 7 points in a chart 3.3 inches wide, in CSS pixels


def test_paper_shows_every_row_whole_and_what_is_folded(opened):
    page, _ = opened("report")
    page.set_viewport_size(A4)
    page.emulate_media(media="print")
    rows = page.evaluate("""[...document.querySelectorAll('tr')].map(row => {
        const {height, right} = row.getBoundingClientRect();
        return [row.checkVisibility(), height, right, getComputedStyle(row).breakInside];
    })""")
    assert page.locator("details:not([open]) tr").count() > 10
    for seen, height, right, inside in rows:
        assert seen and 0 < height < A4["height"] / 2 and right <= A4["width"] and inside == "avoid"


@pytest.mark.parametrize("name", ["report", "index"])
def test_page_prints_to_pdf(opened, name):
    page, _ = opened(name)
    printed = page.pdf(format="A4", prefer_css_page_size=True)
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= {"report": 5, "index": 1}[name]


def test_report_of_fifteen_runs_of_seven_hundred_texts_is_small_and_opens(tmp_path, tiny_llama, browser):
    for name in "abc":
        shutil.copytree(tiny_llama, tmp_path / name)
    lines = [f"p{n},{'general' if n % 2 else 'event'},Write {n} of {{emotion}}.,Write {n}." for n in range(100)]
    (tmp_path / "many.csv").write_text("id,kind,text,text_without_emotion\n" + "\n".join(lines) + "\n")
    models = ", ".join(str(tmp_path / name) for name in "abc")
    (tmp_path / "many.yaml").write_text(
        f"models: [{models}]\nprecisions: [{', '.join(summary.PRECISIONS)}]\nprompts: many.csv\njudges: [minilm-lora]\n"
        "measurement: {texts: 10}\nperplexity: null\n"
    )
    study = load_study(tmp_path / "many.yaml")
    summary.write(study, tmp_path / "results")
    notebook = execute.summarize_study(study, tmp_path / "results")
    report = publish.report(notebook, records.study_folder(tmp_path / "results", study), "many")
    assert report.stat().st_size < LARGEST
    page = browser.new_page()
    page.goto(report.as_uri())
    assert page.locator("details tbody tr").count() > 700
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    print(f"{report.stat().st_size:,} bytes, {timing:.0f} ms to open")
