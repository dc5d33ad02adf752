"""Engines: what turns weights and prompts into tokens; a study names them beside its models and precisions."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import transformers
from conftest import ENVIRONMENT, MEASURED, SIZES, affq, complete, generations, save_tiny, timed
from rouge_score.rouge_scorer import RougeScorer
from test_tables import PEAKS, write_run

from affq.analysis import Results
from affq.analysis.engines import SAME_TEXTS, same_texts
from affq.errors import InputError
from affq.inference import generate
from affq.models import ENGINES, OPENAI, STORED, TRANSFORMERS, AskedEngine, PrecisionError, engine_of, sources, why_not
from affq.models.engines import COMPILED
from affq.report import words
from affq.results import record as records
from affq.runner import execute, planning, preview
from affq.runner.planning import Choice
from affq.study import Run, load_study

SERVER = {"openai": "http://127.0.0.1:8080/v1/", "model": "theirs"}
NO_INT8 = "transformers does not compile what bitsandbytes has quantized"


def named(runs):
    return [(run.precision, run.engine.label) for run in runs]


@pytest.fixture(scope="module")
def tiny_bf16(tmp_path_factory):
    """A model that is stored at 16 bits."""
    config = transformers.LlamaConfig(vocab_size=512, eos_token_id=0, pad_token_id=0, dtype="bfloat16", **SIZES)
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-bf16", config)


def test_study_without_engines_has_the_usual_one(write_study):
    study = load_study(write_study())
    assert ENGINES[0] == TRANSFORMERS and [engine for engine, _ in study.engines] == [AskedEngine(TRANSFORMERS, TRANSFORMERS)]
    assert [run.id for run in study.runs()] == [run.id for run in load_study(write_study(engines=[TRANSFORMERS])).runs()]


def test_engine_is_part_of_a_runs_settings_and_stands_in_its_id_where_it_is_not_the_usual_one(write_study):
    usual, compiled = load_study(write_study(precisions=["fp32"], engines=[TRANSFORMERS, COMPILED])).runs()
    assert usual.settings["engine"] == "transformers" and usual.id.count("--") == 2
    assert compiled.id.startswith("smollm2-135m--fp32--transformers-compiled--")
    assert (usual.label, compiled.label) == ("smollm2-135m fp32", "smollm2-135m fp32 transformers-compiled")


def test_engine_has_the_studys_precisions_or_its_own(write_study):
    engines = [TRANSFORMERS, {"engine": COMPILED, "precisions": ["bf16", "fp32"]}]
    study = load_study(write_study(precisions=["int8", "fp32"], engines=engines))
    expected = [("fp32", TRANSFORMERS), ("int8", TRANSFORMERS), ("fp32", COMPILED), ("bf16", COMPILED)]
    assert named(study.runs()) == expected and study.precisions == ("fp32", "bf16", "int8")
    assert study.run("smollm2-135m", "bf16", COMPILED).engine.name == COMPILED
    with pytest.raises(
        InputError, match="no run of 'smollm2-135m' at 'int8' on 'transformers-compiled'; it has: smollm2-135m fp32"
    ):
        study.run("smollm2-135m", "int8", COMPILED)


def test_server_has_the_model_that_it_is_said_to_have_as_it_is_stored_there(write_study, tiny_llama):
    study = load_study(write_study(precisions=["bf16"], engines=[TRANSFORMERS, SERVER]))
    assert named(study.runs()) == [("bf16", TRANSFORMERS), (STORED, OPENAI)]
    served = study.runs()[1]
    settings = {"name": OPENAI, "address": "http://127.0.0.1:8080/v1", "model": "theirs"}
    assert served.settings["engine"] == settings and served.id.startswith("smollm2-135m--stored--openai--")
    models = ["smollm2-135m", str(tiny_llama)]
    engines = [TRANSFORMERS, SERVER | {"of": "tiny-llama", "name": "ours"}]
    study = load_study(write_study(models=models, precisions=["bf16"], engines=engines))
    assert [(run.model.name, run.engine.label) for run in study.runs()] == [
        ("smollm2-135m", TRANSFORMERS),
        ("tiny-llama", TRANSFORMERS),
        ("tiny-llama", "ours"),
    ]
    assert [(run.model.name, why) for run, why in study.left_out()] == [("smollm2-135m", "it serves tiny-llama")]


@pytest.mark.parametrize(
    "address", ["http://me:secret@localhost:8080/v1", "http://localhost:8080/v1?key=secret", "localhost:8080", "ftp://a"]
)
def test_address_that_is_more_or_less_than_a_servers_is_refused(write_study, address):
    with pytest.raises(InputError, match="http://host:8080/v1|OPENAI_API_KEY") as refused:
        load_study(write_study(engines=[{"openai": address, "model": "theirs"}]))
    assert "toy.yaml, line" in str(refused.value) and "secret" not in str(refused.value)


def test_runs_go_from_what_holds_most_bits_down_on_each_engine_and_stored_is_what_the_checkpoint_holds(
    write_study, tiny_llama, tiny_bf16
):
    engines = [
        {"engine": TRANSFORMERS, "precisions": ["int8", STORED, "fp32"]},
        {"engine": COMPILED, "precisions": [STORED, "bf16"]},
    ]
    study = load_study(write_study(models=[str(tiny_bf16)], engines=engines))
    assert named(study.runs()) == [
        *(("fp32", TRANSFORMERS), (STORED, TRANSFORMERS), ("int8", TRANSFORMERS)),
        *(("bf16", COMPILED), (STORED, COMPILED)),  # of 16 bits each: in the table's order
    ]
    assert [named([study.baseline(run)])[0] for run in study.runs()] == 3 * [("fp32", TRANSFORMERS)] + 2 * [("bf16", COMPILED)]
    study = load_study(write_study(models=[str(tiny_llama)], precisions=["bf16", STORED]))
    assert named(study.runs()) == [(STORED, TRANSFORMERS), ("bf16", TRANSFORMERS)]  # stored at 32


def test_plan_says_which_combinations_are_left_out_and_why(write_study, tmp_path, tiny_llama):
    study = write_study(models=[str(tiny_llama)], precisions=["fp32", "int8", "nf4"], engines=[TRANSFORMERS, COMPILED])
    assert [(run.precision, run.engine.label, why) for run, why in load_study(study).left_out()] == [
        ("int8", COMPILED, NO_INT8),
        ("nf4", COMPILED, NO_INT8),
    ]
    done = affq("plan", study, cwd=tmp_path)
    assert f"Left out: tiny-llama int8 on {COMPILED}, tiny-llama nf4 on {COMPILED}: {NO_INT8}" in done.stdout.splitlines()
    rows = json.loads(affq("plan", study, "--json", cwd=tmp_path).stdout)
    assert [(row["precision"], row["engine"]) for row in rows] == [
        ("fp32", TRANSFORMERS),
        ("int8", TRANSFORMERS),
        ("nf4", TRANSFORMERS),
        ("fp32", COMPILED),
    ]


def test_study_none_of_whose_combinations_can_be_had_is_refused(write_study):
    with pytest.raises(InputError, match=f"no run is left of study toy .*: smollm2-135m at int8 on {COMPILED}: {NO_INT8}"):
        load_study(write_study(precisions=["int8"], engines=[COMPILED]))


def test_only_chooses_by_engine(write_study, tmp_path):
    study = load_study(write_study(engines=[TRANSFORMERS, COMPILED]))
    chosen = planning.plan(study, tmp_path / "results", Choice(only=("*-compiled",)))
    assert [(planned.precision, planned.engine) for planned in chosen] == [("fp32", COMPILED)]


def test_preview_takes_the_engine_that_is_asked_for_and_refuses_one_that_the_study_lacks(write_study, tmp_path, tiny_llama):
    path = write_study(models=[str(tiny_llama)], precisions=["int8", "bf16"], engines=[TRANSFORMERS, COMPILED])
    study = load_study(path)
    asked = [(None, None), ("bf16", None), (None, COMPILED)]
    assert named(preview._chosen(study, None, *ask) for ask in asked) == [
        ("int8", TRANSFORMERS),  # the first that the study names
        ("bf16", TRANSFORMERS),
        ("bf16", COMPILED),
    ]
    done = affq("try", path, "--engine", "vllm", cwd=tmp_path)
    problem = "study toy has no run of 'tiny-llama' at 'bf16' on 'vllm'; it has: tiny-llama bf16, tiny-llama int8"
    assert (done.returncode, done.stderr) == (2, f"affq: {problem}, tiny-llama bf16 {COMPILED}\n")
    done = affq("try", path, "--engine", TRANSFORMERS, "--prompts", "1", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "Generating 2 texts with tiny-llama at int8 …"


TIMED = [("note", "joy"), ("note", "sadness"), ("day", "joy")]
ALIKE = [1, 2, 3, 4, 5, 6, 7, 8]


def write(record, texts, token_ids, **model):
    """Write a complete run of these six texts, of which three were timed, as these token ids."""
    record.start(ENVIRONMENT)
    record.append([row | {"text": text} for row, text in zip(generations(record.run.study), texts, strict=True)], {})
    (reading,) = timed(record.run.study)["texts"]
    keys = [{"prompt_id": prompt, "emotion": emotion, "sample": 0} for prompt, emotion in TIMED]
    readings = [reading | key | {"token_ids": ids, "new_tokens": len(ids) or 8} for key, ids in zip(keys, token_ids, strict=True)]
    record.keep_pass(1, timed(record.run.study, texts=readings))
    record.finish({**MEASURED, "model": MEASURED["model"] | model})
    return record


def test_texts_of_two_engines_are_compared_by_hand(write_study, tmp_path):
    study = load_study(write_study(precisions=["fp32"], engines=[TRANSFORMERS, COMPILED]))
    usual, other = records.records(tmp_path / "results", study)
    write(usual, ["a b c d"] * 6, [ALIKE] * 3)
    # Two texts of six share two words of four, in order: precision and recall 1/2, F 1/2. One shares none.
    texts = ["a b c d", "a b x y", "a b c d", "x y z w", "a b c d", "a x b y"]
    ids = [ALIKE, [1, 2, 9, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 9, 9]]  # the third and the seventh are the first that differ
    write(other, texts, ids, prompt_ids={"compared": 6, "equal": 4, "first": "day"})
    (row,) = (frame := same_texts([usual, other])).to_dict("records")
    assert list(frame) == SAME_TEXTS
    assert (row["precision"], row["engine"], row["against"], row["against_engine"]) == ("fp32", COMPILED, "fp32", TRANSFORMERS)
    assert row["same_weights"] is True and (row["texts"], row["same"], row["rougeL"]) == (6, 0.5, pytest.approx(4 / 6))
    scored = [RougeScorer(["rougeL"]).score("a b c d", text)["rougeL"].fmeasure for text in texts]
    assert row["rougeL"] == pytest.approx(np.mean(scored))
    assert (row["timed"], row["timed_same"], row["first_token"]) == (3, pytest.approx(1 / 3), 5)  # of 3 and 7
    assert (row["prompts"], row["prompts_same"]) == (6, 4)
    said = words.same_texts(frame).replace("&#45;", "-")
    assert said.splitlines() == [
        f"- **smollm2-135m fp32 {COMPILED}** beside fp32 on transformers (the same weights): 50% of 6 texts are equal, ROUGE-L "
        "0.67; generated alone, 33% of 3 are, the others up to token 4 (median).",
        "  **Its own chat template or tokenizer gives other prompts**: 2 of 6 have other token ids than affq's.",
    ]
    note = Results(study, tmp_path / "results").summary["note"][1]
    assert "its own template or tokenizer gives other token ids for 2 of 6 prompts" in note


def test_texts_timed_to_other_lengths_or_without_token_ids_are_not_compared_token_by_token(write_study, tmp_path):
    study = load_study(write_study(precisions=["fp32"], engines=[TRANSFORMERS, COMPILED]))
    usual, other = records.records(tmp_path / "results", study)
    write(usual, ["a"] * 6, [ALIKE] * 3)
    write(other, ["a"] * 6, [ALIKE[:7], [], ALIKE])
    frame = same_texts([usual, other])
    assert frame[["timed", "timed_same"]].values.tolist() == [[1, 1]]
    assert frame[["first_token", "prompts", "prompts_same"]].isna().all(axis=None)


def test_run_is_compared_with_the_same_weights_where_the_first_engine_has_them(write_study, tmp_path, tiny_bf16):
    engines = [TRANSFORMERS, {"engine": COMPILED, "precisions": [STORED, "bf16", "fp16"]}, SERVER]
    study = load_study(write_study(models=[str(tiny_bf16)], precisions=["fp32", "fp16"], engines=engines))
    every = [complete(record) for record in records.records(tmp_path / "results", study)]
    frame = same_texts(every)
    assert list(zip(frame["precision"], frame["engine"], frame["against"], frame["same_weights"], strict=True)) == [
        ("bf16", COMPILED, "fp32", False),  # no run of the first engine has them: the highest
        ("fp16", COMPILED, "fp16", True),
        (STORED, COMPILED, "fp32", True),  # which fp32 holds without a loss
        (STORED, OPENAI, "fp32", pd.NA),  # whatever the server has
    ]
    assert same_texts(every[1:2]).empty and words.same_texts(same_texts([])).startswith("No run on another engine")


def test_summary_of_several_engines_compares_their_times_and_texts(write_study, tmp_path):
    study = load_study(write_study(precisions=["fp32", "bf16"], engines=[TRANSFORMERS, COMPILED]))
    for record, seconds in zip(records.records(tmp_path / "results", study), (4.0, 3.0, 2.0, 2.5), strict=True):
        write_run(record, ["joy"] * 6, PEAKS, [seconds])
    page = execute.summarize_study(study, tmp_path / "results").read_text()
    for line in (
        f"smollm2-135m on transformers, bf16 against fp32**: {3 / 4:.2f} times the seconds",
        f"smollm2-135m on transformers-compiled, bf16 against fp32**: {2.5 / 2:.2f} times the seconds",
        "135m bf16 transformers-compiled** beside bf16 on transformers (the same weights): 100% of 6 texts are equal",
    ):
        assert line in page
    tables = tmp_path / "results" / "toy" / "draft" / "tables"
    assert pd.read_csv(tables / "engines.csv")["same"].tolist() == [1, 1]
    assert pd.read_csv(tables / "summary.csv")["engine"].tolist() == 2 * [TRANSFORMERS] + 2 * [COMPILED]
    assert (tables.parent / "charts" / "time_against_memory.svg").stat().st_size > 0


def test_what_transformers_would_not_compile_is_refused(write_study, tiny_llama):
    study = load_study(write_study(models=[str(tiny_llama)]))
    for name in (COMPILED, TRANSFORMERS):
        serving = engine_of(Run(study, study.models[0], "int8", AskedEngine(name, name)))
        serving.import_all()
        serving.instruments()
        serving.load()
        if name == COMPILED:
            with pytest.raises(PrecisionError, match=f"{NO_INT8}; leave the engine {COMPILED} out for it"):
                serving.make_ready(study.requests)
        else:
            assert serving.make_ready(study.requests) == {}
        assert serving._network.generation_config.cache_implementation is None


def test_exactly_as_many_tokens_are_made_as_are_asked_for(write_study, tiny_llama):
    run = load_study(write_study(models=[str(tiny_llama)])).run("tiny-llama", "fp32")
    serving = engine_of(run)
    serving.import_all()
    serving.instruments()
    serving.load()
    inputs, steps = serving.prepare(run.study.requests[:2]), []
    made = serving.produce(inputs, 5, lambda: steps.append(1))
    plain = generate.exactly(serving._network, serving._tokenizer, inputs, 5)[:, -5:]
    assert [(list(one.token_ids), one.new_tokens) for one in made] == [(ids, 5) for ids in plain.tolist()] and len(steps) == 5


# In a process of its own: torch's compiler minds what else was imported, as a test's plugins import it.
COMPILE = """
import json, sys
import torch
from affq.models import engine_of
from affq.study import load_study
usual, compiled = map(engine_of, load_study(sys.argv[1]).runs())
requests, graphs = usual.run.study.requests[:2], torch._dynamo.utils.counters["stats"]
for serving in (usual, compiled):
    serving.import_all()
    serving.instruments()
    serving.load()
assert usual.make_ready(requests) == {}
seconds = compiled.make_ready(requests)
first, cache_bytes = compiled.texts(requests)
once = graphs["unique_graphs"]
second, _ = compiled.texts(requests[::-1])
again = once == graphs["unique_graphs"] >= 1
longest = compiled.prepare(requests)["input_ids"].shape[1] + 8
places = [text["emotion"] for text in second]
print(json.dumps([usual.texts(requests)[0] == first, again, places, cache_bytes / longest, seconds["compile_s"]]))
"""


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here, which torch compiles for a CPU by")
def test_compiled_texts_are_the_usual_engines_at_fp32_and_batches_of_one_size_are_compiled_once(write_study, tiny_llama):
    study = write_study(models=[str(tiny_llama)], precisions=["fp32"], engines=[TRANSFORMERS, COMPILED])
    done = subprocess.run([sys.executable, "-c", COMPILE, str(study)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same, once, emotions, bytes_a_token, compile_s = json.loads(done.stdout)
    assert same and once and emotions == ["sadness", "joy"] and compile_s > 0
    # Keys and values of two layers, two heads 32 wide, four bytes each, of two texts.
    assert bytes_a_token == 2 * 2 * 2 * 32 * 4 * 2


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here, which torch compiles for a CPU by")
def test_run_of_the_compiled_engine_says_how_long_it_compiled(write_study, tmp_path, tiny_llama):
    study = write_study(models=[str(tiny_llama)], engines=[COMPILED])
    assert affq("run", study.name, cwd=tmp_path).returncode == 0
    results = Results(load_study(study), tmp_path / "reports")
    assert results.summary[["precision", "engine", "status"]].values.tolist() == [["fp32", COMPILED, "ok"]]
    assert results.time_spent["compile_s"][0] > 1


def test_what_a_server_and_vllm_cannot_have_is_said_before_anything_is_fetched(tiny_llama, tmp_path):
    model, random = sources.Folder(tiny_llama), sources.find_architecture(str(tiny_llama), tmp_path)
    server, vllm = AskedEngine(OPENAI, "local", "http://host/v1", "name"), AskedEngine("vllm", "vllm")
    assert why_not(model, STORED, server, "cpu") is why_not(model, "bf16", vllm, "cpu") is None
    assert why_not(model, "bf16", server, "cpu") == "a server has its weights as it has them: its precision is called stored"
    assert "quantizes nothing" in why_not(model, "nf4", vllm, "cpu")
    for engine, precision in ((server, STORED), (vllm, "bf16")):
        named = sources.Called(random, "another")
        assert why_not(named, precision, engine, "cpu") == "random weights are drawn by transformers alone"
