"""The house holds its shape: imports go down, rooms show what is public, its page is true, notebooks are templates."""

import ast
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import architecture
import nbformat
import papermill
import pytest
import yaml

import affq

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True).stdout.split()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

ROOMS = architecture.rooms()


def test_imports_go_down_the_house():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "3 kept, 0 broken" in done.stdout, done.stdout


def imported(source):
    """Yield (room, name) of each import from a room of affq; name is that of a module where one is imported whole."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("affq."):
            room, *inside = node.module.split(".")[1:]
            yield from ((room, ".".join([*inside, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((*alias.name.split(".", 2)[1:], "")[:2] for alias in node.names if alias.name.startswith("affq."))


def public(room):
    """List what the stub of a room shows."""
    stub = ast.parse((ROOT / "affq" / room / "__init__.pyi").read_text(encoding="utf-8"))
    return {alias.asname for node in stub.body for alias in node.names}


def test_other_rooms_use_public_names_alone():
    shown = {path.parent.name: public(path.parent.name) for path in (ROOT / "affq").glob("*/__init__.pyi")}
    assert set(shown) == {room for room in ROOMS if (ROOT / "affq" / room).is_dir()}
    used = {}
    for path in (ROOT / "affq").rglob("*.py"):
        own = path.relative_to(ROOT / "affq").parts[0]
        for room, name in imported(path.read_text(encoding="utf-8")):
            if room in shown and room != own:
                used.setdefault(f"{room}.{name}", (name in shown[room], path.name))
    for path in NOTEBOOKS:
        code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        used |= {f"{room}.{name}": (name in shown[room], path.name) for room, name in imported(code) if room in shown}
    assert len(used) > 20 and {name: place for name, (is_public, place) in used.items() if not is_public} == {}


def test_names_that_affq_itself_shows_are_those_of_its_stub():
    assert set(affq.__all__) == public("")
    assert all(hasattr(affq, name) for name in affq.__all__)


def test_public_names_are_there():
    for room in (path.parent.name for path in (ROOT / "affq").glob("*/__init__.pyi")):
        module = importlib.import_module(f"affq.{room}")
        assert public(room) == set(dir(module)) and all(getattr(module, name) is not None for name in public(room))


def test_page_of_the_house_is_that_of_the_docstrings():
    assert architecture.PAGE.read_text(encoding="utf-8") == architecture.page()  # python scripts/architecture.py writes it


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_a_template(path):
    node = nbformat.read(path, as_version=4)
    nbformat.validate(node)
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])] == [0]
    assert all(isinstance(ast.literal_eval(statement.value), str | int) for statement in ast.parse(code[0].source).body)
    assert all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in ast.parse(code[1].source).body)
    for cell in code:
        assert not any(isinstance(n, ast.FunctionDef | ast.Lambda | ast.ClassDef) for n in ast.walk(ast.parse(cell.source)))
        assert len(cell.source.splitlines()) <= 15


def test_papermill_sees_the_parameters():
    assert {p.stem: set(papermill.inspect_notebook(str(p))) for p in NOTEBOOKS} == {
        "1_generate": {"study", "model", "precision", "engine", "results", "process"},
        "2_score": {"study", "results"},
        "3_summary": {"study", "results"},
        "4_explore": {"study", "results"},
        "5_annotate": {"study", "results", "sample", "person"},
        "6_load": {"study", "model", "precision", "engine", "results"},
        "7_soak": {"study", "model", "precision", "engine", "results", "minutes"},
    }


def test_wheel_carries_notebooks_and_data_and_works_outside_a_clone(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("affq-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {p for p in TRACKED if p.startswith("affq/")} | {f"affq/{p}" for p in TRACKED if p.startswith("notebooks/")}
    plan = [sys.executable, "-c", "from affq.cli import entry; entry()", "plan", "default"]
    done = subprocess.run(
        plan, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert done.stdout.count("missing") == 5, done.stderr


def test_conda_environment_installs_what_the_makefile_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert {"pip": ["--requirement requirements.lock", "--editable ."]} in environment["dependencies"]


def test_lock_is_exact_without_local_tags_and_within_the_ranges():
    import tomllib

    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#"))
    assert not any("+" in version for version in pins.values()) and pins["torch"] == "2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[wanted.name.lower()]) and "<" in str(wanted.specifier)
