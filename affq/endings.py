"""How a run ended before its end: kind, last words, remedy, and whether the same command is to try again."""

from dataclasses import replace
from pathlib import Path

from affq import estimate
from affq.precisions import PRECISIONS

KINDS = {
    "PrecisionError": "unsupported",
    "LoadError": "load_failed",
    "InputError": "load_failed",
    "OutOfMemoryError": "out_of_memory",
    "MemoryError": "out_of_memory",
}
# How libraries say that memory ran out, in errors of other types.
MEMORY_WORDS = (
    *("can't allocate memory", "Cannot allocate memory", "CUDA out of memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc"),
)
DISK_WORDS = (
    "No space left on device",
    "Read-only file system",
    "Disk quota exceeded",
    "Permission denied",
    "Input/output error",
)
WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 0.5}  # uint8: two weights of 4 bits


def of_error(run, device, name, words):
    """Give {kind, words, remedy, again} for an exception of class `name` in a run's notebook. device: cpu, cuda, None unknown."""
    kind = KINDS.get(name, "out_of_memory" if any(said in words for said in MEMORY_WORDS) else "error")
    if kind == "out_of_memory":
        return {"kind": kind, "words": words, "remedy": memory_remedy(run, device), "again": False}
    if kind != "error":
        return {"kind": kind, "words": words, "remedy": None, "again": False}
    disk = any(said in words for said in DISK_WORDS)
    remedy = "mend the disk or the folder; the same command goes on" if disk else None
    return {"kind": kind, "words": f"{name}: {words}", "remedy": remedy, "again": disk}


def of_dead_kernel(run, killed_before, free_bytes, again):
    """Give the same for a kernel that ended without a word: of memory only if the system counted a process killed for that."""
    if killed_before is not None and (oom_kills() or 0) > killed_before:
        words = f"the system ended the process of this run for want of memory; {free_bytes / 1e9:.1f} GB were free when it began"
        return {"kind": "out_of_memory", "words": words, "remedy": memory_remedy(run, "cpu"), "again": False}
    remedy = "its log may say why; the same command goes on from the texts that are there"
    return {"kind": "kernel_died", "words": "the process of this run ended without a word", "remedy": remedy, "again": again}


def of_timeout(what, limit_s):
    """Give the same for a run, or a cell of its notebook, that took longer than the study allows."""
    remedy = f"raise limits: {what}_s in the study; affq run --redo-failed goes on from the texts that are there"
    words = f"a {what} took longer than the study's {limit_s:,} s, and was ended"
    return {"kind": "timeout", "words": words, "remedy": remedy, "again": False}


UNFINISHED = {"kind": "error", "words": "the notebook ended without completing the run", "remedy": None, "again": False}
INTERRUPTED = {
    "kind": "interrupted",
    "words": "stopped by the user",
    "remedy": "the same command goes on from the texts that are there",
    "again": True,
}


def memory_remedy(run, device):
    """Say what the run needs, roughly, and what would need less: a lower precision, a smaller batch."""

    def needs_bytes(precision):
        if device == "cuda":
            return run.model.parameters * WEIGHT_BYTES[PRECISIONS[precision].weight_dtype]
        return estimate.memory_bytes(replace(run, precision=precision))

    here = needs_bytes(run.precision)
    lower = [name for name in PRECISIONS if needs_bytes(name) < 0.9 * here]
    what = "its weights alone take" if device == "cuda" else "loading it takes"
    tries = [*lower[:1], *([f"batch {run.study.batch // 2}"] if run.study.batch > 1 else [])] or ["a machine with more memory"]
    return f"{what} about {here / 1e9:.1f} GB: try {' or '.join(tries)}"


def oom_kills():
    """Count the processes that the system killed for want of memory in this process's control group; None where it is not told.

    Control groups of version 2 count in memory.events, those of version 1 in memory.oom_control; else the whole system counts.
    """
    for counter in _counters():
        try:
            lines = dict(line.split() for line in counter.read_text().splitlines())
            return int(lines["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return None


def _counters():
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        groups = []
    root = Path("/sys/fs/cgroup")
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            yield root / "memory" / path.lstrip("/") / "memory.oom_control"
            yield root / "memory" / "memory.oom_control"  # as a container sees its own group
        elif controllers == "":
            yield root / path.lstrip("/") / "memory.events"
            yield root / "memory.events"
    yield Path("/proc/vmstat")
