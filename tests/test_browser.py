"""The published page in a real browser: whatever a model wrote, nothing runs, nothing is fetched, nothing is added."""

import http.server
import re
import shutil
import subprocess
import threading

import pytest
from test_publish import Page, hostile_texts, publish_hostile

pytestmark = pytest.mark.full

QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=3000 --dump-dom"
).split()
POLICY = re.compile(r"<meta [^>]*Content-Security-Policy[^>]*>")


def chromium():
    """Give the path of the browser that is installed here."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    return found[0] if found else pytest.fail("no chromium or google-chrome is on the path; apt-get install chromium")


@pytest.fixture(scope="module")
def canary():
    """A server that must not be asked: its address, and what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory, tiny_llama, canary):
    """The text of a published page whose every name and text is hostile, each folded part open."""
    index = publish_hostile(tmp_path_factory.mktemp("hostile"), tiny_llama, canary[0])
    return index.read_text(encoding="utf-8").replace("<details>", '<details open="">')


@pytest.fixture
def opened(tmp_path, canary):
    """Open a page's text in Chromium; give what became of it, and what the canary was asked for meanwhile."""

    def open_page(text):
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        canary[1].clear()
        command = [chromium(), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return Page(done.stdout), list(canary[1])

    return open_page


@pytest.mark.parametrize("policy", [True, False], ids=["as published", "without its policy"])
def test_hostile_names_and_texts_do_nothing(page, opened, policy):
    page = page if policy else POLICY.sub("", page)
    shown, asked = opened(page)
    assert asked == [] and shown.active() == [] and "affq: study hostile" in shown.text
    assert shown.elements == Page(page).elements


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no policy"])
def test_unescaped_text_is_seen_here_and_stopped_by_the_policy(page, opened, canary, policy):
    """Without this, a browser that runs nothing at all would pass the test above."""
    script, image, *_ = hostile_texts(canary[0])
    broken = (page if policy else POLICY.sub("", page)).replace("<main>", f"<main>{image}", 1)
    shown, asked = opened(broken)
    assert len(shown.active()) == 1 and asked == ([] if policy else ["/image"])
    assert ("owned" in title(shown)) == (not policy)
    shown, _ = opened(broken.replace(image, script))
    assert ("owned" in title(shown)) == (not policy)


def title(page):
    return page.text[: page.text.index(":root")]
