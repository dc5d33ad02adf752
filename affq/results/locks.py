"""Two at once: who holds a study's results, and how a process that was left behind is ended."""

import os
import socket
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import OwnerRecord, SoftFileLease, Timeout

from affq import files
from affq.errors import InputError

LEASE_S = 60  # a holder on another machine that gives no sign of life for so long is gone
MARK = "AFFQ_RESULTS"  # in the environment of every process that works on a study's results
GRACE_S = 3  # between asking a process to end and ending it


@contextmanager
def held(folder: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lease `name` in `folder` while the body runs; raise InputError that says who has it, on which machine, since when.

    One that a dead process of this machine left is taken over at once. Only time shows whether a holder on another machine
    lives: it is watched for LEASE_S, and say(words) is told so, as that the last holder was killed. filelock keeps the lease
    alive and breaks dead ones.
    """
    about = folder / f"{name}.holder.json"
    # A holder that slept too long has lost the lease to another: it stops as at Ctrl-C, before it writes any more.
    lease = SoftFileLease(folder / name, lease_duration=LEASE_S, on_compromise=lambda _: interrupt_main())
    try:
        lease.acquire(timeout=0)
    except Timeout:
        _remove_empty(folder / name)
        owner, patience_s = lease.owner, 0
        if owner and owner.hostname != socket.gethostname():
            patience_s = LEASE_S + 5
            say(f"{folder} is held by {owner.hostname}; waiting {LEASE_S} s for a sign of life")
        try:
            lease.acquire(timeout=patience_s)
        except Timeout:
            raise _taken(owner, about) from None
    if about.exists():  # whoever ends, even by a signal that asks for it, removes it
        say(f"The last affq that held {folder} was ended without a word, often for want of memory. What it had done is kept.")
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        files.write_json(about, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        if not lease.compromise:
            about.unlink(missing_ok=True)
        lease.release()


def _remove_empty(lock: Path) -> None:
    """Remove a lock whose process died before it wrote who it is: filelock takes it for an old one, and keeps it."""
    if not lock.exists() or lock.stat().st_size:
        return
    time.sleep(GRACE_S)
    aside = lock.with_name(f"{lock.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        lock.rename(aside)
        if aside.stat().st_size:  # somebody took it just now
            aside.rename(lock)
        else:
            aside.unlink()


def _taken(owner: OwnerRecord | None, about: Path) -> InputError:
    """Return the error that says who holds the lease: its `owner`, of whom `about` says since when."""
    who, since = "another process", ""
    if owner:
        who = f"process {owner.pid} on {owner.hostname}"
        with suppress(InputError):
            holder = files.read_json(about, "")
            since = f" since {holder.get('since')}" if holder.get("pid") == owner.pid else ""
    return InputError(f"{{place}} is held by {who}{since}", place=about.parent, remedy="wait until it ends, or end it")


def end_processes(mark: str) -> list[int]:
    """End every process of this machine that was started with `mark` in its environment, its children too; return their ids.

    A kernel that hangs hears no request, and one whose affq was killed has nobody to end it.
    """
    left = [process for process in psutil.process_iter() if process.pid != os.getpid() and _marked(process, mark)]
    for process in left:
        with suppress(psutil.Error):  # gone
            process.terminate()
    _, alive = psutil.wait_procs(left, timeout=GRACE_S)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE_S)
    return [process.pid for process in left]


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):  # another user's, or gone
        return False
