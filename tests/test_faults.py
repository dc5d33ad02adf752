"""Real faults around a small real study: a killed process, a memory limit, a full disk, a folder that cannot be written."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import transformers
from conftest import SIZES, affq, save_tiny

from affq.results import locks

AFFQ = Path(sys.executable).with_name("affq")


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A model that takes its time: a batch is a fraction of a second."""
    config = transformers.LlamaConfig(vocab_size=512, eos_token_id=0, pad_token_id=0, **{**SIZES, "num_hidden_layers": 12})
    return save_tiny(tmp_path_factory.mktemp("models") / "slow", config)


@pytest.fixture
def study(write_study, slow):
    """One run of 18 sampled texts, a batch each: what is resumed must draw as if it had not been stopped."""
    emotions, generation = ["anger", "fear", "joy", "shame"], {"decoding": "sampled", "temperature": 1, "max_new_tokens": 24}
    return write_study(models=[str(slow)], precisions=["fp32"], emotions=emotions, samples=2, batch=1, generation=generation)


def texts(results):
    (path,) = Path(results).glob("toy/runs/*/generations.jsonl")
    return path.read_bytes()


def statuses(folder, *words):
    return [planned["status"] for planned in json.loads(affq("plan", "toy.yaml", "--json", *words, cwd=folder).stdout)]


@pytest.mark.parametrize("target", ["affq", pytest.param("its kernel", marks=pytest.mark.full)])
def test_killed_while_generating_the_texts_are_those_of_an_undisturbed_run(study, target):
    folder = study.parent
    assert affq("run", study.name, "--results", "undisturbed", cwd=folder).returncode == 0
    run = subprocess.Popen([AFFQ, "run", study.name, "--json"], cwd=folder, stdout=subprocess.PIPE, text=True)
    for line in run.stdout:
        event = json.loads(line)
        if event["event"] == "run" and event["texts"] >= 2:
            break
    kept = event["texts"] - 1  # the last one may not be sealed yet
    if target == "affq":
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert statuses(folder) == ["partial"]
    else:
        mark = str((folder / "reports" / "toy" / "runs").resolve())
        kernels = [process for process in locks.psutil.process_iter() if locks._marked(process, mark)]
        kernels[0].kill()
        run.stdout.read()
        assert run.wait() == 0  # a dead kernel is begun again by itself
    assert affq("run", study.name, cwd=folder).returncode == 0
    assert texts(folder / "reports") == texts(folder / "undisturbed")
    (about,) = (folder / "reports").glob("toy/runs/*/run.json")
    assert json.loads(about.read_text())["texts_kept"] >= kept
    assert statuses(folder) == ["ok"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.full)])
def test_asked_to_end_it_says_how_to_go_on_and_leaves_no_process(study, number):
    folder = study.parent
    run = subprocess.Popen(
        [AFFQ, "run", study.name, "--json"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in run.stdout:
        if json.loads(line).get("stage") in ("loading", "generating"):
            break
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130 and "the same command goes on from there" in said
    (planned,) = json.loads(affq("plan", "toy.yaml", "--json", cwd=folder).stdout)
    assert planned["status"] == "failed" and planned["reason"].startswith("interrupted") and planned["to_run"]
    assert locks.end_processes(str((folder / "reports" / "toy" / "runs").resolve())) == []


@pytest.mark.full
def test_under_nohup_a_terminal_that_closes_ends_nothing(study):
    run = subprocess.Popen(
        ["nohup", AFFQ, "run", study.name, "--json"],
        cwd=study.parent,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    for line in run.stdout:
        if json.loads(line).get("stage") in ("loading", "generating"):
            run.send_signal(signal.SIGHUP)
            break
    run.stdout.read()
    assert run.wait() == 0 and statuses(study.parent) == ["ok"]


@contextmanager
def memory_limit(limit_bytes):
    """Make a control group with a limit, where this system lets us; give the file that takes the processes in it."""
    for root, name in ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max")):
        group = root / f"affq-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(limit_bytes))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        try:
            yield group / "cgroup.procs"
        finally:
            group.rmdir()
        return
    pytest.skip("no control group with a memory limit can be made here")


IN_GROUP = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"


@pytest.mark.full
def test_kernel_that_the_system_ends_for_want_of_memory_is_out_of_memory(write_study, tmp_path):
    config = transformers.LlamaConfig(vocab_size=512, **{**SIZES, "hidden_size": 2048, "intermediate_size": 8192})
    big = save_tiny(tmp_path / "big", config)
    study = write_study(models=[str(big)], precisions=["bf16", "int8"])
    with memory_limit(700_000_000) as group:
        command = [sys.executable, "-c", IN_GROUP, group, AFFQ, "run", study.name]
        done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    for planned in json.loads(affq("plan", study.name, "--json", cwd=tmp_path).stdout):  # the other run had its turn
        assert planned["status"] == "failed" and not planned["to_run"]
        assert planned["reason"].startswith("out_of_memory: the system ended the process of this run for want of memory; ")
        assert re.search(r"loading needs about 1\.\d GB, 0\.\d were free", planned["reason"])
    assert affq("run", study.name, "--redo-failed", cwd=tmp_path).returncode == 0


@contextmanager
def disk(place, *options):
    """Mount a small disk, where this system lets us."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.full
@pytest.mark.parametrize("free_kb", [4, 16, 30])
def test_full_disk_ends_in_a_sentence_and_goes_on_when_there_is_room(study, tmp_path, free_kb):
    assert affq("run", study.name, "--results", "undisturbed", cwd=tmp_path).returncode == 0
    with disk(tmp_path / "small", "-o", f"size={free_kb}k") as small:
        done = affq("run", study.name, "--results", small, cwd=tmp_path)
        assert done.returncode in (1, 2) and "No space left on device" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
        assert affq("run", study.name, "--results", small, cwd=tmp_path).returncode == 0
        assert texts(small) == texts(tmp_path / "undisturbed")


def test_folder_that_cannot_be_written_is_one_sentence(study, tmp_path):
    with disk(tmp_path / "fixed", "-o", "ro") as fixed:
        done = affq("run", study.name, "--results", fixed, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"affq: cannot read or write {fixed}/toy: Read-only file system; mend that, and the same command goes on\n",
    )


@pytest.mark.full
def test_record_that_is_damaged_or_gone_is_named_and_made_again(study, tmp_path):
    assert affq("run", study.name, cwd=tmp_path).returncode == 0
    wanted, (folder,) = texts(tmp_path / "reports"), tmp_path.glob("reports/toy/runs/*--*")
    for name in ("run.json", "generations.jsonl", "batches.jsonl", "measurements.json", "done.json"):
        whole = bytearray((folder / name).read_bytes())
        whole[len(whole) // 3] ^= 4
        (folder / name).write_bytes(whole)
        if name == "batches.jsonl":
            (folder / name).unlink()
        (planned,) = json.loads(affq("plan", "toy.yaml", "--json", cwd=tmp_path).stdout)
        assert planned["to_run"] and planned["status"] == "failed" and f"damaged: {name} " in planned["reason"]
        assert affq("run", study.name, cwd=tmp_path).returncode == 0
        assert statuses(tmp_path) == ["ok"] and texts(tmp_path / "reports") == wanted
    assert len(list((folder / "attempts").iterdir())) >= 5


CLOCK = """
import os, time
true = time.time
time.time = lambda: true() - 86400 * os.path.exists(os.environ["SET_BACK"])
"""


@pytest.mark.full
def test_clock_that_is_set_back_changes_nothing(study, tmp_path):
    (tmp_path / "site").mkdir()
    # Python runs it when affq starts, but not in a kernel, to which affq hands it on here.
    also_in_kernels = f"from affq.runner import kernel\nkernel.SET_PATH += {CLOCK!r}\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(CLOCK + also_in_kernels)
    path = os.pathsep.join(filter(None, (str(tmp_path / "site"), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "SET_BACK": str(tmp_path / "set-back")}
    assert affq("run", study.name, "--results", "undisturbed", cwd=tmp_path).returncode == 0
    run = subprocess.Popen([AFFQ, "run", study.name, "--json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    events = []
    for line in run.stdout:
        events.append(json.loads(line))
        if events[-1].get("stage") == "generating":
            (tmp_path / "set-back").touch()
    assert run.wait() == 0 and (tmp_path / "set-back").exists()
    assert all(event["elapsed_s"] > 0 for event in events if "elapsed_s" in event)
    stages = dict.fromkeys(event["stage"] for event in events if "stage" in event)
    assert list(stages)[0] == "starting" and "generating" in stages
    assert texts(tmp_path / "reports") == texts(tmp_path / "undisturbed")
