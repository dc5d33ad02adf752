"""The index of the reports: the studies there, what each says, and no link that leads nowhere or elsewhere."""

from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_publish import Page

from affq.report import index, words

HOSTILE = "<b onclick=x> [a](javascript:x) `c` *d* \x1b[1m"


def publish(folder, said=None, picture="f1_against_memory", provenance=()):
    """Lay out what is published of a study whose first sentences by code are `said`."""
    for inside in ("tables", "charts"):
        (folder / inside).mkdir(parents=True)
    outputs = [new_output("stream", text="no sentence"), new_output("display_data", {"text/markdown": said})] if said else []
    notebook = new_notebook(cells=[new_markdown_cell("# A question"), new_code_cell("say()", outputs=outputs)])
    notebook.metadata["affq"] = {"published": "2026-11-24", "version": "0"}
    nbformat.write(notebook, folder / "summary.ipynb")
    for name in ("index.html", "tables/summary.csv", f"charts/{picture}.png"):
        (folder / name).touch()
    pd.DataFrame(provenance, columns=["field", "value", "runs"]).to_csv(folder / "tables" / "provenance.csv", index=False)


@pytest.fixture
def page(tmp_path):
    publish(
        tmp_path / "mine",
        f'<div class="mathjax_ignore">\n\n2 of 2 runs are complete.\n\n**{words.as_data(HOSTILE)}** is *smaller*.\n\n</div>',
        provenance=[
            ("device_name", "a processor", "all"),
            ("system", "a system", "a"),
            ("system", "another", "b"),
            ("memory_bytes", "25276510208", "all"),
        ],
    )
    publish(tmp_path / "<i>a b %", picture="memory", provenance=[("device_name", "a GPU", "all"), ("devices", "2", "all")])
    (tmp_path / "not published" / "runs").mkdir(parents=True)
    return Page(index.write(tmp_path).read_text(encoding="utf-8"))


def test_index_lists_each_published_study_with_what_it_says(page):
    assert "2 studies" in page.text and "not published" not in page.text
    assert "2 of 2 runs are complete." in page.text
    assert "2026-11-24 · a processor, a system, another, 25 GB" in page.text and "2026-11-24 · 2 × a GPU" in page.text


def test_names_and_sentences_are_text_in_the_index(page):
    assert page.text.count("<i>a b %") == 1 and f"{HOSTILE.replace(chr(27), chr(92) + 'x1b')} is smaller." in page.text
    assert {tag for tag, _ in page.elements} & {"b", "i", "script"} == set()
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_links_of_the_index_are_relative_and_lead_to_files(page, tmp_path):
    links = [attrs[name] for _, attrs in page.elements for name in ("href", "src") if name in attrs]
    assert len(links) == 4 and not any(":" in link or link.startswith("/") for link in links)
    assert all((tmp_path / unquote(link)).is_file() for link in links)
    assert {"mine/charts/f1_against_memory.png", "%3Ci%3Ea%20b%20%25/charts/memory.png"} <= set(links)


def test_index_has_one_h1_and_a_text_for_every_picture(page):
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == 1 and tags.count("h2") == tags.count("article") == 2
    assert all(attrs["alt"] for tag, attrs in page.elements if tag == "img")
