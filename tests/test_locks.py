"""Real processes that hold, die and hang; another machine is one whose name stands in the lock."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from affq.errors import InputError
from affq.results import locks

HOLD = (
    "import sys, time; from pathlib import Path; from affq.results import locks; locks.LEASE_S = 6\n"
    "with locks.held(Path(sys.argv[1]), 'lock', print): print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_S", 6)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_holder_is_named_with_its_machine_and_since_when(holder, tmp_path):
    with pytest.raises(InputError, match=rf"is held by process {holder.pid} on \S+ since 20.*; wait until it ends, or end it"):
        with locks.held(tmp_path, "lock", print):
            pass


def test_lock_of_a_dead_process_is_taken_over_at_once(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").exists()  # it had no time to give it back
    start = time.monotonic()
    with locks.held(tmp_path, "lock", print):
        pass
    assert time.monotonic() - start < 10 and list(tmp_path.iterdir()) == []


def test_next_holder_is_told_that_the_last_one_was_ended_without_a_word(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    said = []
    for _ in range(2):
        with locks.held(tmp_path, "lock", said.append):
            pass
    assert said == [
        f"The last affq that held {tmp_path} was ended without a word, often for want of memory. What it had done is kept."
    ]


def test_lock_whose_process_died_before_it_wrote_who_it_is_is_taken_over(tmp_path):
    (tmp_path / "lock").touch()
    with locks.held(tmp_path, "lock", print):
        assert (tmp_path / "lock").stat().st_size


def elsewhere(tmp_path):
    """Let the lock say that another machine took it."""
    lock = (tmp_path / "lock").read_text().splitlines()
    changed = ["host=elsewhere" if line.startswith("host=") else line for line in lock]
    with open(tmp_path / "lock", "r+") as file:  # the same file, which its holder goes on refreshing
        file.write("\n".join(changed) + "\n")
        file.truncate()


def test_lock_that_another_machine_left_is_taken_over_after_a_while(holder, tmp_path):
    elsewhere(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    said = []
    with locks.held(tmp_path, "lock", said.append):
        assert said[0] == f"{tmp_path} is held by elsewhere; waiting 6 s for a sign of life"
        assert said[1].startswith("The last affq that held ") and len(said) == 2


def test_lock_that_another_machine_keeps_alive_is_its_own(holder, tmp_path):
    elsewhere(tmp_path)
    with pytest.raises(InputError, match=rf"is held by process {holder.pid} on elsewhere since 20"):
        with locks.held(tmp_path, "lock", print):
            pass


def test_only_processes_with_the_mark_are_ended(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    ours = subprocess.Popen(sleep, env={**os.environ, locks.MARK: str(tmp_path)}, start_new_session=True)
    other = subprocess.Popen(sleep, env={**os.environ, locks.MARK: "other"})
    try:
        assert locks.end_processes(str(tmp_path)) == [ours.pid]
        assert not psutil.pid_exists(ours.pid) and other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
