"""Every command of the README, as it stands there, over a tiny model in the places that the README names.

`make report` and `make test` are run on a clean clone by hand. The hub is a cache in its layout, and the network is off.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import put_into_hub_cache, save_classifier

from affq.analysis.texts import join
from affq.results.record import records
from affq.study import load_study

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M)
PROMPTS = "id,kind,text,text_without_emotion\nnote,general,Write of {emotion}.,Write.\n"


@pytest.fixture(scope="module")
def typed(tmp_path_factory, tiny_llama, tiny_gguf):
    """Run all that the README says to type, in its order, in one folder; give the folder and what was printed."""
    folder = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(tiny_llama, folder / "my-model")
    shutil.copy(tiny_gguf, folder / "my-model.gguf")
    save_classifier(folder / "my-classifier")
    (folder / "mine.csv").write_text(PROMPTS)
    (folder / "texts.jsonl").write_text('{"text": "What a wonderful day this was for all of us!"}\n')
    put_into_hub_cache(folder / "hub", "HuggingFaceTB/SmolLM2-360M-Instruct", tiny_llama)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    printed = {}
    for kind, block in BLOCKS:
        if kind == "yaml":
            with open(folder / "mine.yaml", "w" if block.startswith("# mine.yaml") else "a") as file:
                file.write(block.replace("smollm2-135m, ", ""))  # the large one has its own test
        for line in block.splitlines() if kind == "sh" else ():
            command = line.split("  #")[0].strip()
            done = subprocess.run(
                ["bash", "-c", f". .venv/bin/activate && {command}"], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            printed[command] = done.stdout
    return folder, printed


@pytest.mark.full
def test_every_command_works_as_it_stands(typed):
    folder, printed = typed
    assert len(printed) >= 14
    for study in ("my-model", "mine"):
        assert (folder / "reports" / study / "index.html").stat().st_size > 100_000
    assert {p.name for p in (folder / "reports").iterdir()} == {
        "my-model", "SmolLM2-360M-Instruct", "from-gguf", "my-prompts", "mine", "index.html"
    }  # fmt: skip
    assert "judged_emotion" in (folder / "judged.jsonl").read_text()
    assert (folder / "events.jsonl").read_text().count('"run_ended"') == 2
    assert set(pd.read_csv(folder / "reports" / "mine" / "tables" / "judges.csv")["judge"]) == {"minilm-lora", "my-classifier"}


@pytest.mark.full
def test_output_of_try_is_what_the_readme_shows(typed):
    """But for the seconds, and the texts: those of another processor may be others."""
    _, printed = typed
    (shown,) = [block.splitlines() for kind, block in BLOCKS if kind == "text"]
    tried = printed["affq try mine.yaml --precision bf16 --prompts 3"].splitlines()[2:]
    assert shown[0].split() == tried[0].split() and shown[-1] == tried[-1]
    assert re.sub(r"\d+", "…", shown[-2]) == re.sub(r"\d+", "…", tried[-2])
    assert shown[-2].startswith(f"{sum('≠' not in row for row in shown[1:-2])} of {len(shown) - 3} texts")


@pytest.mark.full
def test_what_people_labelled_is_in_the_next_report(typed):
    folder, _ = typed
    sample = pd.read_csv(folder / "sample.csv", dtype=str, keep_default_na=False)
    assert len(sample) == 4 and list(sample.columns) == ["id", "text", "label"]
    for person, label in (("anna", "joy"), ("ben", "sadness")):
        sample.assign(label=label).to_csv(folder / f"{person}.csv", index=False)
    affq = Path(sys.executable).with_name("affq")
    for words in (["annotate", "mine.yaml", "--labels", "anna.csv", "--labels", "ben.csv"], ["report", "mine.yaml"]):
        subprocess.run([affq, *words], cwd=folder, check=True)
    tables_of = folder / "reports" / "mine" / "tables"
    people = pd.read_csv(tables_of / "people.csv").set_index(["first", "second"])
    assert people.loc[("anna", "ben"), "same"] == 0 and people.loc[("anna", "target"), "same"] == 0.5
    assert pd.read_csv(tables_of / "corrected.csv")["labelled"].tolist() == [2, 2]


@pytest.mark.full
def test_python_of_the_readme_gives_the_frames_it_promises(typed, monkeypatch):
    folder, _ = typed
    monkeypatch.chdir(folder)
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    names = {}
    exec(code, names)
    results = names["results"]
    assert list(results.summary["precision"]) == ["bf16", "int8"] and set(results.summary["status"]) == {"ok"}
    assert len(results.texts) == 2 * 80 and results.texts["judged_emotion"].notna().all()
    assert list(results.differences["precision"].unique()) == ["int8"]
    runs = records("reports", load_study("my-model.yaml"))
    assert results.texts.equals(join(runs))


@pytest.mark.full
def test_notebooks_run_by_hand_from_the_parameters_they_show(tmp_path):
    """As JupyterLab's Run All does, in the notebooks' own folder: no papermill, nothing injected."""
    shutil.copytree(Path(__file__).parents[1] / "notebooks", tmp_path / "notebooks")
    for name in ("1_generate", "2_score", "3_summary"):
        command = [Path(sys.executable).with_name("jupyter"), "execute", f"{name}.ipynb"]
        done = subprocess.run(command, cwd=tmp_path / "notebooks", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    # By hand it is a draft: what affq report published before stays until the next one is whole.
    assert (tmp_path / "reports" / "default" / "draft" / "tables" / "summary.csv").is_file()


def test_every_block_of_the_readme_is_of_a_kind_that_is_tested():
    assert {kind for kind, _ in BLOCKS} == {"", "sh", "yaml", "python", "text"}
    assert "@@" not in README
    plain = [block for kind, block in BLOCKS if not kind]
    assert plain == ["make report\nmake test\n"]
