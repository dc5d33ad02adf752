"""Models of the hub: a cache in the hub's layout, and the real client against a small server of the hub's protocol.

The hub itself is never asked. The server answers as the hub's documentation says; what the real one answers was not seen here.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import COMMIT, put_into_hub_cache

from affq.errors import InputError
from affq.models import hub, sources, weights

AFFQ = Path(sys.executable).with_name("affq")
TOKEN = "hf_planted_token_never_to_be_seen"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_repository_in_the_cache_needs_no_network(cache, tiny_llama, tmp_path):
    snapshot = put_into_hub_cache(cache, "someone/tiny", tiny_llama)
    model = sources.find("someone/tiny", tmp_path)
    assert hub.fetch("someone/tiny", "main") == model.folder == snapshot
    assert (model.name, model.revision) == ("someone/tiny", f"someone/tiny@{COMMIT}")
    assert model.stored_dtype == "float32"


def test_catalog_name_is_a_repository_whose_shape_is_known_before_it_is_here(cache, tiny_llama, tmp_path, monkeypatch):
    entry = {"hub": "someone/tiny", "stored_dtype": "bfloat16", "parameters": 5, "config": {"model_type": "llama"}}
    monkeypatch.setattr(weights, "catalog", lambda: {"tiny": entry})
    found = sources.find("tiny", tmp_path)
    assert (found.name, found.stored_dtype, found.parameters, found.stored_bytes) == ("tiny", "bfloat16", 5, 10)
    assert found.config == {"model_type": "llama"}
    assert found.revision is None
    with pytest.raises(InputError, match="someone/tiny at main is not in the hub's cache; affq run fetches it"):
        found.folder  # noqa: B018
    snapshot = put_into_hub_cache(cache, "someone/tiny", tiny_llama)
    assert sources.find("tiny", tmp_path).folder == snapshot
    assert sources.find("tiny", tmp_path).revision == f"someone/tiny@{COMMIT}"


def test_revision_stands_behind_the_repository(cache, tiny_llama, tmp_path):
    put_into_hub_cache(cache, "someone/tiny", tiny_llama)
    assert sources.find(f"someone/tiny@{COMMIT}", tmp_path).folder.name == COMMIT
    with pytest.raises(
        InputError, match="someone/tiny at v2 is not, or not whole, in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
    ):
        sources.find("someone/tiny@v2", tmp_path).fetch(print)


@pytest.mark.parametrize("value", ["a/b/c", "../b", "-a/b", "a/b@../..", "a/b@x y", "a b/c", "a--b/c", "a/b.", "org/"])
def test_what_is_no_name_of_a_repository_is_none(cache, tmp_path, value):
    assert sources.find(value, tmp_path) is None


def test_cached_repository_without_all_its_shards_is_refused_offline(cache, tiny_llama, tmp_path):
    snapshot = put_into_hub_cache(cache, "someone/tiny", tiny_llama)
    (snapshot / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="someone/tiny at main is not, or not whole, in the hub's cache"):
        sources.find("someone/tiny", tmp_path).fetch(print)


class Hub(BaseHTTPRequestHandler):
    """What the hub answers about one repository; `server.refuse` names an error to answer instead."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.server.refuse:
            status, code = self.server.refuse
            return self.send(status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}", body)
        files = {file.name: file.read_bytes() for file in self.server.folder.iterdir()}
        if "/resolve/" in self.path:
            content = files[self.path.rsplit("/", 1)[1]]
            return self.send(200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content, body)
        listed = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files.items()]
        listed += [{"type": "file", "path": "original/consolidated.pth", "size": 10**15, "oid": "0"}]
        found = listed if "/tree/" in self.path else {"id": "someone/tiny", "sha": COMMIT, "siblings": []}
        return self.send(200, {"Content-Type": "application/json"}, json.dumps(found).encode(), body)

    def send(self, status, headers, content, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def server(tiny_llama):
    served = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    served.folder, served.refuse, served.seen = tiny_llama, None, []
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()


def python(folder, server, *words, **environment):
    """Run this environment's Python with the server for a hub, and a cache in the folder."""
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(folder / "hf"), "NO_PROXY": "*"}
    inherited = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    environment = {**inherited, **settings, **environment}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def affq(folder, server, *words, **environment):
    return python(folder, server, AFFQ, *words, **environment)


FETCH = "from affq.models import hub; hub.fetch('someone/tiny', 'main')"


def test_model_is_fetched_with_the_users_token_and_without_other_formats(server, tmp_path):
    assert python(tmp_path, server, "-c", FETCH, HF_TOKEN=TOKEN).returncode == 0
    assert f"Bearer {TOKEN}" in {authorization for _, authorization in server.seen}
    assert not any("original" in path for path, _ in server.seen if "/resolve/" in path)
    fetched = {path.name for path in (tmp_path / "hf" / "hub").glob("models--someone--tiny/snapshots/*/*")}
    assert fetched == {path.name for path in server.folder.iterdir()}


@pytest.mark.full
def test_study_of_the_hub_is_run_and_reported_and_its_token_is_seen_nowhere(server, tmp_path):
    """A whole run from the protocol's server to the report, with a token planted in the environment."""
    study = {
        "models": ["someone/tiny"],
        "precisions": ["fp32"],
        "emotions": ["joy"],
        "generation": {"max_new_tokens": 4},
        "measurement": {"texts": 1, "new_tokens": 4, "warmup_tokens": 1},
        "judges": ["minilm-lora"],
        "perplexity": None,
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(study))
    run = affq(tmp_path, server, "run", "small.yaml", HF_TOKEN=TOKEN)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Fetching someone/tiny at main from the hub, " in run.stdout
    asked = len(server.seen)
    report = affq(tmp_path, server, "report", "small.yaml", HF_TOKEN=TOKEN)
    assert report.returncode == 0, report.stdout + report.stderr
    assert not any("tiny" in path for path, _ in server.seen[asked:])  # what is in the cache is not asked for again

    said = run.stdout + run.stderr + report.stdout + report.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert TOKEN not in said and not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert f"someone/tiny@{COMMIT}" in (tmp_path / "reports" / "small" / "tables" / "provenance.csv").read_text()


@pytest.mark.parametrize(
    "refuse, said",
    [
        ((401, "RepoNotFound"), "the hub has no model 'someone/tiny', or a private one, and there is no such folder here; "),
        ((403, "GatedRepo"), "someone/tiny at main is gated: accept its terms on its page of the hub, then set the environment "),
        ((404, "RevisionNotFound"), "someone/tiny has no revision 'main'; give a branch, a tag or a commit of it"),
        ((500, "Broken"), "there is no folder someone/tiny here, and someone/tiny at main cannot be fetched from the hub ("),
    ],
)
def test_refusal_of_the_hub_is_one_sentence(server, tmp_path, refuse, said):
    server.refuse = refuse
    done = affq(tmp_path, server, "run", "someone/tiny")
    assert done.returncode == 2 and done.stderr.startswith(f"affq: {said}") and done.stderr.count("\n") == 1, done.stderr


def test_plan_asks_no_network_and_says_what_is_not_here(server, tmp_path):
    (tmp_path / "study.yaml").write_text("models: [someone/tiny]\nprecisions: [fp32]\n")
    done = affq(tmp_path, server, "plan", "study.yaml")
    assert done.stdout.splitlines()[1].split(maxsplit=5) == (
        ["missing", "someone/tiny--fp32", *"???", "someone/tiny at main is not in the hub's cache; affq run fetches it"]
    )
    assert server.seen == []


def test_cache_that_lacks_a_small_file_is_made_whole(server, tmp_path, tiny_llama):
    """Without its chat template a model would be asked other prompts under the same commit."""
    snapshot = put_into_hub_cache(tmp_path / "hf" / "hub", "someone/tiny", tiny_llama)
    (snapshot / "chat_template.jinja").unlink()
    assert python(tmp_path, server, "-c", FETCH).returncode == 0
    assert (snapshot / "chat_template.jinja").is_file()


def test_hub_that_cannot_be_reached_is_one_sentence(server, tmp_path):
    done = affq(tmp_path, server, "run", "someone/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "affq: there is no folder someone/tiny here, and someone/tiny at main cannot be fetched from the hub (ConnectError: "
    )


@pytest.fixture
def silent(monkeypatch):
    """A hub that takes a connection and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setattr(hub, "PATIENCE_S", 0.5)
        yield


def test_hub_that_does_not_answer_is_waited_for_a_little_and_the_cache_used(cache, silent, tiny_llama):
    snapshot = put_into_hub_cache(cache, "someone/tiny", tiny_llama)
    told, start = [], time.monotonic()
    assert hub.fetch("someone/tiny", "main", told.append) == snapshot
    assert time.monotonic() - start < 5
    assert told == [
        "Asking the hub for someone/tiny at main …",
        "The hub cannot be asked: what its cache has of someone/tiny is used, and is enough to load it.",
    ]
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"someone/tiny at main cannot be fetched from the hub \(ReadTimeout"):
        hub.fetch("someone/tiny", "main", told.append)


def test_hub_is_not_asked_where_the_cache_knows_what_the_commit_has(cache, silent, tiny_llama):
    snapshot = put_into_hub_cache(cache, "someone/tiny", tiny_llama)
    files = {file.name: {"size": file.stat().st_size, "blob_id": "0"} for file in snapshot.iterdir()}
    listing = snapshot.parents[1] / "trees" / f"{COMMIT}.json"  # as the hub's client keeps it
    listing.parent.mkdir()
    listing.write_text(json.dumps({"format_version": 1, "files": files}))
    told = []
    assert hub.fetch("someone/tiny", "main", told.append) == snapshot and told == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_remedy_names_the_variable_that_forbids_and_helps_against_it(cache, monkeypatch, tmp_path, variable):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(InputError, match=f"{variable} forbids to fetch it; HF_HUB_OFFLINE=0 allows it"):
        sources.find("someone/tiny", tmp_path).fetch(print)
    look = "from huggingface_hub.constants import HF_HUB_OFFLINE; print(HF_HUB_OFFLINE)"
    allowed = subprocess.run(
        [sys.executable, "-c", look], env={**os.environ, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True
    )
    assert allowed.stdout == "False\n"


def test_quantized_model_whose_library_is_not_here_is_refused_before_its_weights_are_fetched(server, tmp_path, tiny_llama):
    server.folder = shutil.copytree(tiny_llama, tmp_path / "served")
    config = json.loads((server.folder / "config.json").read_text())
    (server.folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    done = affq(tmp_path, server, "run", "someone/tiny")
    assert done.returncode == 2 and "a checkpoint of gptq needs gptqmodel and optimum, not installed here" in done.stderr
    assert not any("safetensors" in path for path, _ in server.seen)


def test_pickle_weights_of_the_hub_are_never_fetched(server, tmp_path, tiny_llama):
    server.folder = shutil.copytree(tiny_llama, tmp_path / "served")
    (server.folder / "model.safetensors").rename(server.folder / "pytorch_model.bin")
    done = affq(tmp_path, server, "run", "someone/tiny")
    assert done.returncode == 2 and "has no safetensors weights, and pickle weights are never loaded" in done.stderr
    assert not any("pytorch_model" in path for path, _ in server.seen if "/resolve/" in path)
