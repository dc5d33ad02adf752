"""How a run ended before its end: kind, last words, remedy, and whether the same command is to try again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from affq.inference import probes
from affq.models import PRECISIONS, STORED, held_bits, why_not
from affq.results import Failure, FailureKind
from affq.runner import estimate
from affq.study import Run

# Of affq's own errors; only an error's class and words come out of a notebook.
KINDS = {
    "PrecisionError": FailureKind.UNSUPPORTED,
    "LogitsError": FailureKind.UNSUPPORTED,
    "LoadError": FailureKind.LOAD_FAILED,
    "InputError": FailureKind.LOAD_FAILED,
}
# How libraries say that memory ran out, in errors of other types: the machine's own, and a GPU's.
HOST_WORDS = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc")
GPU_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
# How systems say that a disk is in the way.
DISK_WORDS = (
    *("No space left on device", "Read-only file system", "Disk quota exceeded", "Permission denied", "Input/output error"),
)
GOES_ON = "goes on from the texts that are there"
UNFINISHED = Failure(FailureKind.ERROR, "the notebook ended without completing the run")
INTERRUPTED = Failure(FailureKind.INTERRUPTED, "stopped by the user", f"the same command {GOES_ON}", again=True)


def of_error(run: Run, free_bytes: int, name: str, words: str) -> Failure:
    """Return the failure of a run whose notebook raised an exception of class `name`.

    free_bytes: of the machine's memory, when the attempt began.
    """
    host = name == "MemoryError" or any(phrase in words for phrase in HOST_WORDS)
    if host or name == "OutOfMemoryError" or any(phrase in words for phrase in GPU_WORDS):
        return Failure(FailureKind.OUT_OF_MEMORY, words, _host_remedy(run, free_bytes) if host else _gpu_remedy(run))
    if name == "ServerError":
        return Failure(FailureKind.SERVER_FAILED, words, f"once it is there again, the same command {GOES_ON}", again=True)
    if kind := KINDS.get(name):
        return Failure(kind, words)
    disk = any(phrase in words for phrase in DISK_WORDS)
    remedy = "mend the disk or the folder; the same command goes on" if disk else None
    return Failure(FailureKind.ERROR, f"{name}: {words}", remedy, again=disk)


def of_dead_kernel(run: Run, free_bytes: int, killed_before: int | None, again: bool) -> Failure:
    """Return the failure of a run whose kernel died.

    It is one of memory only if the system has counted a process killed for that since `killed_before`, which oom_kills gave.
    """
    if killed_before is not None and (oom_kills() or 0) > killed_before:
        words = "the system ended the process of this run for want of memory"
        return Failure(FailureKind.OUT_OF_MEMORY, words, _host_remedy(run, free_bytes))
    remedy = f"its log may say why; {'the same command' if again else 'affq run with --redo-failed'} {GOES_ON}"
    return Failure(FailureKind.KERNEL_DIED, "the process of this run died without an error message", remedy, again=again)


def of_timeout(what: str, limit_s: float) -> Failure:
    """Return the failure of a run that took longer than the study allows, or of one a cell of whose notebook did.

    what: run or cell.
    """
    remedy = f"raise limits: {what}_s in the study; affq run with --redo-failed {GOES_ON}"
    return Failure(FailureKind.TIMEOUT, f"a {what} took longer than the study's {limit_s:,} s, and was ended", remedy)


def _host_remedy(run: Run, free_bytes: int) -> str:
    needed = {name: estimate.memory_bytes(replace(run, precision=name)) for name in _to_be_had(run)}
    return f"loading needs about {needed[run.precision] / 1e9:.1f} GB, {free_bytes / 1e9:.1f} were free: {_less(run, needed)}"


def _gpu_remedy(run: Run) -> str:
    needed = {name: run.model.parameters * held_bits(run.model, name) / 8 for name in _to_be_had(run)}
    return f"its weights alone need about {needed[run.precision] / 1e9:.1f} GB: {_less(run, needed)}"


def _to_be_had(run: Run) -> list[str]:
    """Return the precisions that a run's model can have on its engine, the run's own among them."""
    return [name for name in PRECISIONS if why_not(run.model, name, run.engine, run.study.device) is None]


def _less(run: Run, needed: Mapping[str, float]) -> str:
    """Return what needs less memory: a lower precision for the weights, a smaller batch for what comes after them.

    needed: bytes by precision.
    """
    lower = next((name for name in needed if name != STORED and needed[name] < 0.9 * needed[run.precision]), None)
    tries = [f"try {lower}"] if lower else []
    tries += [f"once it is loaded, batch {run.study.batch // 2} takes less"] if run.study.batch > 1 else []
    return ", or ".join(tries) or "free some, or take a machine with more"


def oom_kills() -> int | None:
    """Return how many processes the system killed for want of memory in this process's control group; None where it is not told.

    Control groups of version 2 count in memory.events, those of version 1 in memory.oom_control; else the whole system counts.
    """
    counters = [group / name for group in probes.memory_groups() for name in ("memory.events", "memory.oom_control")]
    for counter in (*counters, Path("/proc/vmstat")):
        try:
            return int(dict(line.split() for line in counter.read_text().splitlines())["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return None
