"""What is done is read from records alone: models and judges whose weights are gone, or were never here."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import complete, put_into_hub_cache, said_of, save_classifier
from test_tables import PEAKS, write_run

import affq
from affq.errors import InputError
from affq.models import sources
from affq.results import record as records
from affq.runner import execute, notebooks, planning
from affq.study import load_study

ANSWERS = ["joy", "sadness", "joy", "joy", "joy", "none"]


@pytest.fixture
def model(tmp_path, tiny_llama):
    """A copy of the tiny model, to be lost."""
    return shutil.copytree(tiny_llama, tmp_path / "mine")


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def write_all(study, results):
    for record in records.records(results, study):
        write_run(record, ANSWERS, PEAKS, [3.0, 1.0, 2.0])


def test_results_are_the_same_once_the_weights_are_gone(write_study, model, results):
    path = write_study(models=["./mine"], precisions=["fp32", "bf16"])
    write_all(load_study(path), results)
    before = affq.Results(path, results)
    frames = {name: getattr(before, name) for name in ("summary", "texts", "differences", "memory", "claims", "provenance")}
    shutil.rmtree(model)
    after = affq.Results(path, results)
    assert after.study.notes == ("mine: its weights are not here, its runs are read as they were recorded",)
    for name in ("summary", "texts", "differences", "memory", "provenance"):
        pd.testing.assert_frame_equal(getattr(after, name), frames[name])
    assert set(after.claims["verdict"]) == set(frames["claims"]["verdict"])
    assert [planned.status for planned in planning.plan(after.study, results, planning.Choice())] == ["ok", "ok"]
    assert notebooks.copy_explorer(str(path), results).exists()


def test_parameters_that_claims_are_about_are_counted_in_the_records(write_study, model, results):
    claims = results.parent / "mine.yaml"
    claims.write_text("C: {says: less memory, models: below 100, precision: bf16, against: fp32, weights_saving: [0, 1]}\n")
    path = write_study(models=["./mine"], precisions=["fp32", "bf16"])
    write_all(load_study(path), results)
    shutil.rmtree(model)
    from affq.analysis.claims import _parameters

    assert [_parameters(record) for record in affq.Results(path, results).records] == [10, 10]  # elements of write_run's census


@pytest.mark.parametrize("kind", ["hub", "gguf"])
def test_runs_are_read_when_the_hubs_cache_is_emptied_or_the_gguf_file_gone(
    write_study, tiny_llama, tiny_gguf, results, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    gone = put_into_hub_cache(tmp_path / "hub", "someone/tiny", tiny_llama).parents[2]
    if kind == "gguf":
        gone = Path(shutil.copy(tiny_gguf, tmp_path / "mine.gguf"))
    path = write_study(models=["someone/tiny" if kind == "hub" else "./mine.gguf"], precisions=["fp32"])
    write_all(load_study(path), results)
    before = [run.id for run in load_study(path).runs()]
    gone.rename(tmp_path / "elsewhere")
    (planned,) = planning.plan(load_study(path, results), results, planning.Choice())
    assert ([planned.run_id], planned.status) == (before, "ok")


def test_folder_that_is_gone_and_looks_like_a_repository_is_known_by_its_runs(write_study, model, results, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "models").mkdir()
    model.rename(tmp_path / "models" / "mine")
    path = write_study(models=["models/mine"], precisions=["fp32"])
    write_all(load_study(path), results)
    shutil.rmtree(tmp_path / "models")
    (planned,) = planning.plan(load_study(path, results), results, planning.Choice())
    assert (planned.model, planned.status) == ("mine", "ok")


def test_to_run_it_the_weights_are_asked_for(write_study, model, results):
    path = write_study(models=["./mine"], precisions=["fp32"])
    write_all(load_study(path), results)
    shutil.rmtree(model)
    with pytest.raises(InputError, match="there is no folder or file './mine'"):
        load_study(path)


def test_without_any_run_a_model_that_is_not_there_is_unknown(write_study, results):
    with pytest.raises(InputError, match="there is no folder or file './mine'"):
        load_study(write_study(models=["./mine"]), results)


def test_runs_of_other_settings_are_not_read_for_a_model_that_is_gone(write_study, model, results):
    write_all(load_study(write_study(models=["./mine"], precisions=["fp32"], seed=1)), results)
    shutil.rmtree(model)
    study = load_study(write_study(models=["./mine"], precisions=["fp32"]), results)
    (planned,) = planning.plan(study, results, planning.Choice())
    assert (planned.status, planned.run_id) == ("missing", None) and "there is no folder or file './mine'" in planned.reason


def test_of_two_revisions_the_one_that_was_begun_last_counts_and_it_is_said(write_study, model, results):
    path = write_study(models=["./mine"], precisions=["fp32"])
    write_all(load_study(path), results)
    (model / "merges.txt").write_text("a b\n")  # which a tokenizer could read
    study = load_study(path)
    write_all(study, results)
    later = records.records(results, study)[0].folder / "run.json"
    later.write_text(later.read_text().replace('"began": "20', '"began": "30'))
    shutil.rmtree(model)
    study = load_study(path, results)
    assert study.models[0].revision == json.loads(later.read_text())["settings"]["revision"]
    assert study.notes[0].endswith("of 2 revisions that were run, the one that was begun last counts")


def test_model_that_was_never_fetched_is_a_row_beside_what_is_done_of_another(write_study, model, results, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    path = write_study(models=["./mine", "me/absent"], precisions=["fp32"])
    study = load_study(path)
    write_run(records.records(results, study)[0], ANSWERS, PEAKS, [3.0, 1.0, 2.0])
    every = affq.Results(path, results)
    assert list(every.summary["status"]) == ["ok", "missing"] and len(every.texts) == 6
    assert "me/absent at main is not in the hub's cache" in every.summary["note"][1]
    assert list(every.differences["model"]) == [] and set(every.claims["verdict"]) <= {"not testable here", "inconclusive"}
    assert [planned.run_id for planned in planning.plan(study, results, planning.Choice())][1] is None


def test_scorers_that_are_gone_are_not_asked_where_their_scores_are(write_study, model, results, tmp_path, monkeypatch):
    save_classifier(tmp_path / "judge")
    other = shutil.copytree(model, tmp_path / "other")
    labels = {"Remorse": "guilt", "Embarrassment": "shame"}
    judges = [{"judge": "./judge", "labels": labels}]
    path = write_study(models=["./mine"], precisions=["fp32"], judges=judges, perplexity="./other")
    (record,) = records.records(results, load_study(path))
    write_run(record, ANSWERS, PEAKS, [3.0, 1.0, 2.0])
    study = load_study(path)
    rows = record.scores("judge")
    record.score("judge-masked", {}, lambda _: rows)
    key = [{name: row[name] for name in ("prompt_id", "emotion", "sample")} for row in rows]
    record.score("perplexity", {}, lambda _: [row | {"nll_nats": 4.0, "tokens": 2} for row in key])
    for folder in (tmp_path / "judge", other, model):
        shutil.rmtree(folder)
    executed = []
    monkeypatch.setattr(execute, "_execute_over", lambda study, results, name, *rest: executed.append(name))
    study = load_study(path, results)
    execute.score_study(study, results)
    assert executed == ["2_score"] and study.judges[0].name == "judge"
    (record._scores_folder / "judge.jsonl").unlink()
    with pytest.raises(InputError, match="judge"):
        execute.score_study(study, results)


@pytest.fixture
def checkpoints(tmp_path, tiny_llama):
    """runA/checkpoint-500 and runB/checkpoint-500, as the Trainer names them, and a link to each."""
    for name in "ab":
        folder = tmp_path / f"run{name.upper()}" / "checkpoint-500"
        shutil.copytree(tiny_llama, folder)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "_name": name}))
        (tmp_path / f"best-{name}").symlink_to(folder)
    return tmp_path


@pytest.mark.parametrize(
    "models, names",
    [
        (["./runA/checkpoint-500", "./runB/checkpoint-500"], ["runA-checkpoint-500", "runB-checkpoint-500"]),
        (["./best-a", "./best-b"], ["best-a", "best-b"]),
        (["./runA/checkpoint-500", "./best-b"], ["checkpoint-500", "best-b"]),
        ([{"model": "./runA/checkpoint-500", "name": "first"}, "./runB/checkpoint-500"], ["first", "checkpoint-500"]),
        (["./runA/checkpoint-500"], ["checkpoint-500"]),
        (["./best-a"], ["checkpoint-500"]),  # as its runs have been called
    ],
)
def test_checkpoints_of_one_name_are_told_apart(checkpoints, write_study, models, names):
    study = load_study(write_study(models=models))
    assert [model.name for model in study.models] == names
    assert len({run.id for run in study.runs()}) == 2 * len(models)
    assert study.run(names[-1], "fp32").model.folder == study.models[-1].folder


def test_models_that_are_given_one_name_are_refused(checkpoints, write_study):
    models = [{"model": f"./best-{name}", "name": "best"} for name in "ab"]
    with pytest.raises(
        InputError, match="two models in .* have the same name; call one of them otherwise: {model: ./its-folder, name"
    ):
        load_study(write_study(models=models))


@pytest.mark.parametrize("name", ["", "a/b", "x" * 61, 3, None, "\n"])
def test_name_that_is_none_is_refused(checkpoints, write_study, name):
    path = write_study(models=[{"model": "./best-a", "name": name}])
    if name is None:  # as if it were not there
        assert load_study(path).models[0].name == "checkpoint-500"
        return
    with pytest.raises(InputError, match="a model in .* must be a name, or {model: its name, name: another}; found"):
        load_study(path)


def test_absent_models_of_one_name_are_told_apart_as_they_were(checkpoints, write_study, results):
    path = write_study(models=["./runA/checkpoint-500", "./runB/checkpoint-500"], precisions=["fp32"])
    write_all(load_study(path), results)
    ids = [run.id for run in load_study(path).runs()]
    shutil.rmtree(checkpoints / "runA")
    shutil.rmtree(checkpoints / "runB")
    assert [run.id for run in load_study(path, results).runs()] == ids


@pytest.mark.parametrize("name", ["rouge-references", "rouge-baseline", "text-quality", "perplexity", "minilm-lora-masked"])
def test_judge_that_is_called_as_other_scores_are_is_refused(write_study, tmp_path, name):
    save_classifier(tmp_path / name)
    judge = {"judge": f"./{name}", "labels": {"Remorse": "guilt", "Embarrassment": "shame"}}
    with pytest.raises(InputError, match=f"judge {name} in .* is called as other scores are; rename its folder, or leave it out"):
        load_study(write_study(judges=["minilm-lora", judge]))


def test_missing_run_says_what_an_earlier_one_had_otherwise(write_study, results, tmp_path):
    complete(records.records(results, load_study(write_study(precisions=["fp32"])))[0])
    (record,) = records.records(results, load_study(write_study(precisions=["fp32"], seed=3)))
    assert said_of(record) == ("missing", "not run yet; an earlier run of other seed is kept")
    (record,) = records.records(results, load_study(write_study(precisions=["fp32"], seed=3, batch=1)))
    assert said_of(record) == ("missing", "not run yet; an earlier run of other batch and seed is kept")
    path = write_study(precisions=["fp32"])
    (tmp_path / "two.csv").write_text((tmp_path / "two.csv").read_text().replace("Tell of", "Tell me of"))
    (record,) = records.records(results, load_study(path))
    assert said_of(record) == ("missing", "not run yet; an earlier run of other prompts is kept")


@pytest.mark.parametrize(
    "beside", ["eval_results.json", "trainer_state.json", "LICENSE.txt", "consolidated.safetensors", "vocab.md"]
)
def test_what_loading_never_reads_makes_no_other_model(model, beside):
    before = sources.Folder(model).revision
    (model / beside).write_text("{}")
    assert sources.Folder(model).revision == before


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja", "added_tokens.json"]
)
def test_what_loading_reads_makes_another_model(model, name):
    before = sources.Folder(model).revision
    (model / name).write_text((model / name).read_text() + " " if (model / name).exists() else "{}")
    assert sources.Folder(model).revision != before


def test_templates_of_a_models_own_folder_count(model):
    before = sources.Folder(model).revision
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    assert sources.Folder(model).revision != before


def test_explorer_of_another_study_of_this_name_is_turned_to_this_one(write_study, tmp_path, tiny_llama):
    for name in "ab":
        path = write_study(models=[str(tiny_llama)], precisions=["fp32"], judges=["minilm-lora"])
        (tmp_path / name).mkdir()
        shutil.copy(path, tmp_path / name / "toy.yaml")
        shutil.copy(tmp_path / "two.csv", tmp_path / name)
    first, second = (str(tmp_path / name / "toy.yaml") for name in "ab")
    complete(records.records(tmp_path / "results", load_study(first))[0])
    said = []
    notebook = notebooks.copy_explorer(first, tmp_path / "results", said.append)
    text = notebook.read_text().replace("# Explore", "# My own words")
    notebook.write_text(text)
    assert notebooks.copy_explorer(first, tmp_path / "results", said.append) == notebook and notebook.read_text() == text
    assert said == []
    notebooks.copy_explorer(second, tmp_path / "results", said.append)
    assert "../../b/toy.yaml" in notebook.read_text() and "My own words" in notebook.read_text()
    assert said == [f"{notebook} showed ../../a/toy.yaml, another study of this name; now it shows ../../b/toy.yaml"]
    notebook.write_text("<<<<<<< ours\n")
    with pytest.raises(InputError, match="4_explore.ipynb is damaged: it is no notebook; move it away, and affq explore makes"):
        notebooks.copy_explorer(second, tmp_path / "results", said.append)
