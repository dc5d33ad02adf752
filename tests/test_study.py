import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from affq.emotions import EMOTIONS, REFERENCES
from affq.errors import InputError
from affq.models import PRECISIONS
from affq.scoring import packaged as packaged_judges
from affq.study import load_study, packaged
from affq.study.study_file import Generation, Measurement, StudyFile, schema

MINIMAL = "models: [smollm2-135m]\nprecisions: [bf16]\n"


def refusal(tmp_path, text):
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_study(path)
    return str(error.value).replace(str(tmp_path), "…")


def test_default_study_is_the_papers_design_at_small_scale():
    study = load_study("default")
    assert {run.model.name for run in study.runs()} == {"smollm2-135m"}
    at_precisions = [("fp32", "transformers"), ("bf16", "transformers"), ("int8", "transformers"), ("nf4", "transformers")]
    assert [(run.precision, run.engine.label) for run in study.runs()] == [*at_precisions, ("stored", "llama.cpp")]
    assert study.emotions == EMOTIONS and len(EMOTIONS) == 7
    assert (study.batch, study.generation.max_new_tokens, study.measurement.texts) == (80, 64, 10)


def test_what_a_study_leaves_out_is_as_in_the_default(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(MINIMAL + "generation: {max_new_tokens: 8}\n")
    toy, default = load_study(path), load_study("default")
    assert toy.generation == Generation(decoding="greedy", max_new_tokens=8)
    assert (toy.prompts, toy.emotions, toy.batch, toy.judges) == (
        default.prompts,
        default.emotions,
        default.batch,
        default.judges,
    )


def test_the_default_study_says_every_default(tmp_path):
    """What another study leaves out is as in the default study, but for engines: its file has every key and agrees."""
    said = yaml.safe_load(packaged()["default"].read_text(encoding="utf-8"))
    given = {key: said[key] for key in ("models", "precisions", "engines")}
    assert StudyFile.model_validate(said) == StudyFile.model_validate(given)
    assert list(said) == list(StudyFile.model_fields)
    for key, value in said.items():
        if isinstance(value, dict):
            assert set(value) == set(type(getattr(StudyFile.model_validate(said), key)).model_fields)


def test_schema_takes_the_packaged_studies_and_refuses_what_the_reader_refuses():
    jsonschema.Draft202012Validator.check_schema(schema())
    study = yaml.safe_load(packaged()["default"].read_text(encoding="utf-8"))
    for path in packaged().values():
        jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema())
    jsonschema.validate(study | {"judges": [{"judge": "owner/name", "labels": {"remorse": "guilt"}}]}, schema())
    for wrong in (
        {"precison": ["bf16"]},
        {"precisions": ["int7"]},
        {"generation": {"tokens": 3}},
        {"batch": 0},
        {"batch": "many"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(study | wrong, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"models": ["smollm2-135m"]}, schema())


def test_schema_describes_every_key_and_names_the_choices():
    sections = {"generation": "Generation", "measurement": "Measurement", "limits": "Limits", "budget": "Budget"}
    keys = [("", key, about) for key, about in schema()["properties"].items()]
    keys += [(name, key, about) for name in sections for key, about in schema()["$defs"][sections[name]]["properties"].items()]
    assert [(section, key) for section, key, about in keys if not about.get("description")] == []
    by_key = {key: about for _, key, about in keys}
    assert by_key["precisions"]["items"]["enum"][0] == "fp32" and by_key["device"]["enum"] == ["auto", "cpu", "cuda"]
    assert (
        by_key["prompts"]["examples"] == ["default", "forty"]
        and "smollm2-135m" in by_key["models"]["items"]["anyOf"][0]["examples"]
    )
    assert by_key["batch"]["description"] == "texts generated together: part of the study, because it changes them"


def test_several_rounds_have_an_aim_that_ends_them(write_study):
    study = load_study(write_study(measurement={"rounds": 3, "aim": 0.05}))
    assert (study.measurement.rounds, study.measurement.aim) == (3, 0.05)
    assert Measurement().aim == 0.05 and load_study("default-full").measurement.aim is None


def test_runs_go_from_the_highest_precision_down_and_the_first_is_the_baseline(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text("models: [smollm2-135m]\nprecisions: [nf4, int8, bf16]\n")
    study = load_study(path)
    assert [run.precision for run in study.runs()] == ["bf16", "int8", "nf4"]
    assert {study.baseline(run).precision for run in study.runs()} == {"bf16"}


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "models: [gpt-7]\nprecisions: [bf16]\n",
            "unknown model 'gpt-7' in …/toy.yaml, line 1; known: phi-4, mistral-7b, gemma-3-27b, mixtral-8x7b, and ",
        ),
        (
            "models: [smollm2-135m]\nprecisions:\n- bf16\n- int7\n",
            f"unknown precision 'int7' in …/toy.yaml, line 4; known: {', '.join(PRECISIONS)}",
        ),
        (MINIMAL + "emotions: [joy, envy]\n", "unknown emotion 'envy' in …/toy.yaml, line 3; known: anger, disgust, fear"),
        (MINIMAL + "precison: [bf16]\n", "unknown key 'precison' in …/toy.yaml, line 3; known: models, precisions"),
        (MINIMAL + "generation: {tokens: 3}\n", "unknown key 'tokens' in …/toy.yaml, line 3; known: decoding, max_new_tokens"),
        (MINIMAL + "batch: 0\n", "batch in …/toy.yaml, line 3 must be a whole number from 1 to 1,000,000; found 0"),
        (MINIMAL + "batch: true\n", "batch in …/toy.yaml, line 3 must be a whole number from 1 to 1,000,000; found True"),
        (MINIMAL + "samples: 3\n", "samples in …/toy.yaml, line 3 must be 1: greedy decoding gives the same text each time"),
        (MINIMAL + "samples: none\n", "samples in …/toy.yaml, line 3 must be a whole number from 1 to 1,000,000; found 'none'"),
        (
            MINIMAL + "generation: {decoding: beam}\n",
            "unknown decoding 'beam' in …/toy.yaml, line 3; known: greedy, sampled",
        ),
        (
            MINIMAL + "generation: {temperature: 0.7}\n",
            "temperature in …/toy.yaml, line 3 goes with decoding: sampled, not greedy",
        ),
        *(
            (
                MINIMAL + f"samples: 2\ngeneration:\n  decoding: sampled\n  temperature: {value}\n",
                f"temperature in …/toy.yaml, line 6 must be between 0 and 100; found {found}",
            )
            for value, found in (("0", "0"), ("-1", "-1"), (".nan", "nan"), ("true", "True"), ("100", "100"), ("null", "None"))
        ),
        (MINIMAL + "models: [a]\n", "…/toy.yaml, line 3: 'models' is given twice"),
        (
            MINIMAL + "judges: [oracle]\n",
            f"unknown judge 'oracle' in …/toy.yaml, line 3; known: {', '.join(packaged_judges())}, or",
        ),
        (
            MINIMAL + "prompts: mine.csv\n",
            "no such prompts 'mine.csv' in …/toy.yaml, line 3; known: default, forty, or a .csv file beside the study",
        ),
        ("models: [smollm2-135m]\nprecisions: [bf16, bf16]\n", "precision 'bf16' in …/toy.yaml, line 2 is named twice"),
        ("models: [smollm2-135m]\n", "…/toy.yaml names no precisions; a study needs models and precisions"),
        ("models: [smollm2-135m\nprecisions: [bf16]\n", "…/toy.yaml, line 2, column 11: expected ',' or ']'"),
        (
            MINIMAL + "engines: [eager]\n",
            "unknown engine 'eager' in …/toy.yaml, line 3; known: transformers, transformers-compiled",
        ),
        (MINIMAL + "engines: []\n", "engines in …/toy.yaml, line 3 must be a list of names, with one at least; found []"),
        (MINIMAL + "engines:\n- transformers\n- {engine: eager}\n", "unknown engine 'eager' in …/toy.yaml, line 5; known: "),
        (
            MINIMAL + "engines: [{engin: transformers}]\n",
            "unknown key 'engin' in …/toy.yaml, line 3; known: engine, openai, model, of",
        ),
        (
            MINIMAL + "engines: [{engine: transformers, precisions: [int7]}]\n",
            "unknown precision 'int7' in …/toy.yaml, line 3; known",
        ),
        (
            MINIMAL + "engines: [{engine: transformers, precisions: [bf16, bf16]}]\n",
            "precision 'bf16' in …/toy.yaml, line 3 is named twice",
        ),
        (
            MINIMAL + "engines: [transformers, {engine: transformers, precisions: [fp32]}]\n",
            "two engines are called transformers (…/toy.yaml, line 3); leave one out, or give a server a name: …",
        ),
        *(
            (
                MINIMAL + f"engines: [{{engine: transformers, {key}: smollm2-135m}}]\n",
                f"{key} in …/toy.yaml, line 3 goes with openai: an address, not with engine: transformers",
            )
            for key in ("model", "of", "name")
        ),
        *(
            (
                MINIMAL + f"engines: [{entry}]\n",
                "an engine in …/toy.yaml, line 3 must be a name, or {openai: an address, model: its name there}; known: ",
            )
            for entry in ("{}", "{engine: transformers, openai: 'http://localhost:8080/v1', model: m}")
        ),
        *(
            (MINIMAL + f"engines: [{{openai: 'http://localhost:8080/v1'{rest}}}]\n", said)
            for rest, said in (
                ("", "openai in …/toy.yaml, line 3 needs model: the name of the model there"),
                (", model: ''", "model in …/toy.yaml, line 3 must be a text; found ''"),
                (", model: m, of: other", "of in …/toy.yaml, line 3 is no model of this study: 'other'; known: smollm2-135m"),
                (", model: m, name: a b", "name in …/toy.yaml, line 3 must be a word such as my-server; found 'a b'"),
                (", model: m, name: transformers", "two engines are called transformers (…/toy.yaml, line 3)"),
                (
                    ", model: m}, {openai: 'http://localhost:80/v1', model: n",
                    "two engines are called openai (…/toy.yaml, line 3)",
                ),
            )
        ),
        (
            "models: [smollm2-135m, phi-4]\nprecisions: [bf16]\nengines:\n- {openai: 'http://localhost:8080/v1', model: m}\n",
            "openai in …/toy.yaml, line 4 does not say which of the study's models the server has; add of: smollm2-135m | phi-4",
        ),
        (
            MINIMAL + "measurement:\n  rounds: 3\n  aim: null\n",
            "measurement in …/toy.yaml, line 5 has 3 rounds and no aim; aim: 0.03 ends them when the median's interval is 3 % "
            "wide",
        ),
        (MINIMAL + "measurement: {rounds: 2, aim: 3}\n", "aim in …/toy.yaml, line 3 must be between 0 and 1; found 3"),
        (MINIMAL + "limits: {run_s: 0}\n", "run_s in …/toy.yaml, line 3 must be a whole number from 1 to 31,536,000; found 0"),
        (
            MINIMAL + "limits: 3\n",
            "limits in …/toy.yaml, line 3 must be a mapping with keys of: cell_s, run_s; found 3",
        ),
        (
            "models: [smollm2-135m, 7]\nprecisions: [bf16]\n",
            "a model in …/toy.yaml, line 1 must be a name, or {model: its name, name: another}; found 7",
        ),
        (MINIMAL + "emotions: []\n", "emotions in …/toy.yaml, line 3 must be a list of names, with one at least; found []"),
        (MINIMAL + "prompts: 5\n", "prompts in …/toy.yaml, line 3 must be a text; found 5"),
        (MINIMAL + "7: seven\n", "unknown key 7 in …/toy.yaml, line 1; known: models"),
        (
            MINIMAL + "judges:\n- minilm-lora\n- {judge: minilm-lora, label: {}}\n",
            "unknown key 'label' in …/toy.yaml, line 5; known: judge, labels",
        ),
        (
            MINIMAL + "judges: [{labels: {remorse: guilt}}]\n",
            "a judge in …/toy.yaml, line 3 must be a name, or {judge: its name, labels: {its label: emotion}}; found {'labels': ",
        ),
        ("modles: [a]\nprecisions: [bf16]\n", "unknown key 'modles' in …/toy.yaml, line 1; known: models"),
        (
            "precisions: [int7]\nmodels: [smollm2-135m]\nbatch: 0\nseed: -1\n",
            "unknown precision 'int7' in …/toy.yaml, line 1",
        ),
        (
            "seed: -1\nmodels: [smollm2-135m]\nprecisions: [int7]\n",
            "seed in …/toy.yaml, line 1 must be a whole number from 0 to 4,294,967,295; found -1",
        ),
        (MINIMAL + "seed: \x07\n", "…/toy.yaml holds a character that YAML does not allow"),
        ("just words\n", "…/toy.yaml holds no study"),
        ("", "…/toy.yaml holds no study"),
    ],
)
def test_bad_study_is_refused_with_value_place_and_choices(tmp_path, text, said):
    assert refusal(tmp_path, text).startswith(said)


def test_bad_prompts_and_references_are_said_with_the_study(write_study, tmp_path):
    (tmp_path / "bad.csv").write_text("id,kind,text,text_without_emotion\na,general,no slot,x\n")
    with pytest.raises(InputError, match="bad.csv, line 2: the text of prompt 'a' has no {emotion}"):
        load_study(write_study(prompts="bad.csv"))
    (tmp_path / "bad.jsonl").write_text('{"emotion": "joy", "text": "x"}\n')
    with pytest.raises(InputError, match="bad.jsonl has no reference text for sadness"):
        load_study(write_study(references="bad.jsonl"))


def test_unknown_study_names_those_there_are():
    known = "default, default-40, default-full, engines, load, long, paper, paper-random"
    with pytest.raises(InputError, match=f"unknown study 'defualt'; known: {known}; or give the path"):
        load_study("defualt")


def test_model_may_be_a_folder_beside_the_study(write_study, tiny_llama):
    study = load_study(write_study(models=[str(tiny_llama)]))
    (model,) = study.models
    assert (model.name, model.folder, model.stored_dtype) == ("tiny-llama", tiny_llama, "float32")


SAMPLED = {"decoding": "sampled", "max_new_tokens": 8, "temperature": 1}


def test_sampled_study_has_a_temperature_and_counts_its_samples(write_study):
    study = load_study(write_study(generation=SAMPLED, samples=3, seed=5))
    assert study.generation.model_dump() == SAMPLED and study.sampling == {"temperature": 1.0, "seed": 5}
    # Two prompts, two emotions, three samples; and the two prompts of the control, once each.
    assert (study.texts_asked, study.texts_wanted) == (12, 14)
    assert load_study(write_study(generation=SAMPLED)).texts_wanted == 6
    assert load_study("default").sampling is None


def test_greedy_study_knows_no_temperature_so_that_ids_stay_what_they_were(write_study):
    settings = load_study(write_study()).runs()[0].settings
    assert settings["generation"] == {"decoding": "greedy", "max_new_tokens": 8} and settings["samples"] == 1
    assert load_study("default").runs()[0].id == "smollm2-135m--fp32--22d4a1f95b"  # since its batch is 80


def test_id_changes_with_temperature_and_samples(write_study):
    changes = [{}, {"samples": 2}, {"generation": SAMPLED | {"temperature": 0.5}}]
    assert len({load_study(write_study(**{"generation": SAMPLED} | change)).runs()[0].id for change in changes}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 3},
        {"seed": 1},
        {"emotions": ["joy"]},
        {"generation": {"max_new_tokens": 9}},
        {"measurement": {"texts": 3}},
        {"prompts": "default"},
    ],
)
def test_id_changes_with_what_changes_a_text_or_a_reading(write_study, change):
    before = load_study(write_study()).runs()[0].id
    assert load_study(write_study(**change)).runs()[0].id != before


def test_id_does_not_change_with_device_or_references(write_study, tmp_path):
    before = load_study(write_study()).runs()[0].id
    (tmp_path / "other.jsonl").write_text('{"emotion": "joy", "text": "x"}\n{"emotion": "sadness", "text": "y"}\n')
    assert load_study(write_study(device="cpu", references="other.jsonl")).runs()[0].id == before


def test_id_does_not_change_with_an_empty_line_of_the_prompts(write_study, tmp_path):
    before = load_study(write_study()).runs()[0].id
    with open(tmp_path / "two.csv", "a") as file:
        file.write("\n,,,\n")
    assert load_study(tmp_path / "toy.yaml").runs()[0].id == before


def test_id_of_a_folder_changes_with_its_weights(write_study, tiny_llama, tmp_path):
    import shutil

    copy = shutil.copytree(tiny_llama, tmp_path / "tiny-llama")
    before = load_study(write_study(models=[str(tiny_llama)])).runs()[0].id
    assert load_study(write_study(models=["tiny-llama"])).runs()[0].id == before
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert load_study(write_study(models=["tiny-llama"])).runs()[0].id != before


KEYS = [
    "device",
    "prompts",
    "emotions",
    "batch",
    "samples",
    "measurement",
    "generation",
    "judges",
    "references",
    "juges",
]
VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=2)
MAPPINGS = st.dictionaries(st.sampled_from(["texts", "new_tokens", "decoding", "temperature", "x"]), VALUES, max_size=2)
NAMES = st.just(["smollm2-135m"]) | st.lists(st.text(max_size=5) | st.just("~nobody/m"), max_size=2) | VALUES


@given(st.fixed_dictionaries({"models": NAMES}), st.dictionaries(st.sampled_from(KEYS), VALUES | MAPPINGS))
def test_any_mapping_is_read_or_refused_in_one_sentence(tmp_path_factory, models, values):
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_text(yaml.safe_dump({"precisions": ["bf16"], **models, **values}), encoding="utf-8")
    try:
        load_study(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_references_are_ten_an_emotion_and_of_like_length():
    import json

    rows = [json.loads(line) for line in (REFERENCES).read_text(encoding="utf-8").splitlines()]
    assert len({row["text"] for row in rows}) == len(rows)
    for emotion in EMOTIONS:
        of = [row["text"] for row in rows if row["emotion"] == emotion]
        assert len(of) >= 10 and all(30 <= len(text.split()) <= 60 for text in of)
