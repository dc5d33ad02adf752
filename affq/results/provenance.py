"""What software makes the texts and the scores: versions, the commit of a clone, digests of the code."""

import hashlib
import json
import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# In a wheel the notebooks lie inside the package, in a clone beside it.
NOTEBOOKS = next(p for p in (PACKAGE / "notebooks", PACKAGE.parent / "notebooks") if p.is_dir())
LIBRARIES = ("torch", "transformers", "bitsandbytes", "accelerate", "tokenizers", "safetensors", "numpy")
GENERATING = (
    *(f"models/{name}.py" for name in ("precisions", "architectures", "experts", "loading")),
    *(f"inference/{name}.py" for name in ("generate", "measure", "probes", "interference", "kernels")),
    "study/prompts.py",
)
SCORING = ("scoring/judge.py", "scoring/scores.py", "scoring/perplexity.py")


@cache
def software():
    """Say what software generates: versions, the commit of a clone, and a digest of the generating code."""
    return {
        "affq": version("affq"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "commit": _commit(),
        "code_digest": _digest([*((PACKAGE / name).read_bytes() for name in GENERATING), _cells(NOTEBOOKS / "1_generate.ipynb")]),
    }


@cache
def scoring():
    """Say what software scores: a digest of the scoring code, and the version of what it counts with."""
    return {"code_digest": _digest((PACKAGE / name).read_bytes() for name in SCORING), "rouge_score": version("rouge-score")}


def changes_since(then, now):
    """List what differs between two answers of `software`, in words: versions, generating code."""
    before = then["versions"]
    changes = [f"{name} {before.get(name)} → {v}" for name, v in now["versions"].items() if before.get(name) != v]
    return changes + (["the generating code changed"] if then["code_digest"] != now["code_digest"] else [])


def conditions(about):
    """Give what of a run.json decides texts and readings; the commit does not, nor the size of the memory."""
    software = {name: about["software"].get(name) for name in ("python", "versions", "code_digest")}
    hardware = {name: value for name, value in about["hardware"].items() if name != "memory_bytes"}
    return software | {"hardware": hardware} | {name: about[name] for name in ("settings", "stored_dtype", "weights_sha256")}


def _commit():
    if not (PACKAGE.parent / ".git").exists() or not shutil.which("git"):
        return None
    describe = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or None


def _cells(notebook):
    """Read the code of a notebook, but for its parameters: who executes it by hand saves those, and outputs, with it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [c["source"] for c in cells if c["cell_type"] == "code" and "parameters" not in c["metadata"].get("tags", [])]
    return "\n".join("".join(source) for source in code).encode()


def _digest(parts):
    code = hashlib.sha256()
    for part in parts:
        code.update(part)
    return code.hexdigest()
