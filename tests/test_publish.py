import csv
import io
import json
import re
import shutil
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import seal
from fontTools.ttLib import TTFont
from test_tables import PEAKS, write_run

from affq.report import charts, index, output, publish
from affq.report.reading import Column, for_reading, html_table, latex_table
from affq.results import Failure, FailureKind
from affq.results import record as records
from affq.runner import execute
from affq.study import load_study

HOSTILE = "<script>alert(1)</script>"
MODELS = ("<b onclick=x>$\\frac$ [a](javascript:x) =1", "=_*$x$* `c` | ~~y~~ \\(z\\) \x1b[1m")
PROMPT = "<u>$p$</u> [q](javascript:y)"
NOTE = '<script>document.title="noted"</script> $\\frac$ ![n](http://127.0.0.1/)'


POINTS = [{"batch": 1, "seconds": [2.0, 2.5, 1.0], "new_tokens": 8, "peak_bytes": 100, "held_bytes": 50}]
KERNELS = [{"phase": "decode", "group": "rest", "kernel": "void f<g>(<b>)", "calls": 1, "seconds": 3.0}]


def hostile_texts(canary):
    """Give twelve texts as a model may write them; canary: an address that must not be asked."""
    return [
        '<script>document.title="owned"</script>',
        f'<img src="{canary}/image" onerror="document.title=\'owned\'">',
        "</td></tr></table></details></div></main><h1>out</h1>",
        "[click](javascript:alert(1))",
        f"![x]({canary}/markdown)",
        r"\input{/etc/passwd} $\frac{1}{2}$ \def\x{}",
        f'=HYPERLINK("{canary}/formula","x")',
        "+1",
        "-1",
        "@SUM(A1)",
        "\x1b[31mred\x1b[0m",
        "nul\0here",
    ]


def publish_hostile(folder, model, canary):
    """Publish a study, records written by hand, whose every name and text is hostile; give the page's path."""
    for name in MODELS:
        shutil.copytree(model, folder / name)
    values = {"models": [str(folder / name) for name in MODELS], "precisions": ["fp32", "bf16"], "emotions": ["joy", "sadness"]}
    values |= {"prompts": "two.csv", "measurement": {"throughput": 1, "profile": True}}
    ids = {PROMPT: "note", "day": "day"}
    rows = (f"{prompt_id},event,Tell of {name} with {{emotion}}.,Tell of {name}.\n" for prompt_id, name in ids.items())
    (folder / "two.csv").write_text("id,kind,text,text_without_emotion\n" + "".join(rows))
    (folder / "hostile.yaml").write_text(yaml.safe_dump(values))
    study = load_study(str(folder / "hostile.yaml"))
    *complete, failed = records.records(folder / "results", study)
    texts = iter(hostile_texts(canary))
    for record in complete:
        write_run(
            record, ["joy", "sadness", "joy", "none", "joy", "none"], PEAKS, [3.0, 1.0, 2.0], points=POINTS, kernels=KERNELS
        )
        rows = [{**row, "text": next(texts) if row["emotion"] else "control"} for row in record.generations()]
        (record.folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for path in record.folder.rglob("*.json*"):
            path.write_text(path.read_text().replace('"note"', json.dumps(PROMPT)))
        seal(record)
    failed.fail(Failure(FailureKind("error"), NOTE))
    notebook = execute.summarize_study(study, folder / "results")
    return publish.report(notebook, records.study_folder(folder / "results", study), f"affq: study {study.name}")


# What a page holds itself, or what is published beside it.
HARMLESS = re.compile(r"data:image/png|#|(tables|charts)/[\w.%-]+$|(\.\./index\.html|summary\.ipynb|references\.bib)$")


class Page(HTMLParser):
    """A page's elements with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def active(self):
        """List what runs, loads, leads elsewhere or came in by a name or a text."""
        return [
            (tag, attrs)
            for tag, attrs in self.elements
            if tag in {"script", "iframe", "object", "b", "i", "u"}
            or any(name.startswith("on") for name in attrs)
            or not all(HARMLESS.match(attrs[n]) for n in ("src", "href") if n in attrs)
        ]


def visible(text):
    return text.replace("\x1b", r"\x1b").replace("\0", r"\x00")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, tiny_llama):
    """The folder of a published study whose every name and text is hostile."""
    return publish_hostile(tmp_path_factory.mktemp("hostile"), tiny_llama, "http://127.0.0.1:9").parent


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order: (object, metadata)."""
    displayed = []
    monkeypatch.setattr(output, "display", lambda value, metadata=None: displayed.append((value, metadata)))
    return displayed


@pytest.mark.parametrize("folded", [False, True])
def test_every_cell_header_and_caption_is_escaped(folded, shown):
    output.table(pd.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE, folded=folded)
    text = shown[0][0].data
    # A header, a cell, the caption, the name of the table's box, and what is folded once more.
    assert "<script" not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4 + folded


def test_leading_columns_of_words_that_tell_rows_apart_head_them(shown):
    frame = pd.DataFrame({"model": ["a", "a", "b"], "precision": ["fp32", "int8", "fp32"], "device": "cpu", "f1": [0.1] * 3})
    output.table(frame, "runs")
    elements = [tag for tag, attrs in Page(shown[0][0].data).elements if attrs.get("scope") == "row" or tag == "td"]
    assert elements == ["th", "th", "td", "td"] * 3


def test_points_of_a_column_stand_below_each_other():
    columns = Column("s", ["3.08", "12.3", "1,200", "unknown"], True), Column("small", ["8.9e-05", "1.00", "1", ""], True)
    pads = [attrs.get("data-pad") for tag, attrs in Page(html_table(columns, "seconds")).elements if tag == "td"]
    # Two decimals at most: 12.3 lacks a digit, 1,200 the point too. Exponents have no such place.
    assert pads[::2] == [None, "0", ".00", None] and pads[1::2] == [None] * 4


def test_numbers_are_known_by_their_type_not_by_their_looks():
    frame = pd.DataFrame({"person": ["1", "2"], "texts": [1, 2], "peak_bytes": pd.array([None, 2_000_000], dtype="Int64")})
    assert [(column.title, column.kind, column.cells) for column in for_reading(frame, empty="unknown")] == [
        ("person", "word", ["1", "2"]),
        ("texts", "number", ["1", "2"]),
        ("peak (MB)", "number", ["unknown", "2.0"]),
    ]


def test_run_ids_and_columns_without_a_value_are_left_out_of_a_table():
    frame = pd.DataFrame({"run_id": ["a"], "other_run_id": ["b"], "precision": ["int8"], "latency_s": [None]})
    assert [column.title for column in for_reading(frame)] == ["precision"]
    assert [column.title for column in for_reading(frame, empty="unknown")] == ["precision", "latency (s)"]


@pytest.mark.parametrize(
    "engines, titles", [(["transformers", "all"], []), (["transformers", "other"], ["engine", "other engine"])]
)
def test_engine_is_left_out_of_a_table_where_all_have_the_usual_one(engines, titles):
    frame = pd.DataFrame({"precision": ["int8", "int8"], "engine": engines, "other_engine": engines})
    assert [column.title for column in for_reading(frame)] == ["precision", *titles]


def test_name_of_a_run_that_heads_a_column_is_left_as_it_is():
    (column,) = for_reading(pd.DataFrame({"my_model_bytes fp32": ["a text"]}))
    assert (column.title, column.cells) == ("my_model_bytes fp32", ["a text"])


def test_one_call_shows_a_frame_and_writes_it_raw_and_as_latex(tmp_path, shown):
    frame = pd.DataFrame({"run_id": ["x"], "precision": ["int8"], "peak_bytes": [1_500_000], "note": ["a_b"]})
    output.show(frame, "unwritten", "Runs")
    assert len(shown) == 1 and not list(tmp_path.iterdir())  # nobody said where to
    output.write_to(tmp_path)
    output.show(frame, "runs", "Runs", columns=["precision", "peak_bytes", "note"])
    assert (tmp_path / "tables" / "runs.csv").read_text() == "run_id,precision,peak_bytes,note\nx,int8,1500000,a_b\n"
    assert (tmp_path / "tables" / "runs.tex").read_text().splitlines() == [
        r"\begin{tabular}{lrl}", r"\toprule", r"precision & peak (MB) & note \\", r"\midrule",
        r"int8 & 1.5 & a\_b \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert "1.5" in shown[1][0].data and "<caption>Runs</caption>" in shown[1][0].data


def test_long_texts_have_a_width_in_latex():
    assert r"\begin{tabular}{p{6cm}}" in latex_table([Column("text", ["a word " * 10])])


def test_percent_sign_stays_on_the_line_of_its_number_and_nothing_is_shown_of_no_text(shown):
    output.markdown("69.6 % less")
    output.markdown("")
    ((value, _),) = shown
    assert "69.6\N{NO-BREAK SPACE}% less" in value.data


def test_csv_comes_back_as_it_was_with_odd_characters(tmp_path):
    frame = pd.DataFrame(
        {"text": ['a "quote", a comma', "two\nlines", "a bare\rreturn", "a=1", "\u2028é"], "n": [1.5, None, 3, 4, -5]}
    )
    output.write_to(tmp_path)
    output.csv(frame, "odd")
    with open(tmp_path / "tables" / "odd.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [*frame["text"][:2], "a bare\nreturn", *frame["text"][3:]]
    assert [row["n"] for row in rows] == ["1.5", "", "3.0", "4.0", "-5.0"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\0=1"])
def test_text_that_a_spreadsheet_would_compute_gains_an_apostrophe(tmp_path, text):
    output.write_to(tmp_path)
    output.csv(pd.DataFrame({"text": [text], "n": [-1]}), "formula")
    with open(tmp_path / "tables" / "formula.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1] == ["'" + text.replace("\r", "\n"), "-1"]


def test_chart_is_written_in_three_formats_and_shown_with_its_alternative_text(tmp_path, shown):
    import matplotlib.pyplot as plt

    output.write_to(tmp_path)
    output.chart(plt.subplots()[1], "empty", "nothing at all")
    output.finish("", "")
    assert shown[0][1]["image/png"]["alt"] == "nothing at all"
    assert {p.name for p in (tmp_path / "charts").iterdir()} == {"empty.pdf", "empty.png", "empty.svg"}


def test_letters_of_a_chart_stay_letters(tmp_path, shown):
    axes = charts.reliability([{"confidence": 0.5, "accuracy": 0.4, "texts": 3}])
    output.write_to(tmp_path)
    output.chart(axes, "letters", "")
    output.finish("", "")
    words = "Is the judge as often right as it says?"
    texts = [element.text for element in ElementTree.parse(tmp_path / "charts" / "letters.svg").iter() if element.text]
    pdf = (tmp_path / "charts" / "letters.pdf").read_bytes()
    assert words in texts and b"/ToUnicode" in pdf  # which letters they are
    streams = [zlib.decompress(stream) for stream in re.findall(rb"/FlateDecode.*?stream\n(.*?)\nendstream", pdf, re.DOTALL)]
    (font,) = (TTFont(io.BytesIO(stream)) for stream in streams if stream.startswith(b"\0\1\0\0"))
    # What a viewer needs of a TrueType font: ISO 32000-1, 9.9. Without rules of how letters join.
    assert {"glyf", "head", "hhea", "hmtx", "loca", "maxp", "cvt ", "fpgm", "prep"} <= set(font.keys())
    assert not {"GSUB", "GPOS", "GDEF"} & set(font.keys())


def test_chart_with_a_format_of_the_notebooks_own_is_written_too(tmp_path, shown):
    import matplotlib.pyplot as plt

    axes = plt.subplots()[1]
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1f} apples")
    output.write_to(tmp_path)
    output.chart(axes, "apples", "")
    output.finish("", "")
    assert b"0.2 apples" in (tmp_path / "charts" / "apples.svg").read_bytes() and (tmp_path / "charts" / "apples.pdf").exists()


def test_chart_that_cannot_be_written_ends_the_report(tmp_path, shown):
    import matplotlib.pyplot as plt

    (tmp_path / "charts" / "full.svg").mkdir(parents=True)
    output.write_to(tmp_path)
    output.chart(plt.subplots()[1], "full", "")
    with pytest.raises(
        RuntimeError, match=r"charts cannot be written as SVG and PDF \(exit status 1\): .*Is a directory.*full\.svg"
    ):
        output.finish("", "")


def written_report(folder, *names, page="a page"):
    """Write a report of these tables as its notebook does, and give what is to be published: a notebook that shows a page."""
    from nbformat.v4 import new_markdown_cell, new_notebook

    output.write_to(output.draft(folder))
    for name in names:
        output.csv(pd.DataFrame({"n": [1]}), name)
    output.finish("an answer", "a processor")
    nbformat.write(new_notebook(cells=[new_markdown_cell(f"## {page}")]), folder.parent / "executed.ipynb")
    return folder.parent / "executed.ipynb"


@pytest.fixture
def reported(tmp_path, shown):
    """The folder of a published report of two tables, to which its owner has added files."""
    folder = tmp_path / "mine"
    publish.report(written_report(folder, "summary", "people", page="former"), folder, "mine")
    (folder / "charts").mkdir()
    for name in ("tables/my own.csv", "charts/mine.svg", "notes.jsonl"):
        (folder / name).write_text("mine")
    return folder


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}


OWN = {"tables/my own.csv", "charts/mine.svg", "notes.jsonl"}
OF_REPORT = {"published.json", "references.bib", "index.html", "summary.ipynb"}


def test_tables_of_an_earlier_report_are_dropped_and_a_users_own_stay(reported, shown):
    notebook = written_report(reported, "summary", "line")
    assert "tables/people.csv" in names_in(reported)  # until the new report is whole
    publish.report(notebook, reported, "mine")
    assert names_in(reported) == OF_REPORT | OWN | {"tables/summary.csv", "tables/line.csv"}
    links = shown[-1][0].data
    assert "tables/summary.csv" in links and "my own" not in links


@pytest.mark.parametrize("fails", ["in its summary", "at its page"])
def test_report_that_fails_leaves_the_former_one_whole(reported, fails, monkeypatch):
    former = {name: (reported / name).read_bytes() for name in names_in(reported)}
    with pytest.raises(OSError, match="No space left"):
        notebook = written_report(reported, "other")
        if fails == "at its page":

            def full(*_):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(publish.files, "write", full)
            publish.report(notebook, reported, "mine")
        raise OSError(28, "No space left on device")
    assert former.items() <= {name: (reported / name).read_bytes() for name in names_in(reported)}.items()
    monkeypatch.undo()
    publish.report(written_report(reported, "summary"), reported, "mine")
    assert names_in(reported) == OF_REPORT | OWN | {"tables/summary.csv"}  # nothing of the one that failed


def test_without_a_list_of_what_was_published_nothing_is_taken_for_affqs_own(reported):
    (reported / "published.json").write_text("[]")
    publish.report(written_report(reported, "line"), reported, "mine")
    assert names_in(reported) == OF_REPORT | OWN | {"tables/people.csv", "tables/summary.csv", "tables/line.csv"}


def test_links_in_a_reports_folder_are_replaced_and_what_they_lead_to_stays(reported, tmp_path):
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (kept / "page.html").write_text("as it was")
    shutil.rmtree(reported / "tables")
    (reported / "tables").symlink_to(kept)
    (reported / "index.html").unlink()
    (reported / "index.html").symlink_to(kept / "page.html")
    publish.report(written_report(reported, "summary"), reported, "mine")
    assert (kept / "page.html").read_text() == "as it was" and [path.name for path in kept.iterdir()] == ["page.html"]
    assert not (reported / "index.html").is_symlink() and (reported / "tables" / "summary.csv").is_file()


def test_same_chart_gives_the_same_files(tmp_path, shown):
    import matplotlib.pyplot as plt

    files = [tmp_path / name / "charts" / f"line.{kind}" for kind in ("pdf", "svg", "png") for name in ("first", "again")]
    for name in ("first", "again"):
        axes = plt.subplots()[1]
        axes.plot([1, 2])
        output.write_to(tmp_path / name)
        output.chart(axes, "line", "a line")
        output.finish("", "")
    written = [path.read_bytes() for path in files]
    assert written[::2] == written[1::2] and b"CreationDate" not in written[0]


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


def test_published_notebook_is_given_as_seen_from_its_place_and_names_none_of_this_machine(tmp_path):
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    here, home = Path.cwd(), Path.home()
    outputs = [
        new_output("stream", name="stdout", text=f"{here}/x.py: a note\n{home}/y"),
        new_output("display_data", {"text/html": f"<p>no such file {home}; {here}-old</p>"}),
    ]
    given = {"study": str(tmp_path / "mine.yaml"), "results": str(tmp_path)}
    node = new_notebook(cells=[new_code_cell("study = ''", outputs=outputs, metadata={"tags": ["injected-parameters"]})])
    node.metadata["papermill"] = {"parameters": given}
    nbformat.write(node, tmp_path / "executed.ipynb")
    page = publish.report(tmp_path / "executed.ipynb", tmp_path, "places").read_text(encoding="utf-8")
    assert "./x.py: a note\n~/y" in page and f"no such file ~; {here}-old" in page
    cell = nbformat.read(tmp_path / "summary.ipynb", as_version=4).cells[0]
    assert cell.source == 'study = "mine.yaml"\nresults = ".."' and cell.outputs[0].text == "./x.py: a note\n~/y"


def test_what_libraries_warn_of_stays_in_the_executed_notebook(tmp_path):
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    warning = new_output("stream", name="stderr", text="/x/y.py:1: RuntimeWarning: invalid value")
    shown = new_output("display_data", {"text/html": "<p>shown</p>"})
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("## A chapter"), new_code_cell("1", outputs=[warning, shown])]),
        tmp_path / "executed.ipynb",
    )
    page = publish.report(tmp_path / "executed.ipynb", tmp_path, "warned").read_text(encoding="utf-8")
    assert "shown" in page and "RuntimeWarning" not in page + (tmp_path / "summary.ipynb").read_text()
    assert "RuntimeWarning" in (tmp_path / "executed.ipynb").read_text()


def test_every_hostile_name_and_text_is_text_on_the_page(hostile):
    page = Page((hostile / "index.html").read_text(encoding="utf-8"))
    assert page.active() == []
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == 1 and tags.count("img") == 11 and tags.count("main") == 1
    for text in [*hostile_texts("http://127.0.0.1:9"), *MODELS, PROMPT, NOTE, "on enisear.jsonl ("]:
        assert visible(text) in page.text
    alt = next(attrs["alt"] for tag, attrs in page.elements if tag == "img")
    assert all(f"{visible(name)} fp32 " in alt for name in MODELS)
    assert str(hostile.parents[1]) not in page.text


def test_every_hostile_name_and_text_is_text_in_the_notebook(hostile):
    text = (hostile / "summary.ipynb").read_text(encoding="utf-8")
    assert str(hostile.parents[1]) not in text
    outputs = [output for cell in nbformat.reads(text, as_version=4).cells for output in cell.get("outputs", ())]
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.data]
    sentences = [output.data["text/markdown"] for output in outputs if "text/markdown" in output.data]
    # JupyterLab's MathJax leaves alone what is inside this class.
    assert all(shown.startswith('<div class="mathjax_ignore">') for shown in tables + sentences)
    page = Page("".join(tables))
    assert page.active() == [] and all(visible(text) in page.text for text in hostile_texts("http://127.0.0.1:9"))
    assert page.text.count(NOTE) == 1
    of_names = "".join(sentences[:2])  # the headline and the caveats
    assert "smollm2" not in of_names and "&#60;b onclick&#61;x&#62;" in of_names
    assert not any(mark in of_names.replace('<div class="mathjax_ignore">', "") for mark in ("<b", "](", "$", "`", "~~", "\x1b"))


def test_no_table_holds_a_formula_and_every_text_is_whole(hostile):
    cells = {}
    for path in (hostile / "tables").glob("*.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        is_number = {"claimed_low"} if path.stem == "claims" else set()  # of a claim of no more than 10 points: -0.1
        cells[path.stem] = [cell for row in rows for name, cell in row.items() if name not in is_number]
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells[path.stem])
    for text in hostile_texts("http://127.0.0.1:9"):
        assert ("'" if text[0] in "=+-@" else "") + text in cells["texts"]
    assert MODELS[0] in cells["summary"] and "'" + MODELS[1] in cells["summary"] and f"error: {NOTE}" in cells["summary"]


def test_hostile_names_are_text_in_every_chart(hostile):
    charts = sorted((hostile / "charts").glob("*.svg"))
    assert len(charts) == 11
    for path in charts:
        elements = list(ElementTree.parse(path).iter())  # a control character would be no XML
        assert not any(element.tag.endswith(("}script", "}b", "}a")) for element in elements)
        assert not any(name.startswith("on") for element in elements for name in element.attrib)
        texts = "".join(
            element.text or "" for element in elements if element.tag.endswith("}text")
        )  # names are broken into lines
        of_runs = {f"{MODELS[0]} fp32", f"{MODELS[0]} bf16", f"{visible(MODELS[1])} fp32"}
        # reliability is a judge's
        assert path.stem.startswith("reliability") or all(run in texts for run in of_runs)


def test_contents_lead_to_every_chapter(hostile):
    page = Page((hostile / "index.html").read_text(encoding="utf-8"))
    chapters = [attrs["id"] for tag, attrs in page.elements if tag == "h2"]
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a" and "class" not in attrs]
    assert len(chapters) > 10 and [f"#{chapter}" for chapter in chapters] == links[: len(chapters)]


def test_every_table_has_a_caption_and_every_header_a_scope(hostile):
    elements = Page((hostile / "index.html").read_text(encoding="utf-8")).elements
    boxes = [attrs["aria-label"] for tag, attrs in elements if attrs.get("role") == "group"]
    tags = [tag for tag, _ in elements]
    assert len(boxes) == tags.count("table")  # each in a box of its own, which a keyboard reaches and a narrow page scrolls
    assert tags.count("caption") == tags.count("table") - boxes.count("Table") > 10  # a card's tables follow its headings
    assert {attrs.get("scope") for tag, attrs in elements if tag == "th"} == {"col", "row"}
    assert all(attrs["alt"] for tag, attrs in elements if tag == "img")


def test_links_lead_to_files_that_are_there(hostile):
    index.write(hostile.parent)
    page = Page((hostile / "index.html").read_text(encoding="utf-8"))
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a" and not attrs["href"].startswith("#")]
    assert not [link for link in links if not (hostile / unquote(link)).is_file()]
    beside = {path for inside in ("tables", "charts") for path in (hostile / inside).iterdir()}
    assert beside <= {hostile / unquote(link) for link in links}
    assert {"tables/summary.tex", "tables/claims.tex", "summary.ipynb", "references.bib", "../index.html"} <= set(links)


def test_templates_of_the_user_change_no_page(tmp_path, monkeypatch):
    mine = tmp_path / "jupyter" / "nbconvert" / "templates" / "basic"
    mine.mkdir(parents=True)
    (mine / "index.html.j2").write_text("of the user")
    (mine / "conf.json").write_text('{"preprocessors": {"1": {"type": "nobody.Preprocessor", "enabled": true}}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("## Asked")]), tmp_path / "summary.ipynb")
    page = publish.report(tmp_path / "summary.ipynb", tmp_path, "A study").read_text()
    assert "Asked" in page and "of the user" not in page
