import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_tables import PEAKS, write_run

from affq import cli
from affq.analysis import annotation
from affq.analysis.texts import join
from affq.errors import InputError
from affq.results import kept_labels
from affq.results import record as records
from affq.study.study import load_study

AFFQ = Path(sys.executable).with_name("affq")


def affq(*words, cwd=None):
    return subprocess.run([AFFQ, *map(str, words)], cwd=cwd, capture_output=True, text=True)


def test_plan_of_the_default_study_lists_its_runs(tmp_path):
    done = affq("plan", "default", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split("--")[1] for line in done.stdout.splitlines() if "--" in line] == ["fp32", "bf16", "int8", "nf4"]
    assert "int8 saves against fp32" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["plan", "run", "score", "report"])
def test_bad_input_is_one_sentence_and_exit_status_2(command, tmp_path):
    done = affq(command, "defualt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    known = "default, default-40, default-full, paper, paper-random"
    assert done.stderr == f"affq: unknown study 'defualt'; known: {known}; or give the path of a .yaml file\n"


def test_report_without_a_complete_run_leaves_what_was_published(tmp_path):
    published = tmp_path / "reports" / "default" / "index.html"
    published.parent.mkdir(parents=True)
    published.write_text("as it was")
    done = affq("report", "default", cwd=tmp_path)
    assert done.returncode == 2 and "is complete; affq run default first" in done.stderr
    assert published.read_text() == "as it was"


def test_judge_adds_to_each_line_and_changes_nothing_of_it(tmp_path):
    lines = [
        {"id": 7, "text": "I am so happy today! We won the game.", "note": {"deep": ["é", None]}},
        {"text": "", "id": "x"},
        {"text": "one\u2028two three, I was terrified and afraid in the dark"},
    ]
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    done = affq("judge", "texts.jsonl", "-o", "judged.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    judged = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [{k: v for k, v in row.items() if k not in ("judged_emotion", "probabilities")} for row in judged] == lines
    assert [row["judged_emotion"] for row in judged] == ["joy", "none", "fear"]
    for row in judged:
        assert len(row["probabilities"]) == 7 and sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_bad_lines_come_back_with_their_error_and_the_rest_is_judged(tmp_path):
    lines = [
        (b'{"text": "I am so happy today! We won."}', None),
        (b'{"id": 3, "text": 1}', "a line must be a JSON object with a text"),
        (b'{"id": 4}', "a line must be a JSON object with a text"),
        (b'["text"]', "a line must be a JSON object with a text"),
        (b"{", "not JSON (Expecting property name enclosed in double quotes)"),
        (b"", "not JSON (Expecting value)"),
        (b'{"text": "\xff"}', "not UTF-8 (byte 10 of the line)"),
        (b'{"text": "a b c", "p": NaN}', "not JSON (NaN is no number)"),
        (b'{"text": "a b c", "p": 1e999}', "not JSON (Out of range float values are not JSON compliant"),
        (b'{"text": "\\ud83d"}', "half a surrogate pair is no character"),
        (
            b'{"text": "' + b"x" * 100_000 + b'"}',
            "a text of 100,000 characters; a judge takes 10,000 at most",
        ),
        (b"[" * 100_000, "not JSON (maximum recursion depth exceeded"),
        (b'{"text": "I was terrified, alone in the dark."}', None),
    ]
    (tmp_path / "texts.jsonl").write_bytes(b"\n".join(line for line, _ in lines))  # no end of the last line
    done = affq("judge", "texts.jsonl", "-o", "judged.jsonl", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == "2 texts judged by minilm-lora: judged.jsonl\n"
    assert done.stderr.endswith("affq: 11 of 13 lines not judged, the first line 2: a line must be a JSON object with a text\n")
    judged = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert len(judged) == len(lines)
    for row, (_, wrong) in zip(judged, lines, strict=True):
        assert (row.get("error") or "").startswith(wrong or "") and ("probabilities" in row) is (wrong is None)
        assert (row["judged_emotion"] is None) is (wrong is not None) is ("error" in row)
    assert [row["judged_emotion"] for row in judged if "error" not in row] == ["joy", "fear"]
    assert judged[1] == {"id": 3, "text": 1, "judged_emotion": None, "error": lines[1][1]}  # what can be kept of a line is kept


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "holds no text"),
        (b"\xef\xbb\xbf", "holds no text"),
        (b'{"text": "x", "judged_emotion": "joy"}\n', "line 1 already has judged_emotion"),
        (b'{"text": "x"}\n{"error": "y"}\n', "line 2 already has error"),
        (None, "No such file"),
    ],
)
def test_judge_refuses_bad_files_in_one_sentence(tmp_path, content, said):
    if content is not None:
        (tmp_path / "texts.jsonl").write_bytes(content)
    done = affq("judge", "texts.jsonl", "-o", "judged.jsonl", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "judged.jsonl").exists()


def test_judge_reads_what_a_windows_editor_saves(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "I am glad"}\n', encoding="utf-8-sig")
    assert affq("judge", "texts.jsonl", "-o", "judged.jsonl", cwd=tmp_path).returncode == 0


def test_stopped_command_says_so(monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("affq.study.load_study", stop)
    monkeypatch.setattr(sys, "argv", ["affq", "report", "default"])
    with pytest.raises(SystemExit) as ended:
        cli.entry()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "affq: stopped; the same command begins again\n"


def test_terminal_that_knows_ascii_alone_is_told_all_the_same(tmp_path):
    (tmp_path / "mine.yaml").write_text("models: [smöl]\nprecisions: [bf16]\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([AFFQ, "plan", "mine.yaml"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("affq: unknown model 'sm\\xf6l'")


def test_results_that_cannot_be_written_are_one_sentence(tmp_path):
    (tmp_path / "taken").write_text("a file")
    done = affq("run", "default", "--results", "taken", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("affq: cannot read or write taken/default")


def test_judge_says_that_there_is_no_folder_to_write_to(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "x"}\n')
    done = affq("judge", "texts.jsonl", "-o", "nowhere/judged.jsonl", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == "affq: cannot write nowhere/judged.jsonl: there is no folder nowhere\n"


def test_labels_of_several_people_are_kept_all_or_none(tmp_path, write_study):
    study, results = load_study(path := write_study(emotions=["joy", "sadness"])), tmp_path / "reports"
    kept = records.records(results, study)
    for record in kept:
        write_run(record, ["joy"] * 6, PEAKS, [1.0])
    drawn = annotation.sample(join(kept), 4, np.random.default_rng(0))
    anna, ben = tmp_path / "anna.csv", tmp_path / "ben.csv"
    drawn.assign(label="joy").to_csv(anna, index=False)
    drawn.assign(label="envy").to_csv(ben, index=False)
    with pytest.raises(InputError, match="ben.csv, record 1 .*: unknown label 'envy'"):
        cli.annotate(str(path), labels=[anna, ben], results=results)
    with pytest.raises(InputError, match="would both be the labels of anna"):
        cli.annotate(str(path), labels=[anna, tmp_path / "b" / "anna.csv"], results=results)
    assert kept_labels(results, study) == {}
    drawn.assign(label="sadness").to_csv(ben, index=False)
    cli.annotate(str(path), labels=[anna, ben], results=results)
    assert {who: set(of["label"]) for who, of in kept_labels(results, study).items()} == {"anna": {"joy"}, "ben": {"sadness"}}
