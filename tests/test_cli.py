import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import affq, complete
from test_tables import PEAKS, write_run

from affq import cli
from affq import study as study_room
from affq.analysis import annotation
from affq.analysis.texts import join
from affq.errors import InputError
from affq.results import NOTEBOOKS, kept_labels
from affq.results import record as records
from affq.study import load_study, new

AFFQ = Path(sys.executable).with_name("affq")


def test_plan_of_the_default_study_lists_its_runs(tmp_path):
    done = affq("plan", "default", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split("--")[1] for line in done.stdout.splitlines() if "--" in line] == ["fp32", "bf16", "int8", "nf4", "stored"]
    assert "int8 saves against fp32" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_run_without_a_study_says_what_is_missing(tmp_path):
    done = affq("run", cwd=tmp_path)
    assert done.returncode == 2 and "Missing argument 'STUDY|MODEL'" in done.stderr


def test_new_writes_a_study_that_says_what_was_asked_for(tmp_path, tiny_llama):
    shutil.copytree(tiny_llama, tmp_path / "mine")
    asked = ("new", "./mine", "--precisions", "bf16,int8", "--emotions", "joy", "--device", "cpu")
    done = affq(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Wrote mine.yaml. affq plan mine.yaml shows its runs, affq run mine.yaml executes them.\n"
    study = load_study(tmp_path / "mine.yaml")
    assert (study.precisions, study.emotions, study.device) == (("bf16", "int8"), ("joy",), "cpu")
    assert study.batch == load_study("default").batch and study.models[0].folder == tmp_path / "mine"
    assert affq(*asked, cwd=tmp_path).stdout.startswith("Unchanged: mine.yaml.")


def test_new_study_in_another_folder_finds_its_model_and_prompts(tmp_path, tiny_llama, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama, tmp_path / "mine")
    Path("my.csv").write_text("id,kind,text,text_without_emotion\nnote,general,Write of {emotion}.,Write.\n")
    Path("studies").mkdir()
    draft = study_room.draft("./mine", Path("studies/own.yaml"), prompts="my.csv")
    assert draft.write() and not draft.write()
    study = load_study("studies/own.yaml")
    assert (study.name, study.models[0].folder, study.prompts) == ("own", tmp_path / "mine", tmp_path / "my.csv")
    assert study == dataclasses.replace(draft.study, source="studies/own.yaml")


@pytest.mark.parametrize("model, name", [("~/models/My Model", "My-Model"), ("owner/name@v2", "name"), ("a/b.gguf", "b")])
def test_study_is_named_as_its_model(model, name):
    assert new._name(model) == name


def test_plan_of_a_model_leaves_no_file(tmp_path, tiny_llama):
    shutil.copytree(tiny_llama, tmp_path / "mine")
    done = affq("plan", "./mine", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [(row["model"], row["precision"]) for row in json.loads(done.stdout)] == [
        ("mine", p) for p in ("fp32", "bf16", "int8", "nf4")
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_run_of_a_model_writes_its_study_and_runs_that(tmp_path, tiny_llama, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama, tmp_path / "mine")
    ran = []
    monkeypatch.setattr("affq.runner.run_study", lambda study, *_: ran.append(study) or [])
    cli.run("./mine")
    assert ran == [load_study("mine.yaml")] and capsys.readouterr().out == "The study is in mine.yaml.\n"
    cli.run("./mine")  # goes on with it
    assert ran[1] == ran[0] and capsys.readouterr().out == ""


def test_plan_shows_the_measured_peak_beside_the_predicted_one(tmp_path, write_study):
    path = write_study(precisions=["fp32", "int8"])
    first, _ = records.records(tmp_path / "reports", load_study(path))
    write_run(first, ["joy"] * 6, PEAKS, [1.0])
    done = affq("plan", path, "--json", cwd=tmp_path)
    fp32, int8 = json.loads(done.stdout)
    assert fp32["measured_peak_bytes"] == max(PEAKS[1:]) and int8["measured_peak_bytes"] is None
    head, line = affq("plan", path, cwd=tmp_path).stdout.splitlines()[:2]
    assert "peak GB  measured GB" in head and f"{max(PEAKS[1:]) / 1e9:,.2f}" in line


def test_schema_of_study_files_is_printed_for_editors(tmp_path):
    done = affq("study", "--schema", cwd=tmp_path)
    assert json.loads(done.stdout)["properties"]["weights"]["enum"] == ["trained", "random"]


def test_shell_suggests_studies_that_begin_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("delta.yaml").touch()
    assert cli._studies("de") == ["default", "default-40", "default-full", "delta.yaml"]
    assert cli._studies("paper-") == ["paper-random"]


def test_completion_loads_no_heavy_library():
    code = "import sys; from affq import cli; cli._studies('d'); sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_notebooks_are_copied_with_results_as_seen_from_there_and_never_overwritten(tmp_path):
    done = affq("notebooks", "work/mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copies = sorted((tmp_path / "work" / "mine").iterdir())
    assert [path.name for path in copies] == [
        "1_generate.ipynb", "2_score.ipynb", "3_summary.ipynb", "4_explore.ipynb", "5_annotate.ipynb",
        "6_load.ipynb", "7_soak.ipynb",
    ]  # fmt: skip
    for path in copies:
        packaged, copied = (nbformat.read(file, as_version=4).cells for file in (NOTEBOOKS / path.name, path))
        changed = [(a.source, b.source) for a, b in zip(packaged, copied, strict=True) if a != b]
        assert changed == [(source := changed[0][0], source.replace('"../reports"', '"../../reports"'))]
    copies[0].unlink()
    copies[1].write_text("mine")
    again = affq("notebooks", "work/mine", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "affq: work/mine/2_score.ipynb is there already; name another folder, or move it away\n"
    assert copies[1].read_text() == "mine" and not copies[0].exists()


@pytest.mark.parametrize("command", ["plan", "run", "score", "report"])
def test_bad_input_is_one_sentence_and_exit_status_2(command, tmp_path):
    done = affq(command, "defualt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    known = "default, default-40, default-full, engines, load, long, paper, paper-random"
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
    # No end of the last line; an empty one among the others is no text, and does not come back.
    (tmp_path / "texts.jsonl").write_bytes(b"\n".join([b"", *(line for line, _ in lines)]))
    done = affq("judge", "texts.jsonl", "-o", "judged.jsonl", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == "2 texts judged by minilm-lora: judged.jsonl\n"
    assert done.stderr.endswith("affq: 10 of 12 lines not judged, the first line 3: a line must be a JSON object with a text\n")
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
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("affq.study.load_study", stop)
    monkeypatch.setattr(sys, "argv", ["affq", "report", "default"])
    with pytest.raises(SystemExit) as ended:
        cli.entry()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "affq: stopped; the same command begins again\n"


def test_version_is_shown_without_a_command(tmp_path):
    done = affq("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{cli.__version__}\n", "")


def test_current_folder_is_not_on_the_path_whatever_pythonpath_says(tmp_path):
    for name in ("huggingface_hub", "yaml", "pydantic"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(("", os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run([AFFQ, "study", "default"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()


STOP = """
import os, signal, sys
class Stop:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop())
from affq.start import entry
entry()
"""


def test_ctrl_c_while_the_command_is_imported_gives_no_traceback():
    done = subprocess.run([sys.executable, "-c", STOP], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["affq"] == "affq.start:entry"


def test_the_command_imports_papermill_without_the_grammar_of_addresses_and_the_sentences_without_torch():
    code = "import sys; from affq import start; import papermill, nbconvert; from affq.report import charts, words; "
    code += "sys.exit(bool({'lark', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def lab(monkeypatch, tmp_path, write_study):
    """Call affq explore with options, in a folder beside that of the results; give the words that start JupyterLab."""
    study = write_study(precisions=["fp32"])
    complete(records.records(tmp_path / "far" / "results", load_study(study))[0])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    started = []
    monkeypatch.setattr(os, "execv", lambda _, words: started.append(words))

    def explore(*options):
        monkeypatch.setattr(sys, "argv", ["affq", "explore", str(study), "--results", "../far/results", "--", *options])
        with pytest.raises(SystemExit) as ended:
            cli.entry()
        assert not ended.value.code
        return started[-1]

    return explore


def test_explorer_reaches_study_and_results_and_hands_on_options_of_jupyterlab(lab, tmp_path):
    notebook = str(tmp_path / "far" / "results" / "toy" / "4_explore.ipynb")
    asked = ["--allow-root", "--ip=0.0.0.0"]
    words = [sys.executable, "-P", "-m", "jupyterlab", notebook, f"--ServerApp.root_dir={tmp_path}"]
    assert lab(*asked) == [*words, *asked]
    assert lab("--ServerApp.root_dir=/srv") == [*words[:-1], "--ServerApp.root_dir=/srv"]


@pytest.mark.parametrize("user, said", [(0, True), (1000, False)])
def test_explorer_tells_root_how_jupyterlab_starts(lab, monkeypatch, capsys, user, said):
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    lab()
    assert ("/toy.yaml --results ../far/results -- --allow-root, in a container" in capsys.readouterr().out) == said


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
