import csv

import nbformat
import pandas as pd
import pytest

from affq import publish

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order: (object, metadata)."""
    displayed = []
    monkeypatch.setattr(publish, "display", lambda value, metadata=None: displayed.append((value, metadata)))
    return displayed


@pytest.mark.parametrize("folded", [False, True])
def test_every_cell_header_and_caption_is_escaped(folded, shown):
    publish.table(pd.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE, folded)
    text = shown[0][0].data
    assert "<script" not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3


def test_csv_comes_back_as_it_was_with_odd_characters(tmp_path):
    frame = pd.DataFrame(
        {"text": ['a "quote", a comma', "two\nlines", "a bare\rreturn", "=1+1", "\u2028é"], "n": [1.5, None, 3, 4, 5]}
    )
    publish.csv(frame, tmp_path, "odd")
    with open(tmp_path / "tables" / "odd.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [*frame["text"][:2], "a bare\nreturn", *frame["text"][3:]]
    assert [row["n"] for row in rows] == ["1.5", "", "3.0", "4.0", "5.0"]


def test_chart_is_written_twice_and_shown_with_its_alternative_text(tmp_path, shown):
    import matplotlib.pyplot as plt

    publish.chart(plt.subplots()[1], tmp_path, "empty", "nothing at all")
    assert shown[0][1]["image/png"]["alt"] == "nothing at all"
    assert {p.name for p in (tmp_path / "charts").iterdir()} == {"empty.png", "empty.svg"}


def test_page_has_no_code_no_script_and_no_machine(tmp_path):
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    outputs = [
        new_output("display_data", {"text/html": "<p>shown</p>"}),
        new_output("display_data", {"application/javascript": "alert(1)"}),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "a widget"}),
        new_output("stream", name="stdout", text=HOSTILE),
    ]
    node = new_notebook(cells=[new_code_cell("secret_code = 1", outputs=outputs, metadata={"papermill": {"duration": 1}})])
    node.metadata["papermill"] = {"output_path": "/some/where"}
    node.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    nbformat.write(node, tmp_path / "executed.ipynb")
    text = publish.report(tmp_path / "executed.ipynb", tmp_path, "A <title>").read_text(encoding="utf-8")
    assert "<p>shown</p>" in text and "secret_code" not in text and "<script" not in text
    assert "&lt;script&gt;" in text and "<title>A &lt;title&gt;</title>" in text
    assert "/some/where" not in (tmp_path / "summary.ipynb").read_text() + text
