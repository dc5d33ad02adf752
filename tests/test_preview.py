"""What affq try shows: real texts of a tiny model, judged by the packaged judge; and that nothing of it is kept."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import affq, save_classifier
from huggingface_hub import constants

from affq.errors import InputError
from affq.inference import generate
from affq.models import loading
from affq.models.precisions import PrecisionError
from affq.results import record as records
from affq.runner import preview
from affq.scoring import PackagedJudge, scores
from affq.study import load_study


@pytest.fixture
def study(tmp_path, tiny_llama, write_study):
    """Two prompts, two emotions, the tiny model at two precisions; results of it are there."""
    path = write_study(models=[str(tiny_llama)], precisions=["bf16", "fp32"], batch=4)
    record = next(iter(records.records(tmp_path / "reports", load_study(path))))
    record.start({"hardware": {"device": "cpu"}, "weights_sha256": "f00"})
    return path


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_texts_and_verdicts_are_shown_and_nothing_is_written(tmp_path, study, tiny_llama):
    before = everything(tmp_path)
    done = affq("try", study, "--precision", "fp32", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and everything(tmp_path) == before
    loaded = load_study(study)
    model, tokenizer = loading.load(tiny_llama, "fp32", "cpu")
    requests = [request for request in loaded.requests if request["emotion"]]
    texts, _ = generate.texts(model, tokenizer, requests, 8)
    judge = PackagedJudge("minilm-lora")
    answers = [row["judged_emotion"] for row in scores.emotion_scores(texts, judge)]
    lines = done.stdout.splitlines()
    assert lines[:2] == ["All the prompts that the study has are tried: 2.", "Generating 4 texts with tiny-llama at fp32 …"]
    assert lines[2].split() == ["prompt", "asked", "judged", "text"]
    for line, text, answer in zip(lines[3:7], texts, answers, strict=True):
        verdict = [answer] if answer == text["emotion"] else ["≠", answer]
        assert line.split() == [text["prompt_id"], text["emotion"], *verdict, *text["text"].split()]
    hits = sum(answer == text["emotion"] for answer, text in zip(answers, texts, strict=True))
    assert lines[7].startswith(f"{hits} of 4 texts are judged as asked, by minilm-lora; ")
    assert len(lines) == 9 and lines[8].startswith("Nothing was recorded.")


def test_first_prompts_of_the_first_run_are_tried_with_one_sample_an_emotion(tmp_path, tiny_llama, write_study):
    sampled = {"decoding": "sampled", "temperature": 0.7, "max_new_tokens": 8}
    path = write_study(models=[str(tiny_llama)], precisions=["bf16", "fp32"], samples=3, generation=sampled)
    lines = affq("try", path, "--prompts", "1", cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "Generating 2 texts with tiny-llama at bf16 …"
    assert [line.split()[:2] for line in lines[2:4]] == [["note", "joy"], ["note", "sadness"]]
    assert lines[4].split()[:3] == [lines[4][0], "of", "2"]


def test_judge_is_the_first_of_the_study_and_model_the_one_asked_for(tmp_path, tiny_llama, write_study):
    save_classifier(tmp_path / "words")
    labels = {"judge": "./words", "labels": {"remorse": "guilt", "embarrassment": "shame"}}
    for name in ("one", "two"):
        shutil.copytree(tiny_llama, tmp_path / name)
    path = write_study(models=["./one", "./two"], precisions=["fp32"], judges=[labels, "minilm-lora"])
    done = affq("try", path, "--model", "two", "--prompts", "1", cwd=tmp_path)
    assert "with two at fp32 …" in done.stdout and "judged as asked, by words;" in done.stdout


def test_model_in_the_place_of_a_study_leaves_no_file(tmp_path, tiny_llama):
    shutil.copytree(tiny_llama, tmp_path / "mine")
    before = everything(tmp_path)
    done = affq("try", "./mine", "--prompts", "1", cwd=tmp_path)
    assert done.returncode == 0 and "Generating 7 texts with mine at fp32 …" in done.stdout
    assert everything(tmp_path) == before


def test_network_and_settings_of_the_users_are_out_of_reach_as_in_a_run(tmp_path, study, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "ONEDNN_DEFAULT_FPMATH_MODE"):
        monkeypatch.setenv(name, "planted")
    seen, before = [], dict(os.environ)

    def look(run, requests):
        seen.append((constants.is_offline_mode(), os.environ["HF_HUB_OFFLINE"], "planted" in os.environ.values()))
        raise InputError("looked")

    monkeypatch.setattr(preview, "_quality_pass", look)
    assert affq("try", study, cwd=tmp_path).stderr == "affq: looked\n"
    assert seen == [(True, "1", False)]
    assert not constants.is_offline_mode() and dict(os.environ) == before


def test_torch_is_imported_only_where_its_switches_are_out_of_reach():
    code = "import sys; from affq.runner import preview; preview.preview; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_would_fail_a_run_is_one_sentence(tmp_path, study, monkeypatch):
    def lacks(*_):
        raise PrecisionError("bf16 cannot be computed on cpu for this model: no kernel; choose another precision")

    monkeypatch.setattr("affq.models.loading.compute_once", lacks)
    done = affq("try", study, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "affq: bf16 cannot be computed on cpu for this model: no kernel; choose another precision\n"


def test_memory_that_runs_out_has_the_remedy_of_a_run(tmp_path, study, monkeypatch):
    def full(*_):
        raise MemoryError("can't allocate memory")

    monkeypatch.setattr("affq.models.loading.compute_once", full)
    assert "loading needs about" in affq("try", study, cwd=tmp_path).stderr


def test_error_that_nobody_foresaw_keeps_its_traceback(tmp_path, study, monkeypatch):
    def trips(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("affq.models.loading.compute_once", trips)
    with pytest.raises(ZeroDivisionError):
        affq("try", study, cwd=tmp_path)


def test_random_weights_are_not_tried(tmp_path, write_study, tiny_llama):
    path = write_study(models=[str(tiny_llama)], precisions=["fp32"], weights="random")
    done = affq("try", path, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("affq: study toy has random weights")


def shown(study, *rows):
    """Give a preview of (prompt id, emotion, judged, text)."""
    texts = [{"prompt_id": prompt, "emotion": emotion, "text": text} for prompt, emotion, _, text in rows]
    return preview.Preview(load_study(study).runs()[0], texts, [judged for _, _, judged, _ in rows], 7.6)


def test_line_ends_with_the_terminal_and_columns_stay_straight_in_every_script(study):
    rows = ("note", "joy", "joy", "Good\n day, \x1b[31m all"), ("日記", "sadness", "none", "今日はとても悲しい")
    table = preview.lines(shown(study, *rows), None)
    assert table[:3] == [
        "prompt  asked    judged  text",
        r"note    joy      joy     Good day, \x1b[31m all",
        "日記    sadness  ≠ none  今日はとても悲しい",
    ]
    assert table[3] == "1 of 2 texts are judged as asked, by minilm-lora; 8 s."
    cut = preview.lines(shown(study, *rows), 32)  # a character of Chinese takes two columns
    assert cut[1:3] == ["note    joy      joy     Good d…", "日記    sadness  ≠ none  今日は …"[:-2] + "…"]
    assert cut[3] == table[3]
