"""Account for what it costs to lose nothing: the seconds spent in records, hashing and locks inside the default study.

python tests/bench/cost.py takes about six minutes and prints a table; the study's results go to a folder of their own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Read by every Python process that has this folder on its path, before anything else: affq's own and its kernels'.
ACCOUNT = """
import atexit, functools, json, os, sys, time
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

CLASSES = {"affq.results.reading": ("Reading",), "affq.results.record": ("Record",)}  # else the functions of the module itself
HASHES = {"affq.models.weights": ("fingerprint", "remembered_sha256")}
WATCHED = {"affq.files", "affq.results.locks", *CLASSES, *HASHES}
spent_s, depth = {}, 0

def counted(name, function):
    @functools.wraps(function)
    def call(*arguments, **named):
        global depth
        depth += 1
        start_s = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            depth -= 1
            if not depth:  # what one of them does within another is counted once
                spent_s[name] = spent_s.get(name, 0) + time.perf_counter() - start_s
    return call

class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in WATCHED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            holders = [getattr(module, name) for name in CLASSES[name]] if name in CLASSES else [module]
            for holder in holders:
                for key, value in list(vars(holder).items()):
                    mine = getattr(value, "__module__", None) == name and not isinstance(value, type)
                    if callable(value) and mine and (name not in HASHES or key in HASHES[name]) and key not in SKIPPED:
                        setattr(holder, key, counted(f"{name.removeprefix('affq.')}.{key}", value))
        spec.loader.exec_module = exec_module
        return spec

# A generator (held) ends when the study does; score() makes the scores; progress() reads in a thread beside the work.
SKIPPED = {"held", "score", "progress", "mark"}
sys.meta_path.insert(0, Finder())

@atexit.register
def tell():
    with open(os.environ["AFFQ_COST"], "a") as file:
        file.write(json.dumps(spent_s) + "\\n")
"""


def main():
    """Run the default study with every call counted; print the seconds by module, and their share of the study."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # Python runs it when affq starts, but not in a kernel, to which affq hands it on here.
        also_in_kernels = f"from affq.runner import kernel\nkernel.SET_PATH += {ACCOUNT!r}\n"
        (folder / "sitecustomize.py").write_text(ACCOUNT + also_in_kernels)
        environment = os.environ | {"PYTHONPATH": scratch, "AFFQ_COST": str(folder / "cost.jsonl")}
        command = [Path(sys.executable).with_name("affq"), "run", "default", "--results", folder / "reports"]
        start_s = time.perf_counter()
        subprocess.run(command, env=environment, check=True)
        took_s = time.perf_counter() - start_s
        spent_s = {}
        for line in (folder / "cost.jsonl").read_text().splitlines():
            for name, seconds in json.loads(line).items():
                spent_s[name] = spent_s.get(name, 0) + seconds
    print("| what | seconds | of the study |", "|---|---:|---:|", sep="\n")
    for name, seconds in [*sorted(spent_s.items(), key=lambda item: -item[1]), ("together", sum(spent_s.values()))]:
        print(f"| {name} | {seconds:.3f} | {seconds / took_s:.2%} |")
    print(f"| the study | {took_s:.1f} | |")


if __name__ == "__main__":
    main()
