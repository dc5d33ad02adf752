from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from affq.analysis import annotation
from affq.errors import InputError
from affq.results import keep_labels, kept_labels, named_people, read_labels
from affq.study import load_study

EMOTIONS = ("joy", "fear")


@pytest.fixture
def texts():
    """Two runs, ten prompts, two emotions, and a control: 40 texts that were asked for an emotion. The judge answers joy."""
    rows = [
        {"run_id": f"m--{precision}", "model": "m", "precision": precision, "prompt_id": f"p{number}", "emotion": emotion}
        | {"engine": "transformers", "sample": 0, "text": f"{precision} {number} {emotion}", "judged_emotion": "joy"}
        for precision in ("fp32", "int8")
        for number in range(10)
        for emotion in (*EMOTIONS, None)
    ]
    return pd.DataFrame(rows)


def test_sample_has_as_many_of_each_run_and_emotion_and_hides_target_judge_and_run(texts):
    drawn = annotation.sample(texts, 12, np.random.default_rng(0))
    assert list(drawn.columns) == ["id", "text", "label"] and drawn["label"].eq("").all()
    of = annotation.identified(texts).set_index("id").loc[drawn["id"]]
    assert of.groupby(["run_id", "emotion"]).size().tolist() == [3] * 4
    assert not any(word in identity for identity in drawn["id"] for word in ("m--", *EMOTIONS))
    assert of["emotion"].tolist() != sorted(of["emotion"])  # the order says nothing
    again = annotation.sample(texts, 12, np.random.default_rng(0))
    assert again.equals(drawn) and not annotation.sample(texts, 12, np.random.default_rng(1)).equals(drawn)


def test_where_there_are_fewer_texts_all_are_drawn(texts):
    drawn = annotation.sample(texts, 41, np.random.default_rng(0))
    assert sorted(drawn["text"]) == sorted(texts.dropna(subset="emotion")["text"])


def test_labels_are_read_back_and_kept(texts, write_study, tmp_path):
    study, path = load_study(write_study()), tmp_path / "Anna B.csv"
    drawn = annotation.sample(texts, 4, np.random.default_rng(0)).assign(label=["joy", " Fear ", "", "none"])
    drawn.to_csv(path, index=False)
    kept = annotation.check(read_labels(path), texts, EMOTIONS, path)
    assert kept["label"].tolist() == ["joy", "fear", "none"]
    (person,) = named_people([path])
    keep_labels(tmp_path / "reports", study, person, kept)
    assert kept_labels(tmp_path / "reports", study)["Anna-B"].equals(kept)
    assert kept_labels(tmp_path / "elsewhere", study) == {}


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda f: f.drop(columns="label"), "has no column label; label a file that affq annotate --out wrote"),
        (
            # The first text takes two lines of the file.
            lambda f: f.assign(text=["a\nb", "", "", ""], label=["joy", "envy", "", ""]),
            r"record 2 \(id '[a-p]+'\): unknown label 'envy'; known: joy, fear, none, or nothing",
        ),
        (lambda f: f.assign(id=["0", *f["id"][1:]]), r"record 1 \(id '0'\): that is no text of the runs that are here"),
        (lambda f: pd.concat([f, f[:1]]), r"record 5 \(id '[a-p]+'\): the text is there twice"),
        (lambda f: f, "has no label yet; write one of joy, fear, none beside each text"),
    ],
)
def test_what_is_no_labelled_sample_is_refused_with_its_line(texts, tmp_path, change, said):
    path = tmp_path / "anna.csv"
    change(annotation.sample(texts, 4, np.random.default_rng(0))).to_csv(path, index=False)
    with pytest.raises(InputError, match=said):
        annotation.check(read_labels(path), texts, EMOTIONS, path)


@pytest.mark.parametrize("content, said", [(b"\xff\xfe", "not UTF-8"), (b"", "no CSV file"), (b'a,b\n"1', "no CSV file")])
def test_what_is_no_csv_file_is_said(tmp_path, content, said):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_labels(tmp_path / "x.csv")


@pytest.mark.parametrize(
    "content, said",
    [
        ("id;text;label\n0;a, b;joy\n1;a, b, c;joy\n", "separated by semicolons: save it with commas"),
        ("id\ttext\tlabel\n0\ta\tjoy\n", "separated by tabs: save it with commas"),
        (
            "id,text,label\n0,joy, and fear,joy\n",
            "record 1 has more cells than columns; put a text with a comma in double quotes",
        ),
    ],
)
def test_a_file_saved_otherwise_is_refused_with_its_remedy(tmp_path, content, said):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match=said):
        read_labels(tmp_path / "x.csv")


def test_a_comma_at_the_end_of_each_row_moves_no_cell(tmp_path):
    (tmp_path / "x.csv").write_text("id,text,label\n0,a;b,joy,\n1,c,fear,\n")
    assert read_labels(tmp_path / "x.csv").to_dict("list") == {"id": ["0", "1"], "text": ["a;b", "c"], "label": ["joy", "fear"]}


@pytest.mark.parametrize("second", ["b/anna.csv", "Anna.csv", "ANNA.CSV"])
def test_two_files_of_one_name_are_refused(second):
    assert named_people([Path("anna.csv"), Path("ben c.csv")]) == {"anna": Path("anna.csv"), "ben-c": Path("ben c.csv")}
    with pytest.raises(InputError, match=f"{second} and a/anna.csv would both be the labels of "):
        named_people([Path("a/anna.csv"), Path("ben.csv"), Path(second)])


def labelled(texts, **people):
    """Let people label texts by their place in the frame: {person: {place: label}}."""
    ids = annotation.identified(texts)["id"].tolist()
    frames = {p: pd.DataFrame([(ids[i], label) for i, label in of.items()], columns=["id", "label"]) for p, of in people.items()}
    return annotation.beside(texts, frames)


def test_people_against_target_judge_and_each_other_by_hand(texts):
    # Places 0 to 3 of fp32: targets joy, fear, joy, fear; the judge answers joy to each.
    found = labelled(texts, anna={0: "joy", 1: "fear", 2: "fear"}, ben={0: "joy", 1: "joy", 3: "none"})
    rows = {(r["first"], r["second"]): r for r in annotation.between_people(found, ["anna", "ben"]).to_dict("records")}
    assert {pair: (row["texts"], row["same"]) for pair, row in rows.items() if row["second"]} == {
        ("anna", "target"): (3, pytest.approx(2 / 3)),
        ("anna", "judge"): (3, pytest.approx(1 / 3)),
        ("ben", "target"): (3, pytest.approx(1 / 3)),
        ("ben", "judge"): (3, pytest.approx(2 / 3)),
        ("anna", "ben"): (2, 0.5),
    }
    assert rows["anna", "target"]["cohen_kappa"] == pytest.approx(0.4)  # chance (1·2 + 2·1)/9 = 4/9: (2/3 − 4/9)/(5/9)
    # Of the four answers to texts that both labelled, joy thrice, fear once: observed 1/2, expected 2·3·1/(4·3) = 1/2.
    assert rows["all people", ""]["krippendorff_alpha"] == pytest.approx(0)


@pytest.mark.parametrize("name", ["text", "id", "emotion", "judged_emotion", "model", "label"])
def test_a_person_may_be_called_as_a_column_is(texts, name):
    given = {"anna": {0: "joy", 1: "fear", 2: "fear"}, "ben": {0: "joy", 1: "joy", 3: "none"}}
    plain, other = (labelled(texts, **people) for people in (given, {name: given["anna"], "ben": given["ben"]}))
    expected = annotation.between_people(plain, ["anna", "ben"]).replace("anna", name)
    pd.testing.assert_frame_equal(annotation.between_people(other, [name, "ben"]), expected)
    expected = annotation.corrected(plain, ["anna", "ben"], EMOTIONS)
    pd.testing.assert_frame_equal(annotation.corrected(other, [name, "ben"], EMOTIONS), expected)


def test_labels_of_texts_that_are_there_no_more_are_left_out_and_counted(texts):
    ids = annotation.identified(texts)["id"]
    frame = {"anna": ids[:3], "ben": ids[20:22]}  # ben labelled int8 alone
    given = {person: pd.DataFrame({"id": of, "label": "joy"}) for person, of in frame.items()}
    again = texts.assign(text=texts["text"].where(texts["precision"] == "fp32", "another"))
    left, out = annotation.known(given, again)
    assert list(left) == ["anna"] and left["anna"]["id"].tolist() == ids[:3].tolist() and out == 2
    assert annotation.known(given, texts)[1] == 0


def test_corrected_f1_of_a_run_whose_texts_are_all_labelled_is_that_of_the_labels(texts):
    # People read every text of fp32 as it was asked for, but two texts asked for fear as none: fear 2·8/(8 + 10), joy 1.
    of = {i: ("none" if i in (1, 3) else EMOTIONS[i % 2]) for i in range(20)}
    (row,) = annotation.corrected(labelled(texts, anna=of), ["anna"], EMOTIONS).to_dict("records")
    assert (row["precision"], row["labelled"]) == ("fp32", 20)
    assert row["estimate"] == pytest.approx((1 + 16 / 18) / 2) == row["low"]
    assert row["judge_alone"] == pytest.approx((20 / 30 + 0) / 2)  # joy to everything


def test_people_who_differ_count_for_their_shares(texts):
    first, second = {i: EMOTIONS[i % 2] for i in range(20)}, {i: "none" for i in range(20)}
    (row,) = annotation.corrected(labelled(texts, a=first, b=second), ["a", "b"], EMOTIONS).to_dict("records")
    assert row["estimate"] == pytest.approx(2 * 5 / (5 + 10))  # half an answer of each text


def test_band_takes_the_cards_emotions_for_a_study_of_fewer(texts):
    from affq.scoring import PackagedJudge

    card = PackagedJudge("minilm-lora").card
    frame = annotation.bands(texts, card, np.random.default_rng(0))
    assert frame["precision"].tolist() == ["fp32", "int8"] and (frame["low"] < frame["high"]).all()
