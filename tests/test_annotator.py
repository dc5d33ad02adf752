"""The annotator over a sample of texts that records written by hand hold, without a browser."""

import html
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tables import PEAKS, write_run

from affq import files
from affq.analysis import annotation
from affq.analysis.texts import join
from affq.errors import InputError
from affq.report import csv_text
from affq.results import read_labels
from affq.results import record as records
from affq.study import load_study
from affq.widgets.annotator import Annotator


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study, its records, and a sample of eight texts, of which the first is hostile."""
    folder = tmp_path_factory.mktemp("annotator")
    (folder / "two.csv").write_text(
        "id,kind,text,text_without_emotion\nnote,general,Write of {emotion}.,Write.\nday,event,Tell of {emotion}.,Tell.\n"
    )
    (folder / "toy.yaml").write_text(
        "models: [smollm2-135m]\nprecisions: [fp32, bf16]\nprompts: two.csv\nemotions: [joy, sadness]\nperplexity: null\n"
    )
    kept = records.records(folder / "reports", load_study(folder / "toy.yaml"))
    for record in kept:
        write_run(record, ["joy"] * 6, PEAKS, [1.0], more=" <img src=x onerror=alert(1)>,\n\u202e")
    drawn = annotation.sample(join(kept), 8, np.random.default_rng(0))
    (folder / "sample.csv").write_text(csv_text(drawn))
    return folder


@pytest.fixture
def annotator(place):
    for path in place.glob("sample-*.csv"):
        path.unlink()

    def begin(person="anna", sample="sample.csv"):
        return Annotator(place / "toy.yaml", place / "reports", place / sample, person)

    return begin


def shown(widget):
    return html.unescape(re.sub(r"<[^>]*>", "", widget.value))


def press(annotator, key):
    annotator.box.children[-1]._handle_custom_msg({"key": key}, [])


def test_one_text_at_a_time_by_key_and_button_with_the_labels_kept_at_once(annotator, place):
    one = annotator()
    texts = read_labels(place / "sample.csv")["text"]
    assert [button.description for button in one.buttons] == ["1 joy", "2 sadness", "3 none"]
    assert shown(one.text) == texts[0].replace("\u202e", "\\u202e") and "<img" not in one.text.value
    press(one, "2")
    assert read_labels(place / "sample-anna.csv")["label"].tolist() == ["sadness", *[""] * 7]
    one.buttons[2].click()
    kept = read_labels(place / "sample-anna.csv")
    assert kept["label"].tolist() == ["sadness", "none", *[""] * 6]
    assert kept.drop(columns="label").equals(read_labels(place / "sample.csv").drop(columns="label"))
    assert shown(one.text) == texts[2].replace("\u202e", "\\u202e")
    assert (one.progress.value, one.progress.max, one.counted.value) == (2, 8, "2 of 8")


def test_undo_takes_back_one_after_the_other_also_in_a_later_session(annotator, place):
    one = annotator()
    assert one.back.disabled
    for key in "123":
        press(one, key)
    one.back.click()
    assert read_labels(place / "sample-anna.csv")["label"].tolist()[:3] == ["joy", "sadness", ""]
    again = annotator()
    assert again.place == 2 and again.counted.value == "2 of 8"
    press(again, "u")
    press(again, "u")
    press(again, "u")  # there is nothing more
    assert again.place == 0 and read_labels(place / "sample-anna.csv")["label"].eq("").all()


def test_neither_target_nor_judge_nor_run_is_in_the_widgets(annotator, place):
    sample = read_labels(place / "sample.csv")
    sample.assign(text="a text").to_csv(place / "other.csv", index=False)  # the words of these texts name their run
    one = annotator(sample="other.csv")
    state = " ".join(str(widget.get_state()) for widget in (one.text, one.message, one.progress, one.counted, *one.buttons))
    assert not re.search(r"fp32|bf16|smollm|0\.75|judge", state)


def test_when_all_are_labelled_it_says_what_reads_them_back_and_affq_reads_them(annotator, place):
    one = annotator("Ben B.")
    for _ in range(8):
        press(one, "1")
    press(one, "1")  # there is none left
    assert f"--labels {place / 'sample-Ben-B.csv'} reads them back" in shown(one.text)
    assert all(button.disabled for button in one.buttons)
    texts = join(records.records(place / "reports", load_study(place / "toy.yaml")))
    path = place / "sample-Ben-B.csv"
    assert annotation.check(read_labels(path), texts, ("joy", "sadness"), path)["label"].tolist() == ["joy"] * 8
    one.back.click()
    assert one.place == 7 and not one.buttons[0].disabled


def test_people_have_files_of_their_own(annotator, place):
    press(annotator("anna"), "1")
    press(annotator("ben"), "2")
    assert [read_labels(place / f"sample-{person}.csv")["label"][0] for person in ("anna", "ben")] == ["joy", "sadness"]


def test_an_answer_that_cannot_be_kept_is_no_answer(annotator, place, monkeypatch):
    one = annotator()
    press(one, "1")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    press(one, "2")
    assert one.message.value.startswith("Not kept: No space left on device")
    assert one.counted.value == "1 of 8" and one.place == 1
    monkeypatch.undo()
    press(one, "2")
    assert one.message.value == "" and read_labels(place / "sample-anna.csv")["label"].tolist()[:2] == ["joy", "sadness"]


@settings(max_examples=20)
@given(keys=st.text("123u", max_size=30))
def test_whatever_is_pressed_the_file_has_the_answers_that_were_not_taken_back(place, keys):
    path = place / "sample-prop.csv"
    path.unlink(missing_ok=True)
    one, answers = Annotator(place / "toy.yaml", place / "reports", place / "sample.csv", "prop"), []
    for key in keys:
        press(one, key)
        if key == "u":
            answers = answers[:-1]
        elif len(answers) < 8:
            answers.append({"1": "joy", "2": "sadness", "3": "none"}[key])
    if path.exists():
        assert read_labels(path)["label"].tolist() == answers + [""] * (8 - len(answers))
    assert one.counted.value == f"{len(answers)} of 8"


def test_labels_given_by_hand_go_on_from_the_first_that_is_missing(annotator, place):
    frame = read_labels(place / "sample.csv").assign(label=["Joy ", "", "none", *[""] * 5])
    frame.to_csv(place / "sample-anna.csv", index=False)
    one = annotator()
    assert one.place == 1 and one.counted.value == "2 of 8"


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda f: f.assign(label="envy"), "record 1 .*: unknown label 'envy'; known: joy, sadness, none"),
        (lambda f: f.assign(id=["0", *f["id"][1:]]), r"record 1 \(id '0'\): that is no text of the runs that are here"),
        (lambda f: f.drop(columns="text"), "has no column text; label a file that affq annotate --out wrote"),
        (lambda f: f[1:], "has the labels of another sample"),
    ],
)
def test_a_copy_of_something_else_is_refused(annotator, place, change, said):
    change(read_labels(place / "sample.csv")).to_csv(place / "sample-anna.csv", index=False)
    with pytest.raises(InputError, match=said):
        annotator()


def test_a_sample_of_other_texts_a_missing_one_and_nobody_are_refused(annotator, place):
    pd.DataFrame({"id": ["0"], "text": ["x"], "label": [""]}).to_csv(place / "wrong.csv", index=False)
    with pytest.raises(InputError, match=r"wrong.csv, record 1 \(id '0'\): that is no text"):
        annotator(sample="wrong.csv")
    with pytest.raises(InputError, match="cannot read .*gone.csv"):
        annotator(sample="gone.csv")
    with pytest.raises(InputError, match="person is empty"):
        annotator(" ")
