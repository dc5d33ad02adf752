"""What a process imports for its work and what it does not: each of these takes a tenth of a second to two."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from affq import imports

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CELLS = """
import json, sys
notebook, parameters = sys.argv[1], json.loads(sys.argv[2])
code = [cell for cell in json.load(open(notebook))["cells"] if cell["cell_type"] == "code"]
names = {}
for cell in code:
    exec("".join(cell["source"]), names)
    names.update(parameters if "parameters" in cell["metadata"].get("tags", []) else {})
    if "import_all(" in "".join(cell["source"]):
        before = set(sys.modules)
print("imported", json.dumps([sorted(sys.modules), sorted(set(sys.modules) - before)]))

# What was hidden for a while, and torch's compiler, serve whoever asks for them.
import scipy.optimize, sklearn.metrics, torch
compiled = []
torch.compile(lambda x: x + 1, backend=lambda graph, inputs: compiled.append(graph) or graph.forward)(torch.ones(1))
assert compiled
"""
# What nothing in a run asks for, and what would.
NEVER = {
    "scipy.optimize": "transformers' losses of models that find objects in pictures",
    "scipy.stats": "intervals of medians, in the pass that times texts",
    "sklearn": "transformers' assisted generation",
    "torch._inductor.compile_fx": "what bitsandbytes compiles of its optimizers",
    "pandas": "the labels that people gave",
    "matplotlib": "charts",
    "IPython": "tables of a report",
    "tensorboard": "training",
    "torchao": "saving what it has quantized; its own precisions import it",
}
QUANTIZED = {
    "bitsandbytes": "int8 and 4 bits",
    "transformers.models.mixtral.modeling_mixtral": "experts, which int8 and 4 bits take apart",
}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_run_imports_what_its_precision_needs_before_its_memory_is_read(precision, write_study, tiny_llama, tmp_path):
    study = write_study(models=[str(tiny_llama)], precisions=[precision])
    parameters = {"study": str(study), "model": tiny_llama.name, "precision": precision, "results": str(tmp_path / "results")}
    command = [sys.executable, "-c", CELLS, str(NOTEBOOKS / "1_generate.ipynb"), json.dumps(parameters)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("imported "))
    imported, after = json.loads(line.removeprefix("imported "))
    assert NEVER.keys() & imported == set()
    assert QUANTIZED.keys() & imported == (QUANTIZED.keys() if precision == "int8" else set())
    assert {"torch", "transformers"} <= set(imported)
    assert {name.partition(".")[0] for name in after} <= {"transformers", "tokenizers", "torch", "encodings"}


def _imported(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code + "\nimport sys; print(*sys.modules)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.skipif(not version("torch").endswith("+cpu"), reason="torch itself has to say whether it sees a GPU")
def test_command_that_executes_runs_imports_no_torch():
    imported = _imported(
        "from affq import start\nfrom affq.runner import execute\nfrom affq.study import load_study\n"
        "execute._sees_gpu(), load_study('default')"
    )
    assert "papermill" in imported and {"torch", "transformers", "pandas"} & imported == set()


def test_rouge_imports_the_stemmer_and_no_classifier():
    imported = _imported("from affq.scoring import scores\nscores._rouge([])")
    assert "nltk" in imported and {"sklearn", "scipy", "pandas"} & imported == set()


def test_what_is_imported_already_is_there_again_afterwards():
    with imports._without("json", "no_such_package"), pytest.raises(ImportError):
        importlib.import_module("json")
    assert sys.modules["json"] is json and "no_such_package" not in sys.modules
