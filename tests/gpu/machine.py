"""The machine that `make gpu` finds: what it lacks, and how fast its memory and its matrix products are.

python tests/gpu/machine.py cuda (or cpu) prints the second as JSON. It is a process of its own: what it takes of a card goes
with it.
"""

import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NEVER_USED = {"jupyterlab", "ipywidgets", "ipympl", "anywidget", "nbconvert"}  # by a run: pages and widgets are made at home
TOOLS = ("pip", "pytest", "hypothesis")  # pip fetches the weights, even those that lie here; the others are the tests'
OWN_AFFAIR = {"torch"}  # what it needs is the machine's: it may lie elsewhere than metadata say
REPEATS = 10
SIZES = {"cuda": (2_000_000_000, 8192), "cpu": (20_000_000, 256)}  # bytes that are copied, and the side of a matrix


def requirements() -> list[Requirement]:
    """Return what the stages import: affq's dependencies but for pages and widgets, and what its tests are run by."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = map(Requirement, (*project["dependencies"], *TOOLS))
    return [requirement for requirement in needed if requirement.name not in NEVER_USED]


def lacking(needed: Iterable[Requirement]) -> list[str]:
    """Return each package that is missing, or outside affq's range, in words; of what those need, what is missing."""
    waiting, seen, lacks = [(requirement, True) for requirement in needed], set(), []
    while waiting:
        requirement, direct = waiting.pop(0)
        if (name := canonicalize_name(requirement.name)) in seen:
            continue
        seen.add(name)
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacks.append(f"{name}{requirement.specifier}")
            continue
        if direct and not requirement.specifier.contains(found, prereleases=True):
            lacks.append(f"{name}{requirement.specifier} (here is {found})")
        if name not in OWN_AFFAIR:
            needs = map(Requirement, metadata.requires(name) or ())
            waiting += [(need, False) for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return lacks


def refusal(lacks: list[str], cuda: bool, rehearse: bool) -> str | None:
    """Return why nothing can begin here, and the remedy, in one sentence; None where it can."""
    if lacks:
        remedy = "where there is a network, pip download them with --no-deps; here, pip install --no-index --no-deps those wheels"
        return f"this Python lacks {', '.join(lacks)}: {remedy}"
    if not cuda and not rehearse:
        return "torch sees no CUDA device here: run this on a machine that has one, or rehearse it with --rehearse"
    return None


def speeds(device: str) -> dict[str, float]:
    """Measure how fast the device copies (bytes read and written a second), and multiplies matrices of bfloat16 (2 n³ each)."""
    import torch

    size_bytes, side = SIZES[device]
    wait: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None
    source = torch.ones(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = fastest_s(lambda: target.copy_(source), wait)
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    product = torch.empty_like(left)
    product_s = fastest_s(lambda: torch.matmul(left, right, out=product), wait)
    return {"copy_bytes_per_s": 2 * size_bytes / copy_s, "bf16_flop_per_s": 2 * side**3 / product_s}


def fastest_s(work: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of REPEATS, after three to warm up."""
    seconds = []
    for _ in range(3 + REPEATS):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds[3:])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from affq.inference import probes

    print(json.dumps({"hardware": probes.hardware(sys.argv[1]), **speeds(sys.argv[1])}))
