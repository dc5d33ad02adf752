"""A whole study without any network, and what a hostile model folder makes affq connect to: nothing but itself."""

import json
import re
import shutil
import subprocess
import sys

import pytest

AFFQ = [sys.executable, "-P", "-c", "import sys; from affq.start import entry; sys.argv[0] = 'affq'; entry()"]
# A name space of its own has no interface but lo, which is down: up with it, for a notebook and its process speak over it.
LO_UP = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH22x", b"lo", 0x41))
os.execv(sys.argv[1], sys.argv[1:])
"""
OWN = re.compile(r'AF_UNIX|AF_NETLINK|AF_UNSPEC|inet_addr\("127\.|"::1"')


@pytest.fixture
def hostile(tmp_path, write_study, tiny_llama):
    """A model folder, which the user works in, with code under names of libraries and a configuration that names a repository."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    for name in ("torchvision", "random", "kernels", "sitecustomize", "modeling_llama", "custom_generate/generate"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write(__file__)\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"_name_or_path": "someone/else", "custom_pipelines": {"text-generation": {"impl": "custom_generate.generate"}}}
    (folder / "config.json").write_text(json.dumps(config))
    study = write_study(models=["."], precisions=["fp32"], perplexity=None)
    for path in (study, study.with_name("two.csv")):
        shutil.move(path, folder / path.name)
    return folder


def affq(folder, *words, around=()):
    return subprocess.run([*around, *AFFQ, *words], cwd=folder, capture_output=True, text=True, errors="replace")


@pytest.mark.full
def test_study_runs_and_is_reported_where_there_is_no_network(hostile, tmp_path):
    apart = ["unshare", "--net", sys.executable, "-c", LO_UP]
    if not shutil.which("unshare") or subprocess.run([*apart, shutil.which("true")], capture_output=True).returncode:
        pytest.skip("no name space without a network can be made here: that takes unshare and root")
    for command in ("run", "report"):
        done = affq(hostile, command, "toy.yaml", around=apart)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (hostile / "reports" / "toy" / "index.html").is_file()
    assert not (tmp_path / "executed").exists()


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("strace"), reason="no strace here, which sees what a process connects to")
def test_run_of_a_hostile_folder_connects_to_nothing_but_itself(hostile, tmp_path):
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-e", "signal=none", "-o", str(tmp_path / "connections")]
    done = affq(hostile, "run", "toy.yaml", around=trace)
    assert done.returncode == 0, done.stdout + done.stderr
    connections = [line for line in (tmp_path / "connections").read_text().splitlines() if "sa_family" in line]
    assert connections and [line for line in connections if not OWN.search(line)] == []
    assert not (tmp_path / "executed").exists()
