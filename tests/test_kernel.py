"""A real kernel in the environment of somebody who has set much: nothing of that reaches what is measured."""

import json
import os
import sys

import nbformat
import pytest

from affq.results import locks
from affq.runner import execute, kernel

MARKS = "open({executed!r}, 'a').write(__file__ + '\\n')\n"
LOOK = """
import importlib.util, json, os, random, sys
import affq, torch
names = ("HF_TOKEN", "PYTHONSTARTUP", "MPLBACKEND", "ONEDNN_DEFAULT_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE")
seen = {
    "affq": affq.__file__,
    "python": sys.prefix,
    "dtype": str(torch.get_default_dtype()),
    "vision": importlib.util.find_spec("torchvision_of_nobody") is not None,
    "variables": [os.environ.get(name) for name in names],
    "ipython": os.environ["IPYTHONDIR"],
    "connection": os.path.dirname(get_ipython().config.IPKernelApp.connection_file),
    "path": sys.path,
}
print("seen", json.dumps(seen))
"""


@pytest.fixture
def trapped(tmp_path, monkeypatch):
    """Code and settings of the user wherever Python, IPython and Jupyter would look; give the file that they write to."""
    executed = tmp_path / "executed"
    code = MARKS.format(executed=str(executed)) + "import torch; torch.set_default_dtype(torch.float64)\n"
    here, scripts, startup = tmp_path / "here", tmp_path / "scripts", tmp_path / "ipython" / "profile_default" / "startup"
    jupyter = tmp_path / "jupyter" / "kernels" / "python3"
    for folder in (here, scripts, startup, jupyter):
        folder.mkdir(parents=True)
    for name in ("random", "sitecustomize", "torchvision_of_nobody", "ipykernel_launcher", "ipykernel"):
        (here / f"{name}.py").write_text(code)
        (scripts / f"{name}.py").write_text(code)
    (startup / "00.py").write_text(code)
    (tmp_path / "startup.py").write_text(code)
    (startup.parent / "ipython_kernel_config.py").write_text(code + "c.InteractiveShellApp.exec_lines = ['1 / 0']\n")
    (jupyter / "kernel.json").write_text(json.dumps({"argv": ["/no/python"], "display_name": "mine", "language": "python"}))
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(scripts)
    monkeypatch.syspath_prepend("")
    for name, value in {
        "PYTHONPATH": f":{scripts}",
        "PYTHONSTARTUP": tmp_path / "startup.py",
        "PYTHONWARNINGS": "error",
        "IPYTHONDIR": tmp_path / "ipython",
        "JUPYTER_PATH": tmp_path / "jupyter",
        "HF_TOKEN": "planted",
        "MPLBACKEND": "of nobody",
        "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
        "NVIDIA_TF32_OVERRIDE": "1",
    }.items():
        monkeypatch.setenv(name, str(value))
    return executed


def test_nothing_of_the_users_runs_in_a_kernel_or_changes_it(trapped, tmp_path, monkeypatch):
    parameters = nbformat.v4.new_code_cell("study = ''", metadata={"tags": ["parameters"]})
    node = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(LOOK)])
    node.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(node, tmp_path / "notebooks" / "look.ipynb")
    monkeypatch.setattr(execute, "NOTEBOOKS", tmp_path / "notebooks")
    execute.execute("look", tmp_path / "out.ipynb", {"study": "none"}, mark="a mark")
    log = (tmp_path / "out.log").read_text()
    seen = json.loads(next(line for line in log.splitlines() if line.startswith("seen ")).removeprefix("seen "))
    assert not trapped.exists(), trapped.read_text()
    assert seen["affq"] == sys.modules["affq"].__file__ and seen["python"] == sys.prefix
    assert (seen["dtype"], seen["vision"]) == ("torch.float32", False)
    assert seen["variables"] == [None, None, "module://matplotlib_inline.backend_inline", None, None]
    assert not {"", str(tmp_path / "here"), str(tmp_path / "scripts")} & set(seen["path"])
    assert seen["ipython"] == seen["connection"] and not os.path.exists(seen["ipython"])
    assert os.environ["HF_TOKEN"] == "planted"  # of this process it is still
    assert locks.end_processes("a mark") == []


def test_installed_packages_stay_on_the_path_and_folders_of_scripts_do_not(tmp_path, monkeypatch):
    for name in ("installed/thing-1.0.dist-info", "old/thing.egg-info", "scripts", "clone/affq"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "clone" / "affq" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", ["", "clone", *(str(tmp_path / name) for name in ("scripts", "installed", "old", "clone"))])
    assert kernel.packages() == [str(tmp_path / name) for name in ("installed", "old", "clone")]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_needs_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (f"{kernel.SCRATCH}{2**22 + 1}-abc", f"{kernel.SCRATCH}{os.getppid()}-abc", "affq-kernel-of-the-user"):
        (tmp_path / name).mkdir()
    with kernel.environment("a mark"):
        assert len(list(tmp_path.iterdir())) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{kernel.SCRATCH}{os.getppid()}-abc", "affq-kernel-of-the-user"]
