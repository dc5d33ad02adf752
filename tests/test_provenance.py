"""What makes runs and scores stale: every file that can change a text, a reading or a score is changed, in a copy."""

import ast
import json
import shutil

import nbformat
import pytest
from conftest import complete, judgements, said_of

from affq.results import provenance
from affq.results.record import records
from affq.study import load_study

# Why no digest covers them: see provenance.
OUTSIDE = {"report", "analysis", "widgets", "runner", "cli", "results", "files", "errors", "imports"}
NOTEBOOKS = {"1_generate": provenance.GENERATING, "2_score": provenance.SCORING}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A copy of package and notebooks, which the digests are taken of."""
    shutil.copytree(provenance.PACKAGE, tmp_path / "affq", ignore=shutil.ignore_patterns("__pycache__", "notebooks"))
    shutil.copytree(provenance.NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "affq")
    monkeypatch.setattr(provenance, "NOTEBOOKS", tmp_path / "notebooks")
    forget()
    yield tmp_path
    forget()


def forget():
    provenance.software.cache_clear()
    provenance.scoring.cache_clear()


def digests():
    return {notebook: provenance.code_digest(rooms, notebook) for notebook, rooms in NOTEBOOKS.items()}


def moved(before):
    now = digests()
    return {notebook for notebook in before if before[notebook] != now[notebook]}


def test_each_file_of_code_moves_the_digests_that_it_belongs_to_and_no_other(house):
    before, changed = digests(), 0
    for path in (house / "affq").rglob("*.py"):
        room, code = path.relative_to(house / "affq").parts[0].removesuffix(".py"), path.read_bytes()
        path.write_bytes(code + b"\n")
        wanted = {notebook for notebook, rooms in NOTEBOOKS.items() if room in (*rooms, "emotions")}
        assert moved(before) == wanted, path
        path.write_bytes(code)
        changed += bool(wanted)
    assert changed > 30 and moved(before) == set()


def test_a_file_that_is_new_gone_or_renamed_moves_them(house):
    before = digests()
    (house / "affq" / "models" / "new.py").touch()
    assert moved(before) == {"1_generate", "2_score"}
    before = digests()
    (house / "affq" / "models" / "new.py").rename(house / "affq" / "models" / "other.py")
    assert moved(before) == {"1_generate", "2_score"}


def rooms_of(source):
    """List the rooms that code imports from."""
    imports = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module)
    names = [(node.module, alias.name) for node in imports for alias in node.names]
    return {f"{module}.{name}".split(".")[1] for module, name in names if module.split(".")[0] == "affq"}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_room_that_a_notebook_reaches_is_in_its_digest_or_left_out_on_purpose(notebook):
    node = nbformat.read(provenance.NOTEBOOKS / f"{notebook}.ipynb", as_version=4)
    ahead = rooms_of("\n".join(cell.source for cell in node.cells if cell.cell_type == "code"))
    reached = set()
    while ahead := ahead - reached:
        reached |= ahead
        files = [path for room in ahead for path in (*provenance.PACKAGE.glob(f"{room}/*.py"), provenance.PACKAGE / f"{room}.py")]
        ahead = set().union(*(rooms_of(path.read_text(encoding="utf-8")) for path in files if path.is_file()))
    on_purpose = OUTSIDE | ({"scoring"} if notebook == "1_generate" else set())
    assert {"models", "study"} < reached and reached - on_purpose <= {*NOTEBOOKS[notebook], "emotions"}


def change(notebook, edit):
    node = json.loads(notebook.read_text(encoding="utf-8"))
    edit(node["cells"])
    notebook.write_text(json.dumps(node), encoding="utf-8")


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_each_cell_that_is_dropped_moves_the_notebooks_digest_and_parameters_text_and_outputs_do_not(house, notebook):
    path = house / "notebooks" / f"{notebook}.ipynb"
    before, whole = digests(), path.read_bytes()
    for number, cell in enumerate(json.loads(whole)["cells"]):
        code = cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
        change(path, lambda cells, number=number: cells.pop(number))
        assert moved(before) == ({notebook} if code else set()), cell["source"]
        path.write_bytes(whole)
    change(path, lambda cells: [cell.update(outputs=["x"], execution_count=1) for cell in cells if cell["cell_type"] == "code"])
    assert moved(before) == set()


@pytest.fixture
def record(house, write_study):
    record = complete(records(house / "results", load_study(write_study()))[0])
    for scorer in ("judge", "judge-masked"):
        record.score(scorer, {}, lambda _, record=record: judgements(record))
    return record


def test_scores_are_stale_once_labels_are_added_up_otherwise(house, record):
    assert not record.scores_are_stale("judge") and not record.scores_are_stale("never made")
    path = house / "affq" / "scoring" / "classifiers.py"
    code = path.read_text(encoding="utf-8")
    assert ".sum(" in code  # of the labels that stand for one emotion
    path.write_text(code.replace(".sum(", ".max("), encoding="utf-8")
    forget()
    assert record.scores_are_stale("judge") and said_of(record) == ("ok", "")  # the texts are what they were
    record.score("judge", {}, lambda _: judgements(record, "sadness"))
    assert record.scores("judge") == judgements(record, "sadness") and not record.scores_are_stale("judge")


def test_scores_that_2_score_makes_no_more_are_stale(house, record):
    def drop_masking(cells):
        (cell,) = (cell for cell in cells if "-masked" in "".join(cell["source"]))
        cells.remove(cell)

    change(house / "notebooks" / "2_score.ipynb", drop_masking)
    forget()
    assert record.scores_are_stale("judge-masked")


@pytest.mark.parametrize("library", provenance.SCORING_LIBRARIES)
def test_scores_of_another_version_of_a_library_are_stale(record, library, monkeypatch):
    version = provenance.version
    monkeypatch.setattr(provenance, "version", lambda name: "0.0" if name == library else version(name))
    forget()
    assert record.scores_are_stale("judge")


def test_run_is_stale_once_a_file_that_makes_its_texts_or_readings_has_changed(house, record):
    for name in ("models/checkpoints.py", "inference/measure.py", "stats/compare.py", "study/study.py", "emotions.py"):
        path = house / "affq" / name
        code = path.read_bytes()
        path.write_bytes(code + b"# a comment counts too\n")
        forget()
        assert said_of(record) == ("stale", "the generating code changed"), name
        path.write_bytes(code)
    forget()
    assert said_of(record) == ("ok", "")
