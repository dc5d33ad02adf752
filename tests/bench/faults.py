"""Kill affq and its kernels at random moments of a small real study, and show that nothing that was done is lost.

python tests/bench/faults.py needs Linux and strace, takes about twenty minutes, and writes faults.md beside itself.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import transformers
import yaml

from affq.results import locks
from affq.results import record as records
from affq.results.provenance import software
from affq.study import load_study, prompts

sys.path.insert(0, str(Path(__file__).parents[1]))  # of conftest
AFFQ = Path(sys.executable).with_name("affq")
TARGETS = ("kernel", "affq")
# What the cells of the notebook do that take long enough to be hit at a moment; the executed notebook says which one runs.
CELLS = {"serving.import_all(": "load", "serving.load(": "load", "record.append(": "generation"}
FILES = {
    "writing": ("generations.jsonl", "batches.jsonl", "batches.jsonl.new"),
    "finishing": ("measurements.json.new", "measurements.json", "done.json.new", "done.json"),
}
PHASES = ("load", "generation", *FILES)
IN_A_ROW = 8  # kills of one run before it is finished and checked
KERNEL_KILLS = 2  # that one affq run takes; at the third kernel that dies it gives the run up, as it should
BATCHES_AHEAD = 2  # as far into generating does a kill come, so that one run can be killed there several times
POLL_S, SETTLE_S, LIMIT_S = 0.02, 0.2, 180
# One thread: two would wait for each other where something else runs too.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@dataclass
class Kill:
    """One kill: the phase it landed in, texts of whole batches and mark of run.json then, texts that the next attempt kept."""

    phase: str
    target: str
    texts_on_disk: int
    mark: tuple
    texts_kept: int | None = None
    violations: int = 0


def make_study(folder):
    """Write a study of one run over a tiny random Llama, 20 texts in ten batches, to `folder`; return it."""
    from conftest import SIZES, save_tiny

    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8}
    save_tiny(folder / "tiny", transformers.LlamaConfig(vocab_size=512, eos_token_id=0, pad_token_id=0, **sizes))
    rows = [f"p{i},general,Write note {i} full of {{emotion}}.,Write note {i}." for i in range(4)]
    (folder / "four.csv").write_text("\n".join(["id,kind,text,text_without_emotion", *rows]) + "\n")
    study = {"models": ["./tiny"], "precisions": ["fp32"], "prompts": "four.csv", "device": "cpu", "batch": 2}
    study |= {"emotions": ["joy", "sadness", "fear", "anger"], "generation": {"max_new_tokens": 48}}
    study |= {"measurement": {"texts": 2, "new_tokens": 8, "warmup_tokens": 1}}
    (folder / "faults.yaml").write_text(yaml.safe_dump(study))
    return load_study(folder / "faults.yaml")


class Chain:
    """One results folder: kills of the same run, one after the other; then it is finished and checked."""

    def __init__(self, study, results, rng=None, spans_s=None):
        self.study, self.results, self.rng, self.spans_s = study, results, rng, spans_s
        self.record = records.records(results, study)[0]
        self.affq, self.kernel, self.kernel_kills, self.kills = None, None, 0, []

    def texts_on_disk(self):
        """Count the texts of the batches that are whole: here, not by what decides in affq which are kept."""
        seals, texts = (self.record.folder / name for name in records.TEXTS[::-1])
        whole = [json.loads(line) for line in seals.read_bytes().split(b"\n")[:-1]] if seals.exists() else []
        return sum(seal["texts"] for seal in whole if seal["end_byte"] <= texts.stat().st_size)

    def cells(self):
        """Read the executed notebook as far as it is: [(phase, papermill's status and duration)] of the cells in CELLS."""
        try:
            found = json.loads((self.record.folder / "1_generate.ipynb").read_text())["cells"]
        except (FileNotFoundError, ValueError):  # papermill writes it in place
            return []
        return [(CELLS[c], cell["metadata"]["papermill"]) for cell in found for c in CELLS if c in "".join(cell["source"])]

    def running(self):
        """Give the phase that runs, None for none of those in CELLS; an append that is half done is writing."""
        phase = next((phase for phase, about in self.cells() if about["status"] == "running"), None)
        texts = self.record.folder / "generations.jsonl"
        torn = phase == "generation" and texts.exists() and texts.read_bytes().count(b"\n") > self.texts_on_disk()
        return "writing" if torn else phase

    def begin(self):
        """Begin affq run, unless one goes on."""
        if self.affq is None:
            self.results.mkdir(exist_ok=True)
            words = [AFFQ, "run", self.study.source, "--results", self.results, "--json"]
            with open(self.results / "affq.log", "a") as log:
                self.affq, self.kernel_kills = subprocess.Popen(words, stdout=log, stderr=log, env=ENVIRONMENT), 0

    def until(self, ready):
        """Wait for ready(): its value, or None once affq has ended."""
        end_s = time.monotonic() + LIMIT_S
        while not (found := ready()) and self.affq.poll() is None:
            if time.monotonic() > end_s:
                raise TimeoutError(f"affq run, process {self.affq.pid}, does not go on: {self.results}")
            time.sleep(POLL_S)
        return found

    def new_kernel(self):
        """Find the kernel that affq has begun, unless it is the one that was killed."""
        for child in psutil.Process(self.affq.pid).children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                if child != self.kernel and "ipykernel" in " ".join(child.cmdline()):
                    return child
        return None

    def strike(self, phase, target):
        """Go on with the run and kill `target` in `phase`; say whether that came about before the run ended."""
        self.begin()
        if not (kernel := self.until(self.new_kernel)):
            return False
        self.kernel = kernel
        strace, landed = self.at_call(phase, target) if phase in FILES else (None, self.at_moment(phase))
        if landed:  # what is there is read while the kernel stands still, or is dead
            self.settle()
            self.kills.append(Kill(landed, target, self.texts_on_disk(), self.record.mark()))
            if target == "kernel":
                with contextlib.suppress(psutil.NoSuchProcess):  # strace has done it
                    self.kernel.kill()
                self.kernel.wait(LIMIT_S)
                self.kernel_kills += 1
            else:
                self.affq.kill()
                self.affq.wait()
                self.affq = None
        if strace:
            strace.terminate()
            strace.wait()
        if landed and target == "affq":
            self.kernel.resume()  # it lives on, as one does whose affq was killed
        return bool(landed)

    def at_moment(self, phase):
        """Let the kernel stand still at a random moment; give the phase that it is in, None if the run has ended."""
        if not self.until(lambda: self.running() == phase):
            return None
        time.sleep(self.rng.uniform(0, self.spans_s[phase]))
        try:
            self.kernel.suspend()
        except psutil.NoSuchProcess:
            return None
        time.sleep(SETTLE_S)  # affq still writes down which cell runs
        return self.running() or "elsewhere"

    def at_call(self, phase, target):
        """Let strace kill the kernel, or stop it where affq is the target, at a random call on a phase's files."""
        there, most = self.texts_on_disk(), 2
        calls = [("/^rename", 1), ("/^rename", 2)]
        if phase == "writing":
            most = 2 * min(BATCHES_AHEAD, (self.study.texts_wanted - there) // self.study.batch)
            calls = [("/^rename", 1), ("/^truncate", 1)] if there else []  # the kernel takes over what is there
        call, when = self.rng.choice(calls + [(call, i) for call in ("write", "fsync") for i in range(1, most + 1)])
        signal, log = "SIGKILL" if target == "kernel" else "SIGSTOP", self.results / f"strace-{len(self.kills)}.log"
        log.touch()
        paths = [word for name in FILES[phase] for word in ("-P", self.record.folder / name)]
        what = ["-e", f"trace={call}", "-e", f"inject={call}:signal={signal}:when={when}"]
        words = ["strace", "-f", "-qq", "-o", log, "-p", str(self.kernel.pid), *paths, *what]
        strace = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        if not self.until(lambda: f"ed by {signal}" in log.read_text()):
            return strace, None
        by_strace = target == "affq" or "= ?" in log.read_text()  # a call that never returned; else someone else killed it
        return strace, phase if by_strace else "elsewhere"

    def settle(self, ended=False):
        """Enter what was kept after each kill: the next attempt's run.json says so, and a run that was complete keeps all."""
        for kill in [kill for kill in self.kills if kill.texts_kept is None]:
            if self.record.mark() != kill.mark:
                kill.texts_kept = self.record.about()["texts_kept"]
            elif ended:
                kill.texts_kept = self.texts_on_disk()
            if kill.texts_kept is not None and kill.texts_kept < kill.texts_on_disk:
                self.violated(kill, f"{kill.texts_on_disk} texts were on the disk, {kill.texts_kept} were kept")

    def violated(self, kill, words):
        """Say what went wrong after a kill, and count it."""
        kill.violations += 1
        print(f"VIOLATION after {kill.target} was killed at {kill.phase}: {words}; {self.record.folder}", flush=True)

    def finish(self, wanted):
        """Run affq until the run is complete, three times at most, and check it against the undisturbed generations (bytes)."""
        status = None
        for _ in range(3):
            self.begin()
            status, self.affq = self.affq.wait(LIMIT_S), None
            if status == 0:
                break
            self.violated(self.kills[-1], f"affq run ended with status {status}")
        self.settle(ended=True)
        for words in self.faults(wanted) if status == 0 else ():
            self.violated(self.kills[-1], words)

    def faults(self, wanted):
        """List what is wrong with a run that is to be complete."""
        from conftest import said_of

        folder, mark = self.record.folder, str(self.record.folder.parent.resolve())
        texts = (folder / "generations.jsonl").read_bytes()
        asked = prompts.cross(prompts.read_prompts(self.study.prompts), self.study.emotions)
        made = [json.loads(line) for line in texts.splitlines()]
        keys = [sorted(str((row["prompt_id"], row["emotion"], row["sample"])) for row in rows) for rows in (asked, made)]
        done = json.loads((folder / "done.json").read_text())
        del done["sha256"]  # its own
        digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in records.RECORDS}
        right = {
            "its status is not ok": said_of(self.record) == ("ok", ""),
            "a text is missing, or there twice": keys[0] == keys[1],
            "its generations are not those of the undisturbed run": texts == wanted,
            "done.json does not verify": done == digests,
            "a process is left": not any(_marked(process, mark) for process in psutil.process_iter()),
        }
        return [words for words in right if not right[words]]


def _marked(process, mark):
    with contextlib.suppress(psutil.Error, OSError):  # another user's, or gone
        return process.environ().get(locks.MARK) == mark


def undisturbed(study, results):
    """Run the study without a kill; return its generations (bytes), and how far into a phase a kill comes: {phase: seconds}."""
    chain = Chain(study, results)
    chain.begin()
    if chain.affq.wait(LIMIT_S):
        sys.exit(f"the undisturbed run failed: {results}")
    spans_s = {phase: sum(about["duration"] for p, about in chain.cells() if p == phase) for phase in ("load", "generation")}
    spans_s["generation"] *= BATCHES_AHEAD * study.batch / study.texts_wanted
    return (chain.record.folder / "generations.jsonl").read_bytes(), spans_s


def kill_all(study, folder, rng, kills):
    """Kill until each phase has its quarter of the kills; return the list of Kill."""
    wanted, spans_s = undisturbed(study, folder / "undisturbed")
    every, quota, number = [], math.ceil(kills / len(PHASES)), 0
    while any(sum(kill.phase == phase for kill in every) < quota for phase in PHASES):
        number += 1
        chain = Chain(study, folder / str(number), rng, spans_s)
        while len(chain.kills) < IN_A_ROW:
            so_far = [(kill.phase, kill.target) for kill in every + chain.kills]
            lacking = {phase for phase in PHASES if sum(p == phase for p, _ in so_far) < quota}
            before_all = chain.texts_on_disk() < study.texts_wanted
            here = lacking & ({"load", "generation", "writing"} if before_all else {"load", "finishing"})
            if not (options := sorted(here or lacking & {"finishing"})):
                break
            phase = rng.choice(options)
            target = min(TARGETS, key=lambda target: (so_far.count((phase, target)), rng.random()))
            if not chain.strike(phase, "affq" if chain.kernel_kills == KERNEL_KILLS else target):
                break
        if chain.kills:
            chain.finish(wanted)
        every += chain.kills
        print(f"{len(every)} kills, {number} runs finished and checked", flush=True)
    return every


def table(kills):
    """Write the kills as a table of Markdown: a line a phase and target, and the total."""
    lines = ["| phase | killed | kills | texts kept / on the disk at the kill | violations |", "|---|---|---:|---:|---:|"]
    groups = [(p, t, [k for k in kills if (k.phase, k.target) == (p, t)]) for p in (*PHASES, "elsewhere") for t in TARGETS]
    for phase, target, some in [*groups, ("all", "", kills)]:
        kept, there = sum(kill.texts_kept for kill in some), sum(kill.texts_on_disk for kill in some)
        lines += [f"| {phase} | {target} | {len(some)} | {kept} / {there} | {sum(kill.violations for kill in some)} |"]
    return "\n".join(lines) + "\n"


def main():
    """Kill, check, print the table and write faults.md; exit status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100)
    asked, began_s, made = parser.parse_args(), time.monotonic(), software()
    folder = Path(tempfile.mkdtemp(prefix="affq-faults-")).resolve()
    kills = kill_all(make_study(folder), folder, random.Random(asked.seed), asked.kills)
    print(f"\n{table(kills)}\n{time.monotonic() - began_s:.0f} s")
    how = f"`python tests/bench/faults.py --seed {asked.seed} --kills {asked.kills}` makes this table (Linux, strace)"
    by = f"made with affq {made['affq']}, Python {made['python']}, torch {made['versions']['torch']}"
    why = "More is kept than was there where affq was killed: its kernel goes on until it notices, or the next affq ends it."
    text = f"# What is kept when processes are killed\n\n{how}; {by}.\n{why}\n\n{table(kills)}"
    Path(__file__).with_suffix(".md").write_text(text)
    if any(kill.violations for kill in kills):
        sys.exit(f"kept for a look: {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
