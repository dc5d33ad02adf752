"""Files as other programs leave them: marks, empty lines, capitals, letters of any script, what spreadsheets make of them."""

import json
import re
import unicodedata

import numpy as np
import pandas as pd
import pytest
from conftest import save_classifier, save_gguf
from hypothesis import given
from hypothesis import strategies as st

from affq import files
from affq.analysis import annotation
from affq.emotions import EMOTIONS, REFERENCES
from affq.errors import InputError
from affq.models.sources import find
from affq.report import csv_text
from affq.results import keep_labels, kept_labels, named_people, read_labels
from affq.scoring import classifiers, judge_file
from affq.study import load_study, names_a_model, prompts

MARK = "\ufeff"
PROMPTS = "id,kind,text,text_without_emotion\nnote,general,Write of {emotion}.,Write.\n"


# Names of files.


@pytest.mark.parametrize("name", ["anna", "Anna-B", "王伟", "Ольга", "müller", "हिन्दी", "ณัฐ"])
def test_names_of_any_script_are_kept(name):
    assert files.slug(name) == name


def test_composed_and_decomposed_letters_are_one_name():
    assert files.slug(unicodedata.normalize("NFD", "müller")) == files.slug("müller") == "müller"


@pytest.mark.parametrize(
    "first, second",
    [
        ("王 伟", "王/伟"),
        ("müller", "muller"),
        ("！", "？"),
        (70 * "a", 70 * "a" + "b"),
        (60 * "王", 61 * "王"),
        ("\udcff", "\udcfe"),
    ],
)
def test_names_that_differ_stay_apart(first, second):
    one, other = files.slug(first), files.slug(second)
    assert one != other and all(len(f"{name}.csv.new".encode()) < 120 and "/" not in name for name in (one, other))


@given(st.text(max_size=80))
def test_a_name_is_safe_for_a_file_and_stays_what_it_is(name):
    slug = files.slug(name)
    assert slug and files.slug(slug) == slug and len(slug.encode()) <= files.NAME_BYTES
    assert not slug.startswith((".", "-")) and not re.search(r"[\s/\\:*?\"<>|\0]", slug)


@given(
    st.lists(
        st.text("王伟李ab é/ ", min_size=1, max_size=5),
        min_size=2,
        max_size=2,
        unique_by=lambda n: unicodedata.normalize("NFC", n),
    )
)
def test_two_names_of_which_one_is_not_ascii_never_collide(names):
    if not all(name.isascii() for name in names):
        assert files.slug(names[0]) != files.slug(names[1])


@pytest.mark.parametrize("name", ["index.yaml", "index.html.yaml", "Index.HTML.yaml", "index.html.new.yaml"])
def test_study_that_would_have_the_name_of_the_index_is_refused(tmp_path, name):
    (tmp_path / name).write_text("models: [smollm2-135m]\nprecisions: [bf16]\n")
    with pytest.raises(InputError, match="would have the name of the page that lists all studies; rename it"):
        load_study(tmp_path / name)


def test_endings_in_capitals_are_the_same_files(tmp_path):
    (tmp_path / "MINE.CSV").write_text(PROMPTS)
    (tmp_path / "TOY.YAML").write_text("models: [smollm2-135m]\nprecisions: [bf16]\nprompts: MINE.CSV\n")
    study = load_study(tmp_path / "TOY.YAML")
    assert (study.name, len(study.requests)) == ("TOY", 8)
    upper = save_gguf(tmp_path / "UPPER.GGUF")
    assert names_a_model(str(upper)) and find("UPPER.GGUF", tmp_path).parameters == find(str(upper), tmp_path).parameters


def test_part_of_a_gguf_model_says_how_to_merge_it(tmp_path):
    save_gguf(tmp_path / "big-00001-of-00002.gguf")
    with pytest.raises(InputError) as error:
        find("big-00001-of-00002.gguf", tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/big-00001-of-00002.gguf is one of 2 parts of a model; merge them, and name what comes of it: "
        "llama-gguf-split --merge big-00001-of-00002.gguf big.gguf"
    )
    assert find(str(save_gguf(tmp_path / "one-00001-of-00001.gguf")), tmp_path).stored_dtype == "q8_0"


# Marks, ends of lines, cut files.


def test_a_mark_at_the_beginning_is_no_part_of_prompts_references_texts_labels_or_studies(tmp_path):
    (tmp_path / "p.csv").write_text(MARK + PROMPTS)
    (tmp_path / "r.jsonl").write_text(MARK + REFERENCES.read_text(encoding="utf-8").replace("\n", "\r\n") + "\r\n")
    (tmp_path / "t.jsonl").write_text(MARK + '{"text": "x"}\r\n')
    (tmp_path / "l.csv").write_text(MARK + "id,label\nabc,joy\n")
    (tmp_path / "toy.yaml").write_text(
        f"{MARK}models: [smollm2-135m]\nprecisions: [bf16]\nprompts: p.csv\nreferences: r.jsonl\n", newline=""
    )
    study = load_study(tmp_path / "toy.yaml")
    assert prompts.read_prompts(study.prompts)[0]["id"] == "note"
    assert prompts.read_references(study.references, EMOTIONS) == prompts.read_references(REFERENCES, EMOTIONS)
    assert judge_file.read_texts(tmp_path / "t.jsonl") == [{"text": "x"}]
    assert read_labels(tmp_path / "l.csv").to_dict("list") == {"id": ["abc"], "label": ["joy"]}


def test_empty_lines_and_null_errors_are_no_texts_and_no_verdicts(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'{"text": "a", "error": null}\r\n\r\n  \n{"text": 3}\n\n')
    lines = judge_file.read_lines(tmp_path / "t.jsonl")
    assert [(line.number, line.row.get("text"), bool(line.wrong)) for line in lines] == [(1, "a", False), (4, 3, True)]
    (tmp_path / "t.jsonl").write_text('{"text": "a", "judged_emotion": null, "error": "a text of 20,000 characters"}\n')
    with pytest.raises(InputError, match="line 1 already has error; remove what was judged before"):
        judge_file.read_lines(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="holds no text"):
        judge_file.read_lines(tmp_path / "t.jsonl")


@pytest.mark.parametrize("text", [PROMPTS + "day,event,Tell of {emo", PROMPTS + 'day,event,"Tell of {emotion}.,Tell.\n'])
def test_prompts_cut_within_a_row_are_refused(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match="ends within a row|is no CSV file"):
        prompts.read_prompts(tmp_path / "p.csv")


def test_labels_cut_within_a_row_are_refused_and_a_comma_that_a_spreadsheet_left_out_is_not_missed(tmp_path):
    path = tmp_path / "anna.csv"
    path.write_text("id,text,label\na,x,joy\nb,y")
    with pytest.raises(InputError, match="line 3 ends within a row, after 2 of 3 cells; it was cut: copy it again"):
        read_labels(path)
    path.write_text("id,text,label\na,x,joy\nb,y\n,,\n")
    assert read_labels(path)["label"].tolist() == ["joy", ""]


def test_unicode_text_of_a_spreadsheet_is_refused_with_its_remedy(tmp_path):
    (tmp_path / "anna.csv").write_bytes("id\ttext\tlabel\n".encode("utf-16"))
    with pytest.raises(InputError, match="is not UTF-8 but UTF-16; save it as UTF-8"):
        read_labels(tmp_path / "anna.csv")


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"emotion": "envy", "text": "x"}', "unknown emotion 'envy' in .*, line 3; known: anger, "),
        ('{"emotion": "joy", "text": " "}', "line 3: the text is empty; write one, or leave the line out"),
        ('{"emotion": "joy", "text": "one"}', "line 3: that text is there twice for joy; leave one out"),
    ],
)
def test_references_that_are_none_are_refused_with_their_line(tmp_path, line, said):
    (tmp_path / "r.jsonl").write_text('{"emotion": "joy", "text": "one"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=said):
        prompts.read_references(tmp_path / "r.jsonl", ["joy"])


# Numbers and words that YAML takes for others.


@pytest.mark.parametrize(
    "text, said",
    [
        ("seed: 010", "YAML takes 010 for 8 in .*, line 3; write 8"),
        ("batch: 1:30", "YAML takes 1:30 for 90 in .*, line 3; write 90"),
        ("prompts: no", "prompts in .*, line 3 must be a text; found False; YAML takes no for false: put it in quotes"),
        ("device: on", "unknown device True in .*; YAML takes on for true: put it in quotes"),
        ("samples: 1000000000", "samples in .*, line 3 must be a whole number from 1 to 1,000,000; found 1000000000"),
        ("seed: 4294967296", "seed in .*, line 3 must be a whole number from 0 to 4,294,967,295"),
        (
            "samples: 100000\ngeneration: {decoding: sampled, temperature: 1}",
            "samples in .*, line 3 makes 7,000,010 texts a run; ask for 1,000,000 at most",
        ),
    ],
)
def test_what_yaml_takes_otherwise_and_what_would_never_end_is_refused(tmp_path, text, said):
    (tmp_path / "toy.yaml").write_text(f"models: [smollm2-135m]\nprecisions: [bf16]\n{text}\n")
    with pytest.raises(InputError, match=said):
        load_study(tmp_path / "toy.yaml")


def test_numbers_that_mean_one_thing_are_taken(tmp_path):
    (tmp_path / "toy.yaml").write_text("models: [smollm2-135m]\nprecisions: [bf16]\nseed: 1_000\nbatch: 0x10\noffload: yes\n")
    study = load_study(tmp_path / "toy.yaml")
    assert (study.seed, study.batch, study.offload) == (1000, 16, True)


# Labels: of people, of judges, of spreadsheets.


@pytest.fixture
def texts():
    rows = [{"run_id": "m--fp32", "prompt_id": f"p{n}", "emotion": "joy", "sample": 0, "text": f"text {n}"} for n in range(400)]
    return pd.DataFrame(rows).assign(model="m", precision="fp32", engine="transformers")


def test_ids_are_letters_that_no_spreadsheet_takes_for_a_number_or_a_date(texts):
    ids = annotation.identified(texts)["id"]
    assert ids.is_unique and ids.str.fullmatch("[a-p]{12}").all()


def test_ids_that_were_given_before_are_understood(texts, write_study, tmp_path):
    now = annotation.identified(texts)["id"]
    former = now.str.translate(str.maketrans("ghijklmnop", "0123456789"))
    labelled = pd.DataFrame({"id": former, "label": "Joy\N{NO-BREAK SPACE}"})
    assert former.str.contains(r"\d").any()
    kept = annotation.check(labelled, texts, ["joy"], "anna.csv")
    assert kept["id"].tolist() == now.tolist() and set(kept["label"]) == {"joy"}
    study = load_study(write_study())
    keep_labels(tmp_path, study, "anna", labelled.assign(label="joy"))
    known, lost = annotation.known(kept_labels(tmp_path, study), texts)
    assert lost == 0 and annotation.beside(texts, known)["label of anna"].tolist() == ["joy"] * 400


def test_people_whose_names_are_of_other_scripts_stay_two(write_study, tmp_path):
    study, frame = load_study(write_study()), pd.DataFrame({"id": ["a"], "label": ["joy"]})
    for name in ("王伟.csv", "李娜.csv"):  # one after the other
        ((person, _),) = named_people([tmp_path / name]).items()
        keep_labels(tmp_path, study, person, frame)
    assert sorted(kept_labels(tmp_path, study)) == ["李娜", "王伟"]


def test_labels_in_the_results_that_are_none_are_named(write_study, tmp_path):
    study = load_study(write_study())
    keep_labels(tmp_path, study, "anna", pd.DataFrame({"text": ["a"], "label": ["joy"]}))
    with pytest.raises(InputError, match="anna.csv is damaged .*; read the labelled copy back again"):
        kept_labels(tmp_path, study)


def test_labels_of_a_judge_are_told_apart_neither_by_case_nor_by_how_accents_are_composed(tmp_path):
    names = ["COLÈRE", "Disgust", "Fear", "Guilt", "Joie", "Sadness", "Honte", "Neutral"]
    folder = save_classifier(tmp_path / "juge", labels=[unicodedata.normalize("NFD", name) for name in names])
    labels = {"colère": "anger", "JOIE": "joy", unicodedata.normalize("NFD", "honte"): "shame"}
    judge = classifiers.find(str(folder), labels, tmp_path, EMOTIONS)
    judge.need(EMOTIONS)
    with pytest.raises(InputError, match="two labels for judge juge differ by letter case or accents alone; leave one out"):
        classifiers.find(str(folder), {"Joie": "joy", "joie": "fear"}, tmp_path, EMOTIONS).need(("joy",))


def test_the_name_of_a_column_is_guarded_as_its_cells_are():
    frame = pd.DataFrame({"=1+1": ["=2", "plain"], "@judge": ["-x", "\tx"], "plain": [1, 2]})
    assert csv_text(frame) == "'=1+1,'@judge,plain\n'=2,'-x,1\nplain,'\tx,2\n"


# What was written before is kept until the new is whole.


class Judging:
    """A judge that answers joy, or fails."""

    name, emotions, fails = "joyful", ("joy", "fear"), False

    def fetch(self, say):
        pass

    def need(self, emotions):
        pass

    def probabilities(self, texts):
        if self.fails:
            raise MemoryError
        return np.array([[0.9, 0.1]] * len(texts))


def test_a_judging_that_fails_leaves_the_former_output_as_it_was(tmp_path, monkeypatch):
    source, out, judge = tmp_path / "t.jsonl", tmp_path / "o.jsonl", Judging()
    source.write_text('{"text": "we sang all day"}\n')
    assert judge_file.judge_file(source, out, judge, print) == [(1, None)]
    former = out.read_bytes()
    assert json.loads(former) | {"probabilities": None} == {
        "text": "we sang all day",
        "judged_emotion": "joy",
        "probabilities": None,
    }
    judge.fails = True
    with pytest.raises(MemoryError):
        judge_file.judge_file(source, out, judge, print)
    judge.fails = False

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError):
        judge_file.judge_file(source, out, judge, print)
    assert out.read_bytes() == former and sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "t.jsonl"]


def test_where_nothing_can_be_written_is_said_before_anything_is_judged(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n')
    for out, why in ((tmp_path, "it is a folder"), (tmp_path / "no" / "o.jsonl", "there is no folder")):
        with pytest.raises(InputError, match=f"cannot write .*: {why}"):
            judge_file.judge_file(tmp_path / "t.jsonl", out, Judging(), print)


def test_an_output_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "o.jsonl").symlink_to(tmp_path / "target.jsonl")
    judge_file.judge_file(tmp_path / "t.jsonl", tmp_path / "o.jsonl", Judging(), print)
    assert (tmp_path / "o.jsonl").is_symlink() and "joy" in (tmp_path / "target.jsonl").read_text()
