"""Explorer and annotator in a real JupyterLab, in a real browser, over records written by hand."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from test_tables import write_run

from affq.analysis import annotation
from affq.analysis.texts import join
from affq.report import csv_text
from affq.results import read_labels
from affq.results import record as records
from affq.results.provenance import NOTEBOOKS
from affq.study import load_study

pytestmark = pytest.mark.full

AFFQ = Path(sys.executable).with_name("affq")
HOSTILE = '<img src="x" onerror="window.owned=1"><script>window.owned=1</script> $x$ \x1b[31m \u202e'
PEAKS = {"fp32": 8000, "bf16": 4000, "int8": 2000, "nf4": 1000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a study of which nf4 is missing, its other runs complete, and a sample of its texts."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "two.csv").write_text(
        "id,kind,text,text_without_emotion\nnote,general,Write of {emotion}.,Write.\nday,event,Tell of {emotion}.,Tell.\n"
    )
    study = {"models": ["smollm2-135m"], "precisions": list(PEAKS), "prompts": "two.csv", "emotions": ["joy", "sadness"]}
    study |= {"generation": {"max_new_tokens": 8}, "measurement": {"texts": 2, "new_tokens": 8}, "perplexity": None}
    (folder / "toy.yaml").write_text(yaml.safe_dump(study))
    loaded = load_study(folder / "toy.yaml")
    kept = records.records(folder / "reports", loaded)
    right = ["joy", "sadness"] * 2
    for record, judged in zip(kept, (right, right[:3] + ["joy"], ["joy"] * 4), strict=False):
        peaks = [scale * PEAKS[record.run.precision] * 500_000 for scale in (1, 2, 2, 2)]
        write_run(record, [*judged, "joy", "joy"], peaks, [1.0, 2.0, 3.0], more=f" {HOSTILE}" if judged != right else "")
    texts = join(kept)
    (folder / "sample.csv").write_text(csv_text(annotation.sample(texts, 12, np.random.default_rng(0))))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with lab(folder, "toy.yaml") as address:
        yield address


@contextmanager
def lab(folder, study):
    """Start JupyterLab as affq explore does, in a folder; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"allow_root": True, "open_browser": False, "ip": "127.0.0.1", "port": port, "root_dir": str(folder)}
    quiet = {"news_url": None, "check_for_updates_class": "jupyterlab.NeverCheckForUpdate"}
    (folder / "config").mkdir()
    config = {"ServerApp": settings, "IdentityProvider": {"token": ""}, "LabApp": quiet}
    (folder / "config" / "jupyter_server_config.json").write_text(json.dumps(config))
    places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    with open(folder / "server.log", "w") as log:
        started = subprocess.Popen(
            [AFFQ, "explore", study], cwd=folder, env=os.environ | places, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield _address(f"http://127.0.0.1:{port}", started, folder / "server.log")
        finally:
            started.terminate()
            started.wait(20)


def _address(address, started, log):
    for _ in range(150):
        assert started.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api", timeout=5)
            return address
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer: {log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@contextmanager
def chromium():
    """Open the Chromium that is on the path."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.fail("no chromium, chromium-browser or google-chrome is on the path; install Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, server):
    """A page, and the addresses elsewhere that it asked for, which must be none."""
    page = browser.new_page(viewport={"width": 1500, "height": 1200})
    page.set_default_timeout(20_000)
    elsewhere = []
    page.on("request", lambda request: elsewhere.append(request.url))
    yield page
    page.close()
    assert [url for url in elsewhere if not url.startswith((server, server.replace("http", "ws"), "data:", "blob:"))] == []


def run_all(page, address):
    """Open a notebook and run all its cells."""
    page.goto(address)
    page.get_by_text("| Idle").wait_for()
    menu(page, "Run", "Run All Cells")


def restart(page):
    """Restart the kernel, and run all cells again once the former widgets are gone."""
    menu(page, "Kernel", "Restart Kernel and Clear Outputs of All Cells…")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    page.locator(".affq-keyed").wait_for(state="detached")
    page.get_by_text("| Idle").wait_for()
    menu(page, "Run", "Run All Cells")


def menu(page, name, item):
    page.get_by_role("menuitem", name=name, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def point(folder, precision):
    """Say where on the explorer's chart a run's point is, in pixels from its upper left corner."""
    from affq.widgets.explorer import Explorer

    figure = Explorer(folder / "toy.yaml", folder / "reports").canvas.figure
    figure.draw_without_rendering()
    axes = figure.axes[0]
    text = next(text for text in axes.texts if text.get_text() == precision)
    x, y = axes.transData.transform(text.xy)
    return x, figure.bbox.height - y


def test_explorer(page, server, folder):
    from playwright.sync_api import expect

    run_all(page, f"{server}/lab/tree/reports/toy/4_explore.ipynb?reset")
    assert "Opening reports/toy/4_explore.ipynb" in (folder / "server.log").read_text()
    columns = page.locator(".affq article")
    expect(columns).to_have_count(3)  # nf4 is not there
    expect(columns.nth(2)).to_contain_text("smollm2-135m int8")
    expect(columns.nth(2)).to_contain_text("int8 note joy")
    assert page.evaluate("window.owned") is None
    expect(columns.nth(2)).to_contain_text(HOSTILE.split("$")[0].strip())  # as it stands
    assert columns.nth(2).locator("mark").first.inner_text() == "int8"
    assert columns.nth(0).locator("mark").count() == 0  # the baseline

    page.get_by_label("precisions").select_option(["fp32", "int8"])
    expect(columns).to_have_count(2)
    page.get_by_label("emotion").select_option("sadness")
    expect(page.get_by_text("Write of sadness.")).to_be_visible()
    columns.first.click()
    page.keyboard.press("n")
    expect(page.get_by_text("Tell of sadness.")).to_be_visible()
    page.keyboard.press("p")
    expect(page.get_by_text("Write of sadness.")).to_be_visible()

    page.keyboard.press("w")
    page.keyboard.type("xn <b>sad</b>")  # neither a cell's nor the explorer's key
    page.get_by_role("button", name="Keep the note").click()
    expect(page.get_by_text("xn <b>sad</b>")).to_be_visible()
    (line,) = (folder / "reports" / "toy" / "notes.jsonl").read_text().splitlines()
    assert json.loads(line)["note"] == "xn <b>sad</b>"

    canvas = page.locator(".jupyter-matplotlib canvas").last
    canvas.scroll_into_view_if_needed()
    x, y = point(folder, "int8")
    canvas.click(position={"x": x, "y": y})
    expect(page.locator(".affq .list")).to_contain_text("int8 note sadness")
    page.get_by_label("run", exact=True).select_option("smollm2-135m fp32")
    expect(page.locator(".affq .list")).to_contain_text("fp32 note sadness")

    page.get_by_label("memory, GB").fill("3")
    expect(page.get_by_text("Within 3.00 GB, take smollm2-135m at int8")).to_be_visible()
    page.get_by_label("memory, GB").fill("three")
    expect(page.get_by_text("the budget 'three' is no number of GB above 0")).to_be_visible()

    restart(page)
    page.get_by_label("emotion").select_option("sadness")
    expect(page.get_by_text("xn <b>sad</b>")).to_be_visible()
    assert page.evaluate("window.owned") is None and page.locator(".affq img, .affq script").count() == 0


def test_annotator(page, server, folder):
    from playwright.sync_api import expect

    node = nbformat.read(NOTEBOOKS / "5_annotate.ipynb", as_version=4)
    (cell,) = (cell for cell in node.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source = 'study, results, sample, person = "toy.yaml", "reports", "sample.csv", "Anna"'
    nbformat.write(node, folder / "annotate.ipynb")
    run_all(page, f"{server}/lab/tree/annotate.ipynb?reset")
    expect(page.get_by_text("0 of 12")).to_be_visible()
    page.get_by_text("0 of 12").click()
    given = [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]
    for number, key in enumerate(given, 1):
        page.keyboard.press(str(key))
        expect(page.get_by_text(f"{number} of 12")).to_be_visible()
    page.get_by_role("button", name="Undo (u)").click()
    expect(page.get_by_text("9 of 12")).to_be_visible()
    expect(page.locator(".affq-keyed")).to_have_count(1)
    kept = read_labels(folder / "sample-Anna.csv")
    names = {1: "joy", 2: "sadness", 3: "none"}
    assert kept["label"].tolist() == [*(names[key] for key in given[:9]), "", "", ""]
    assert kept.drop(columns="label").equals(read_labels(folder / "sample.csv").drop(columns="label"))

    restart(page)
    expect(page.get_by_text("9 of 12")).to_be_visible()
    page.get_by_role("button", name="2 sadness").click()
    expect(page.get_by_text("10 of 12")).to_be_visible()
    assert page.evaluate("window.owned") is None
    done = subprocess.run(
        [AFFQ, "annotate", "toy.yaml", "--labels", "sample-Anna.csv"], cwd=folder, capture_output=True, text=True
    )
    assert done.stdout.startswith("10 labels of sample-Anna kept"), done.stderr
