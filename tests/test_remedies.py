"""What affq says is to be done: each remedy that can be tried cheaply is followed to the letter, and then the fault is gone."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import affq, complete
from test_errors import HEAD, MINIMAL, ROW

from affq import cli
from affq.errors import InputError
from affq.models import sources, weights
from affq.results import records
from affq.study import load_study

HOME = "set HOME to a folder that you can write to"


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Type a command in a folder without results: its status, and what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        done = affq(*words, cwd=tmp_path)
        return done.returncode, done.stderr or done.stdout

    return run


# What is wrong, the remedy that is given, what comes of following it.
STUDIES = [
    (
        MINIMAL + "samples: 3\n",
        "generation: {decoding: sampled, temperature: 0.7}",
        MINIMAL + "samples: 3\ngeneration: {decoding: sampled, temperature: 0.7}\n",
    ),
    (MINIMAL + "measurement: {rounds: 3, aim: null}\n", "aim: 0.03", MINIMAL + "measurement: {rounds: 3, aim: 0.03}\n"),
    (MINIMAL + "engines: [eager]\n", "known: transformers", MINIMAL + "engines: [transformers]\n"),
    (MINIMAL + "perplexity: gpt-7\n", "or null", MINIMAL + "perplexity: null\n"),
    (MINIMAL + "claims: mine.yaml\n", "known: paper", MINIMAL + "claims: paper\n"),
    ("models: [smollm2-135m]\n", "a study needs models and precisions", MINIMAL),
]


@pytest.mark.parametrize("wrong, remedy, mended", STUDIES)
def test_remedy_of_a_study_file_mends_it(tmp_path, wrong, remedy, mended):
    path = tmp_path / "toy.yaml"
    path.write_text(wrong)
    with pytest.raises(InputError, match=re.escape(remedy)):
        load_study(path)
    path.write_text(mended)
    load_study(path)


PROMPTS = [
    (HEAD + "note,general,Write.,Write.\n", "put it where the emotion goes", HEAD + ROW),
    (HEAD + "note,general,Write of {emotion}.,Of {emotion}.\n", "ask for none there", HEAD + ROW),
    (HEAD + ROW + ROW, "give each prompt its own", HEAD + ROW + ROW.replace("note", "again")),
    ((HEAD + ROW).replace(",", ";"), "save it with commas", HEAD + ROW),
    (HEAD, "add a line of id,kind,text,text_without_emotion", HEAD + ROW),
]


@pytest.mark.parametrize("wrong, remedy, mended", PROMPTS)
def test_remedy_of_a_prompt_file_mends_it(tmp_path, wrong, remedy, mended):
    (tmp_path / "toy.yaml").write_text(MINIMAL + "prompts: mine.csv\n")
    (tmp_path / "mine.csv").write_text(wrong)
    with pytest.raises(InputError, match=re.escape(remedy)):
        load_study(tmp_path / "toy.yaml")
    (tmp_path / "mine.csv").write_text(mended)
    load_study(tmp_path / "toy.yaml")


@pytest.mark.parametrize("name", ["my study.yaml", "default .yaml", "a+b.yml"])
def test_name_that_a_study_is_to_be_given_is_one_that_it_can_have(tmp_path, name):
    (tmp_path / name).write_text(MINIMAL)
    with pytest.raises(InputError) as error:
        load_study(tmp_path / name)
    other = re.search(r"rename it, to (\S+) for instance", str(error.value))[1]
    (tmp_path / name).rename(tmp_path / other)
    load_study(tmp_path / other)


def test_command_that_a_message_names_is_typed_as_it_stands(typed, tmp_path, tiny_llama):
    """In folders with a space in their name, and with results elsewhere."""
    folder = tmp_path / "my models"
    shutil.copytree(tiny_llama, folder / "tiny")
    (folder / "mine.yaml").write_text("models: [./tiny]\nprecisions: [bf16, fp32]\n")

    status, said = typed("plan", "my models/mine.yaml", "--precisions", "fp32")
    words = shlex.split(said.partition("; ")[2].partition(" chooses")[0])
    assert status == 2 and words[:2] == ["affq", "plan"]
    status, said = typed(*words[1:])
    assert status == 0 and "--fp32" in said and "--bf16" not in said

    status, said = typed("report", "my models/mine.yaml", "--results", "all results")
    words = shlex.split(said.partition("; ")[2].removesuffix(" first\n"))
    assert status == 2 and words == ["affq", "run", "my models/mine.yaml", "--results", "all results"]
    complete(records(words[-1], load_study(words[2]))[0])  # as affq run would
    with pytest.raises(InputError, match="no run of study mine in .* is complete"):
        cli_need("my models/mine.yaml", "reports")
    cli_need("my models/mine.yaml", "all results")

    (tmp_path / "tiny.yaml").write_text("models: [smollm2-135m]\nprecisions: [bf16]\n")
    status, said = typed("plan", "./my models/tiny")
    writes = said.partition("runs it, ")[2].partition(" writes another")[0].replace("NAME", "another")
    assert status == 2 and typed(*shlex.split(writes)[1:])[0] == 0 and load_study("another.yaml").models[0].name == "tiny"


def cli_need(study, results):
    from affq.runner import execute

    execute._need_complete(load_study(study), results)


def test_file_that_is_to_be_named_itself_is_found_by_that_name(tmp_path, tiny_gguf):
    shutil.copytree(tiny_gguf.parent, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError) as error:
        sources.find("./model", tmp_path)
    path = str(error.value).partition("name the file itself: ")[2]
    assert sources.find(path, tmp_path).name == "tiny"


def test_cache_that_cannot_be_written_is_had_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    with pytest.raises(InputError, match="cannot be written: Not a directory; let XDG_CACHE_HOME name a folder that you can"):
        with weights.filling(weights.cache() / "tiny", 0):
            pass
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "free"))
    with weights.filling(weights.cache() / "tiny", 0) as (_, fresh):
        fresh.mkdir()
    assert (tmp_path / "free" / "affq" / "tiny").is_dir()


def test_without_a_home_folder_affq_asks_for_one_and_goes_on_with_it(typed, tmp_path, monkeypatch):
    home = Path.home
    monkeypatch.setattr(Path, "home", lambda: home() if "HOME" in cli.os.environ else without())
    monkeypatch.delenv("HOME")

    def without():
        raise RuntimeError("Could not determine home directory.")

    status, said = typed("study", "default")
    assert (status, said.count("\n")) == (2, 1) and said.endswith(f"; {HOME}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed("study", "default")[0] == 0
