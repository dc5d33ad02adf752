"""Count how often a study's results are hashed and read for all frames of a report: python tests/bench/reads.py

Records of four runs are written to a temporary folder by hand; no model runs.
"""

import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import yaml

import affq

FRAMES = [name for name, value in vars(affq.Results).items() if isinstance(value, cached_property) and name[0] != "_"]
_opened: Counter | None = None


def _note(event: str, arguments: tuple) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened[arguments[0]] += 1


sys.addaudithook(_note)  # sees every file that Python opens, by whatever function


@contextmanager
def counted(folder: Path) -> Iterator[tuple[Counter, Counter]]:
    """Count the files below a folder that the `with` statement hashes, and those that it reads: (hashes, reads) by path."""
    global _opened
    hashes, reads, file_digest, _opened = Counter(), Counter(), hashlib.file_digest, Counter()

    def counting(file, *arguments):
        hashes[str(file.name)] += 1
        return file_digest(file, *arguments)

    hashlib.file_digest = counting
    try:
        yield hashes, reads
    finally:
        hashlib.file_digest, opened, _opened = file_digest, _opened, None
    within = {path: count for path, count in opened.items() if Path(path).is_relative_to(folder) and Path(path).is_file()}
    reads.update({path: count - hashes[path] for path, count in within.items()})


def main() -> None:
    from summary import write  # beside this file

    with tempfile.TemporaryDirectory() as folder:
        study = {"models": ["smollm2-135m"], "precisions": ["fp32", "bf16", "int8", "nf4"], "perplexity": None}
        path = Path(folder) / "four.yaml"
        path.write_text(yaml.safe_dump(study))
        write(loaded := affq.load_study(path), Path(folder) / "results")
        with counted(Path(folder) / "results") as (hashes, reads):
            results = affq.Results(loaded, Path(folder) / "results")
            for frame in FRAMES:
                getattr(results, frame)
    print(f"{hashes.total()} hashes and {reads.total()} reads of {len(reads)} files; the most of one file:")
    print(f"{max(hashes.values())} hashes, {max(reads.values())} reads")


if __name__ == "__main__":
    main()
