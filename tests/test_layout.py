"""The house holds its shape: imports run one way, the README's tree is the tree, notebooks are templates."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True).stdout.split()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Each module may import those named here, and nothing else of affq but its root.
MAY_IMPORT = {
    "precisions": set(),
    "weights": set(),
    "generate": set(),
    "measure": set(),
    "probes": set(),
    "interference": {"probes"},
    "kernels": set(),
    "scores": set(),
    "compare": set(),
    "choose": set(),
    "claims": {"choose", "precisions", "settings"},
    "power": set(),
    "words": set(),
    "prompts": set(),
    "publish": set(),
    "exports": set(),
    "index": {"files"},
    "checkpoints": set(),
    "settings": set(),
    "files": set(),
    "locks": {"files"},
    "endings": {"estimate", "precisions", "probes"},
    "provenance": {"study"},
    "plan": {"comparison", "prompts", "provenance", "records", "tables"},
    "hub": {"checkpoints", "weights"},
    "architectures": {"weights"},
    "sources": {"architectures", "checkpoints", "hub", "weights"},
    "study": {"claims", "classifiers", "files", "judge", "precisions", "prompts", "settings", "sources", "weights"},
    "estimate": {"measure", "precisions"},
    "memory": {"models", "precisions", "prompts"},
    "progress": {"estimate"},
    "experts": set(),
    "models": {"architectures", "checkpoints", "experts", "precisions"},
    "charts": {"precisions"},
    "judge": {"weights"},
    "classifiers": {"files", "judge", "scores", "sources"},
    "judge_card": {"judge"},
    "judging": {"classifiers", "judge", "scores", "study"},
    "agreement": {"comparison", "tables"},
    "batching": {"tables"},
    "comparison": {"choose", "compare", "power"},
    "verdicts": {"claims", "compare", "resources"},
    "comparison_words": {"choose", "compare", "comparison", "words"},
    "annotation": {"agreement", "correction", "scores", "tables"},
    "correction": set(),
    "judge_words": {"words"},
    "labels": {"files", "records"},
    "notes": {"files", "records"},
    "keys": set(),
    "lab": {"provenance", "records", "study"},
    "explore": {"annotation", "choose", "comparison", "prompts", "records", "study", "tables"},
    "explorer": {"charts", "choose", "explore", "keys", "notes", "tables"},
    "annotator": {"annotation", "explore", "files", "keys", "labels", "records", "scores", "study", "tables"},
    "own_study": {"files", "settings", "study"},
    "judge_training": {"charts", "judge", "judge_card", "scores", "study", "weights"},
    "scored": {"files", "provenance", "weights"},
    "records": {"files", "provenance", "scored", "weights"},
    "resources": {"compare", "interference"},
    "tables": {"compare", "comparison", "resources", "scores"},
    "execute": {"endings", "estimate", "labels", "locks", "plan", "probes", "progress", "provenance", "records"},
    "doctor": {"estimate", "execute", "provenance", "study", "trials", "weights"},
    "perplexity": {"models", "scores"},
    "text_quality": {"scores"},
    "trials": {"generate", "models", "precisions", "probes"},
    "cli": {"annotation", "comparison_words", "doctor", "execute", "files", "index", "judging", "lab", "labels", "memory"}
    | {"own_study", "plan", "progress", "publish", "records", "study", "tables", "words"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "affq":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("affq."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("affq."))


@pytest.mark.parametrize("module", sorted(p.stem for p in (ROOT / "affq").glob("*.py") if p.stem != "__init__"))
def test_imports_run_one_way(module):
    found = set(imported(ROOT / "affq" / f"{module}.py")) - {"InputError", "__version__", "printable", "without_places"}
    assert found <= MAY_IMPORT[module]


def test_one_module_each_for_papermill_and_for_charts():
    uses = {
        library: [
            p.stem for p in (ROOT / "affq").glob("*.py") if re.search(rf"^\s*(import|from) {library}\b", p.read_text(), re.M)
        ]
        for library in ("papermill", "seaborn")
    }
    assert uses == {"papermill": ["execute"], "seaborn": ["charts"]}


def test_modules_stay_thin():
    assert {p.name: n for p in (ROOT / "affq").glob("*.py") if (n := len(p.read_text().splitlines())) > 300} == {}


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
        "1_generate": {"study", "model", "precision", "results", "process"},
        "2_score": {"study", "results"},
        "3_summary": {"study", "results"},
        "4_explore": {"study", "results"},
        "5_annotate": {"study", "results", "sample", "person"},
    }


def test_readme_tree_names_every_file_and_no_other():
    tree = re.search(r"```\n(affq/ .*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]
    folder, named = [], set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.split(r"\s{2,}|#", line.strip())[0].split(", "):
            folder[depth:] = [name.rstrip("/")]
            named.add("/".join(folder[1:]) + ("/" if name.endswith("/") else ""))
    named.discard("/")
    tops = {f"{path.split('/')[0]}/" if "/" in path else path for path in TRACKED}
    inside = {p for p in TRACKED if re.fullmatch(r"(affq|notebooks|tests)/[^/]+", p)}
    missing = {p for p in tops | inside if p not in named and not re.fullmatch(r"tests/test_\w+\.py", p)}
    assert missing == set()
    gone = {p for p in named if "<" not in p and "*" not in p and not any(t == p or t.startswith(p) for t in TRACKED)}
    assert gone == set()


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
    assert done.stdout.count("missing") == 4, done.stderr


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
