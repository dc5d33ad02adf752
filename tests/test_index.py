"""The index of the reports: the studies there, what each says, and no link that leads nowhere or elsewhere."""

import json
from urllib.parse import unquote

import pandas as pd
import pytest
from test_publish import Page

from affq.report import index, words

HOSTILE = "<b onclick=x> [a](javascript:x) `c` *d* \x1b[1m"


def publish(folder, answer="", picture="f1_against_memory", hardware=""):
    """Lay out what is published of a study."""
    (folder / "charts").mkdir(parents=True)
    for name in ("index.html", "summary.ipynb", f"charts/{picture}.png"):
        (folder / name).touch()
    about = {"affq": "0", "published": "2026-11-24", "answer": answer, "hardware": hardware, "files": []}
    (folder / "published.json").write_text(json.dumps(about))


@pytest.fixture
def page(tmp_path):
    answer = f"2 of 2 runs are complete.\n\n**{words.as_data(HOSTILE)}** is *smaller*."
    publish(tmp_path / "mine", answer, hardware=f"a processor, {HOSTILE}")
    publish(tmp_path / "<i>a b %", picture="memory")
    (tmp_path / "not published" / "runs").mkdir(parents=True)
    return Page(index.write(tmp_path).read_text(encoding="utf-8"))


def test_hardware_is_said_from_what_the_runs_share():
    rows = [("device_name", "a processor", "all"), ("system", "a system", "a"), ("system", "another", "b")]
    rows += [("memory_bytes", "25276510208", "all")]
    frame = pd.DataFrame(rows, columns=["field", "value", "runs"])
    assert words.hardware(frame) == "a processor, a system, another, 25 GB"
    gpus = pd.DataFrame([("device_name", "a GPU", "all"), ("devices", "2", "all")], columns=["field", "value", "runs"])
    assert words.hardware(gpus) == "2 × a GPU"


def test_report_of_an_earlier_affq_is_listed_without_an_answer(tmp_path):
    publish(tmp_path / "old")
    (tmp_path / "old" / "published.json").unlink()
    page = Page(index.write(tmp_path).read_text(encoding="utf-8"))
    assert "1 study" in page.text and ("a", {"href": "old/index.html"}) in page.elements


def test_index_lists_each_published_study_with_what_it_says(page):
    assert "2 studies" in page.text and "not published" not in page.text
    assert "2 of 2 runs are complete." in page.text
    assert "2026-11-24 · a processor, " in page.text


def test_names_and_sentences_are_text_in_the_index(page):
    visible = HOSTILE.replace("\x1b", r"\x1b")
    assert page.text.count("<i>a b %") == 1 and f"{visible} is smaller." in page.text and f"a processor, {visible}" in page.text
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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"answer": 3}', "<<<<<<< ours\n"])
def test_another_studys_damaged_list_is_left_out_and_said(tmp_path, content):
    for name in ("mine", "other"):
        publish(tmp_path / name)
    (tmp_path / "other" / "published.json").write_text(content)
    said = []
    page = Page(index.write(tmp_path, said.append).read_text(encoding="utf-8"))
    assert "1 study" in page.text and ("a", {"href": "mine/index.html"}) in page.elements
    (line,) = said
    assert line.startswith("other is not listed in ") and "published.json is damaged" in line
