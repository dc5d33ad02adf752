"""What software makes the texts and the scores: versions, the commit of a clone, digests of the code.

A run or a score is stale when code or versions have changed since it was made. What counts is the bytes of whole rooms, so that
no list of files has to be kept by hand. A changed comment therefore makes a run stale as well: that is only said, and the run is
done again when somebody asks for it.

Left out on purpose, since they change no text, no reading and no score:
- report, analysis, widgets: they make what they show anew each time, from the records.
- runner and cli: they decide which notebook is executed, and when.
- results, files, errors: they keep what they are given; a record whose fields change has another `reading.FORMAT`.
- imports: it leaves out parts of libraries that nothing here uses.
- scoring, for texts and readings: a study only looks there whether its judges know its emotions.
- data, which has hashes of its own: weights and what catalog.yaml says of them (weights_sha256 in run.json), prompts (in the
  settings of a run), references and judges (in the manifest of their scores).
"""

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

PACKAGE = Path(__file__).parents[1]
# In a wheel the notebooks lie inside the package, in a clone beside it.
NOTEBOOKS = next(p for p in (PACKAGE / "notebooks", PACKAGE.parent / "notebooks") if p.is_dir())
GENERATING = ("models", "inference", "stats", "study")  # the rooms of 1_generate, 6_load and 7_soak
SCORING = (*GENERATING, "scoring")  # the rooms of 2_score, which asks the study for references and baselines
LIBRARIES = ("torch", "transformers", "bitsandbytes", "accelerate", "tokenizers", "safetensors", "numpy")
# Judges and perplexity compute with the first three; the others count words, ROUGE (of stems, which are nltk's) and BLEU. What
# else is imported does arithmetic that no version changes (softmax), or reads files whose hashes are checked.
SCORING_LIBRARIES = ("torch", "transformers", "tokenizers", "rouge-score", "nltk", "regex", "sacrebleu")


class ScoringSoftware(TypedDict):
    """What software scores: versions of libraries, and a digest of the scoring code (SHA-256, hex)."""

    versions: dict[str, str]
    code_digest: str


class Software(ScoringSoftware):
    """What software generates; the digest is that of the generating code. commit: None outside a clone."""

    affq: str
    python: str
    commit: str | None


@cache
def software(notebook: str = "1_generate") -> Software:
    """Return what software generates, by a notebook."""
    return {
        "affq": version("affq"),
        "python": platform.python_version(),
        "versions": _versions(LIBRARIES),
        "commit": _commit(),
        "code_digest": code_digest(GENERATING, notebook),
    }


@cache
def scoring() -> ScoringSoftware:
    """Return what software scores."""
    return {"versions": _versions(SCORING_LIBRARIES), "code_digest": code_digest(SCORING, "2_score")}


def changes_since(then: Software, now: Software) -> tuple[str, ...]:
    """Return what differs between two answers of `software`, in words: versions, generating code."""
    before = then["versions"]
    changes = [f"{name} {before.get(name)} → {v}" for name, v in now["versions"].items() if before.get(name) != v]
    return (*changes, *(["the generating code changed"] if then["code_digest"] != now["code_digest"] else []))


def conditions(about: dict) -> dict:
    """Return what of a run.json decides texts and readings; the commit does not, nor the size of the memory."""
    software = {name: about["software"].get(name) for name in ("python", "versions", "code_digest")}
    hardware = {name: value for name, value in about["hardware"].items() if name != "memory_bytes"}
    served = {"hardware": hardware, "engine": about.get("engine", {})}
    return software | served | {name: about[name] for name in ("settings", "stored_dtype", "weights_sha256")}


def code_digest(rooms: Iterable[str], notebook: str) -> str:
    """Return the SHA-256 (hex) of all code of these rooms, of the emotions' words, and of a notebook's cells."""
    paths = [PACKAGE / "emotions.py", *(path for room in rooms for path in (PACKAGE / room).rglob("*.py"))]
    code = {path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in paths}
    code[notebook] = _cells(NOTEBOOKS / f"{notebook}.ipynb")
    digest = hashlib.sha256()
    for name, content in sorted(code.items()):
        digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _cells(notebook: Path) -> bytes:
    """Return the code of a notebook, but for its parameters: who executes it by hand saves those, and outputs, with it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [c["source"] for c in cells if c["cell_type"] == "code" and "parameters" not in c["metadata"].get("tags", [])]
    return "\n".join("".join(source) for source in code).encode()


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    return {name: version(name) for name in libraries}


def _commit() -> str | None:
    if not (PACKAGE.parent / ".git").exists() or not shutil.which("git"):
        return None
    describe = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or None
