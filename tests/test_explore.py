"""The explorer over records written by hand: what it shows, and its widgets without a browser."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backend_bases import MouseEvent
from test_publish import hostile_texts
from test_tables import PEAKS, write_run
from test_under_load import write_load

from affq.analysis import annotation, disagreement
from affq.analysis.texts import join
from affq.errors import InputError
from affq.report import escaped
from affq.results import Failure, FailureKind, keep_note, kept_notes
from affq.results import record as records
from affq.runner import notebooks
from affq.study import load_study
from affq.widgets import explore
from affq.widgets.explorer import Explorer


@pytest.fixture
def study(write_study):
    return write_study(precisions=["fp32", "bf16", "int8", "nf4"])


@pytest.fixture
def results(study, tmp_path):
    """Results of which fp32 and bf16 are complete, int8 failed and nf4 is missing."""
    fp32, bf16, int8, _ = records.records(tmp_path / "reports", load_study(study))
    write_run(
        fp32,
        ["joy", "sadness", "joy", "joy", "joy", "none"],
        [9_000_000_000, 4_000_000_000, 5_000_000_000, 4_000_000_000],
        [3.0, 1.0, 2.0],
    )
    write_run(
        bf16,
        ["joy", "sadness", "joy", "sadness", "joy", "joy"],
        [9_000_000_000, 2_000_000_000, 2_000_000_000, 2_000_000_000],
        [1.0, 1.0, 4.0],
    )
    int8.fail(Failure(FailureKind("out_of_memory"), "no room", "try nf4"))
    return tmp_path / "reports"


@pytest.fixture
def explorer(study, results):
    return Explorer(study, results)


def shown(widget):
    """Give the words of an HTML widget, without its style."""
    plain = re.sub(r"<style>.*?</style>|</?mark>", "", widget.value, flags=re.S)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", plain)).split())


def test_failed_and_missing_runs_are_not_there(explorer):
    assert explorer.precisions.value == ("fp32", "bf16")
    assert [label for label, _ in explorer.run.options] == ["smollm2-135m fp32", "smollm2-135m bf16"]
    assert list(explorer.results.judged["precision"]) == ["fp32", "bf16"]


def test_without_a_complete_run_it_says_so(study, tmp_path):
    with pytest.raises(InputError, match="no run of this study is complete"):
        Explorer(study, tmp_path / "elsewhere")


def test_texts_that_are_not_judged_are_shown_and_nothing_is_advised(study, results):
    for folder in results.glob("toy/runs/*/scores"):
        for file in folder.iterdir():
            file.unlink()
    explorer = Explorer(study, results)
    assert "judged: –" in shown(explorer.side_by_side) and "fp32 note joy" in shown(explorer.side_by_side)
    assert "no run has an emotion F1" in shown(explorer.advice)
    assert explorer.points == [] and "(not judged)" in explorer.asked.options[0][0]


def test_filters_choose_columns_and_requests(explorer):
    assert len(explorer.asked.options) == 6  # two prompts, two emotions and the control
    explorer.emotion.value = "sadness"
    assert [value for _, value in explorer.asked.options] == [("note", "sadness", 0), ("day", "sadness", 0)]
    explorer.prompt.value = "day"
    assert "Tell of a day of sadness." in shown(explorer.side_by_side)
    explorer.precisions.value = ("bf16",)
    assert explorer.side_by_side.value.count("<article>") == 1 and "bf16 day sadness" in shown(explorer.side_by_side)
    explorer.precisions.value = ()
    assert explorer.asked.options == () and "No text is chosen" in shown(explorer.side_by_side)
    explorer.precisions.value = ("fp32", "bf16")
    assert explorer.side_by_side.value.count("<article>") == 2


def test_engines_are_a_filter_where_there_are_several(write_study, explorer, tmp_path):
    assert explorer.engines not in explorer.texts.children[0].children  # of one engine there is nothing to choose
    study = load_study(write_study("both", precisions=["fp32"], engines=["transformers", "transformers-compiled"]))
    for record in records.records(tmp_path / "reports", study):
        write_run(record, ["joy"] * 6, PEAKS, [1.0], more=f" {record.run.engine.label}")
    several = Explorer(tmp_path / "both.yaml", tmp_path / "reports")
    assert several.engines in several.texts.children[0].children
    assert several.engines.value == ("transformers", "transformers-compiled")
    assert several.side_by_side.value.count("<article>") == 2 and "smollm2-135m fp32 transformers-compiled" in shown(
        several.side_by_side
    )
    several.engines.value = ("transformers-compiled",)
    assert several.side_by_side.value.count("<article>") == 1
    assert "fp32 note joy transformers-compiled" in shown(several.side_by_side)
    assert [label for label, _ in several.target.options] == ["smollm2-135m fp32 transformers-compiled"]


def test_a_filter_leaves_the_request_that_is_shown(explorer):
    explorer.asked.value = ("day", "sadness", 0)
    explorer.emotion.value = "sadness"
    assert explorer.asked.value == ("day", "sadness", 0)
    explorer.emotion.value = "joy"
    assert explorer.asked.value == ("note", "joy", 0)


def test_next_and_previous_go_around(explorer):
    first = explorer.asked.value
    explorer.back.click()
    assert explorer.asked.value == ("day", disagreement.NO_EMOTION, 0)
    explorer.forward.click()
    assert explorer.asked.value == first
    keys = explorer.texts.children[-1]
    keys._handle_custom_msg({"key": "n"}, [])
    assert explorer.asked.index == 1 and keys.heard == ["n", "p"]


def test_texts_that_precisions_disagree_on_come_first(explorer):
    # fp32 and bf16 are judged alike but for day sadness (joy, sadness) and the control's day (none, joy).
    explorer.order.value = "most disagreement first"
    assert [value[:2] for _, value in explorer.asked.options][:2] == [("day", "sadness"), ("day", disagreement.NO_EMOTION)]
    assert explorer.asked.index == 0 and "2 emotions judged" in explorer.asked.options[0][0]


def test_disagreement_is_that_of_one_models_precisions_by_hand():
    rows = [
        ("a", "fp32", "x", "joy", 0.9), ("a", "int8", "x", "joy", 0.2), ("b", "fp32", "x", "fear", 0.1),  # another model
        ("a", "fp32", "y", "joy", 0.5), ("a", "int8", "y", "fear", 0.4), ("b", "fp32", "y", "joy", 0.9),
        ("a", "fp32", "z", "joy", 0.5), ("a", "int8", "z", "joy", 0.5), ("b", "fp32", "z", None, np.nan),
    ]  # fmt: skip
    names = ["model", "precision", "prompt_id", "judged_emotion", "target_probability"]
    found = disagreement.requests(pd.DataFrame(rows, columns=names).assign(emotion="joy", sample=0))
    assert found["prompt_id"].tolist() == ["x", "y", "z"] and found["emotions"].tolist() == [1, 2, 1]
    assert found["spread"].tolist() == pytest.approx([0.7, 0.1, 0.0])  # 0.9 − 0.2, 0.5 − 0.4, 0.5 − 0.5
    assert disagreement.most_first(found)["prompt_id"].tolist() == ["y", "x", "z"]


def test_changed_words_are_marked_by_hand():
    # of four words one is another, and one of the baseline's is gone
    assert explore.marked("I am so glad", "I am very very glad") == ("I am <mark>so</mark> glad", 0.25)
    assert explore.marked("a  c\n", "a b c") == ('a  <del title="b">⋯</del> c\n', 0)
    assert explore.marked("", "a") == ('<del title="a">⋯</del> ', 0)
    assert explore.marked("\x0c a", "a") == ("\\x0c a", 0)  # white space that is shown as an escape is not lost at the start
    assert explore.marked("a <b>", "a") == ("a <mark>&lt;b&gt;</mark>", 0.5)


@given(st.text(), st.text())
def test_whatever_the_texts_only_marks_are_markup_and_no_word_is_lost(text, baseline):
    found, share = explore.marked(text, baseline)
    assert 0 <= share <= 1
    plain = re.sub(r'<del title="[^"<>]*">⋯</del> |</?mark>', "", found)
    assert "<" not in plain and ">" not in plain
    assert html.unescape(plain).split() == html.unescape(escaped(text)).split()
    found.encode()  # half a surrogate pair would not do


def test_hostile_texts_are_data_in_every_widget(study, tmp_path):
    fp32, bf16, *_ = records.records(tmp_path / "reports", load_study(study))
    more = " ".join(hostile_texts("http://127.0.0.1:9"))
    for record in (fp32, bf16):
        write_run(record, ["joy"] * 6, PEAKS, [1.0], more=f"{more} {record.run.precision}")
    explorer = Explorer(study, tmp_path / "reports")
    explorer.note.value = more
    explorer.keep.click()
    explorer.memory_gb.value = more
    for widget in (explorer.side_by_side, explorer.run_texts, explorer.noted, explorer.advice):
        tags = set(re.findall(r"<\s*/?(\w+)", re.sub(r"<style>.*?</style>", "", widget.value, flags=re.S)))
        assert tags <= {"div", "p", "small", "article", "h4", "mark", "del", "span", "i", "b", "table", "tr", "th", "td"}
        assert "\x1b" not in widget.value


def test_a_text_is_compared_with_its_baseline_though_that_is_not_chosen(explorer, study, results):
    explorer.precisions.value = ("bf16",)
    # bf16 note joy, where fp32 note joy is the baseline: one word of three
    assert "33% of its words are not those at fp32" in shown(explorer.side_by_side)
    next(results.glob("toy/runs/*--fp32--*/done.json")).unlink()
    assert "its baseline fp32 is not there" in shown(Explorer(study, results).side_by_side)


def test_bars_are_the_judges_probabilities(explorer):
    assert "joy 0.75 sadness 0.25" in shown(explorer.side_by_side)
    assert "width:75%" in explorer.side_by_side.value


def test_a_click_on_a_point_and_the_list_open_a_runs_texts(explorer):
    canvas, figure = explorer.canvas, explorer.canvas.figure
    for precision in ("bf16", "fp32"):
        figure.draw_without_rendering()
        (at,) = (text.xy for text in figure.axes[0].texts if text.get_text() == precision)
        x, y = figure.axes[0].transData.transform(at)
        canvas.callbacks.process("button_press_event", MouseEvent("button_press_event", canvas, x, y, button=1))
        assert explorer.run.label == f"smollm2-135m {precision}"
        assert f"{precision} note joy" in shown(explorer.run_texts) and "6 texts" in shown(explorer.run_texts)
    explorer.run.label = "smollm2-135m bf16"
    explorer.emotion.value = "joy"
    assert "2 texts" in shown(explorer.run_texts)


def test_the_chart_has_both_costs_and_the_frontier(explorer):
    def drawn():
        axes = explorer.canvas.figure.axes[0]
        return axes.get_xlabel(), axes.lines[0].get_ydata().tolist()

    # bf16 takes less memory at a higher F1 (1 against 11/15): alone on the frontier, which goes on to the right.
    assert drawn() == ("peak while generating, MB (resident memory)", [1.0, 1.0])
    explorer.cost.value = "latency_s"
    assert drawn()[0] == "seconds for a text, median"


def test_of_many_points_the_frontiers_and_the_chosen_one_are_named(explorer, monkeypatch):
    def names():
        return {text.get_text() for text in explorer.canvas.figure.axes[0].texts} - {"chance"}

    assert names() == {"fp32", "bf16"}
    monkeypatch.setattr("affq.report.charts.NAMED", 1)
    explorer.run.label = "smollm2-135m bf16"
    assert names() == {"bf16"}  # on the frontier, and chosen
    explorer.run.label = "smollm2-135m fp32"
    assert names() == {"fp32", "bf16"}
    legend = explorer.canvas.figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["fp32", "bf16"]


def test_a_run_of_many_texts_shows_the_first(explorer, monkeypatch):
    monkeypatch.setattr("affq.widgets.explore.RUN_TEXTS", 2)
    explorer.run.label = "smollm2-135m bf16"
    assert "the first 2 of 6 texts" in shown(explorer.run_texts) and explorer.run_texts.value.count("<tr>") == 1 + 2


def test_budget_is_answered_by_the_one_rule(explorer):
    said = shown(explorer.advice)
    assert "Within any budget, take smollm2-135m at bf16 (emotion F1 1.00, 2.00 GB, 1.00 s a text)" in said
    explorer.memory_gb.value, explorer.seconds_a_text.value = "1", ""
    assert "No run fits 1.00 GB. The nearest is smollm2-135m at bf16" in shown(explorer.advice)
    for typed in ("x", "-1", "0", "nan"):
        explorer.memory_gb.value = typed
        assert f"the budget {typed!r} is no number of GB above 0" in shown(explorer.advice)


def test_budget_takes_the_seconds_of_so_many_users_where_they_were_measured(study, results, explorer):
    assert explorer.users not in explorer.budget.children and explorer.users.value is None
    write_load(records.records(results, load_study(study))[1])  # of bf16: 3 s a text in the median of two streams
    explorer = Explorer(study, results)
    assert explorer.users in explorer.budget.children
    explorer.users.value = 2
    said = shown(explorer.advice)
    assert "Within any budget at 2 concurrent users, take smollm2-135m at bf16" in said and "3.00 s a text" in said
    assert "Left out, for want of a reading at 2 concurrent users: smollm2-135m fp32." in said


def test_budget_begins_as_the_study_says(write_study, results):
    path = write_study(precisions=["fp32", "bf16", "int8", "nf4"], budget={"memory_gb": 3, "seconds_a_text": 9})
    assert "Within 3.00 GB and 9.00 s a text, take smollm2-135m at bf16" in shown(Explorer(path, results).advice)


def test_a_note_is_kept_and_found_again(explorer, study, results):
    explorer.asked.value = ("day", "sadness", 0)
    explorer.target.label = "smollm2-135m bf16"
    explorer.note.value = "no sadness\nin it"
    explorer.keep.click()
    assert (explorer.note.value, explorer.message.value) == ("", "Kept.")
    (row,) = map(json.loads, (results / "toy" / "notes.jsonl").read_text().splitlines())
    assert (row["note"], row["prompt_id"], row["emotion"], row["sample"]) == ("no sadness\nin it", "day", "sadness", 0)
    identified = annotation.identified(join(records.records(results, load_study(study)))).set_index("id")
    assert identified.loc[row["id"], "text"] == "bf16 day sadness"
    again = Explorer(study, results)
    assert "no sadness" not in shown(again.noted)  # another text is shown
    again.asked.value = ("day", "sadness", 0)
    assert "on smollm2-135m bf16: no sadness" in shown(again.noted)


def test_a_note_without_words_is_not_kept_and_one_that_cannot_be_stays(explorer, results):
    explorer.keep.click()
    assert "write something first" in explorer.message.value and not (results / "toy" / "notes.jsonl").exists()
    (results / "toy" / "notes.jsonl").mkdir()
    explorer.note.value = "lost?"
    explorer.keep.click()
    assert explorer.message.value.startswith("Not kept") and explorer.note.value == "lost?"


def test_notes_are_read_back_in_their_order_and_a_bad_line_is_named(study, results):
    loaded = load_study(study)
    assert kept_notes(results, loaded) == []
    text = {"id": "a1", "run_id": "r", "prompt_id": "note", "emotion": "joy", "sample": np.int64(0)}
    written = [keep_note(results, loaded, text, note) for note in ("one\u2028line", "two")]
    assert kept_notes(results, loaded) == written and [row["note"] for row in written] == ["one\u2028line", "two"]
    with open(results / "toy" / "notes.jsonl", "a") as file:
        file.write('{"note": 1}\n')
    with pytest.raises(InputError, match="line 3 is damaged .it has no time.; mend or delete that line"):
        kept_notes(results, loaded)


def test_a_notebook_of_ones_own_knows_study_and_results_from_where_it_is(study, results, monkeypatch):
    monkeypatch.chdir(study.parent)
    path = notebooks.copy_explorer("toy.yaml", "reports")
    assert path.as_posix() == "reports/toy/4_explore.ipynb"
    (cell,) = (c for c in json.loads(path.read_text())["cells"] if "parameters" in c["metadata"].get("tags", ()))
    names = {}
    exec("".join(cell["source"]), names)
    monkeypatch.chdir(path.parent)
    explorer = Explorer(names["study"], names["results"])
    assert explorer.asked.options
    changed = (results / "toy" / "4_explore.ipynb").read_text().replace("# Explore", "# Changed")
    (results / "toy" / "4_explore.ipynb").write_text(changed)
    monkeypatch.chdir(study.parent)
    assert notebooks.copy_explorer("toy.yaml", "reports").read_text() == changed


def test_nothing_to_explore_is_one_sentence(study, tmp_path):
    with pytest.raises(InputError, match="no run of study toy in .* is complete; affq run .* first"):
        notebooks.copy_explorer(str(study), tmp_path / "elsewhere")
