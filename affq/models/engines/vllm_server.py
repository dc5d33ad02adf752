"""vLLM's server in processes of its own, asked through a socket in a folder of its own, which no other machine reaches."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from affq.inference import AtToken, ServerError
from affq.models.checkpoints import LoadError
from affq.models.engines.asked import AskedEngine
from affq.models.engines.server import Answer, Server

CHILD = Path(__file__).with_name("vllm_child.py")
LOADING_S = 1_800.0  # at most: on a card it compiles first
LOOK_S = 0.5
NOT_ITS_OWN = ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_API_KEY")  # of what this process has in its environment
MODEL = "model"  # what it calls the model that it serves


class VllmServer:
    """vLLM serving a model from when it is made, until `close`. settings: by the names of vLLM's arguments in Python."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        found = importlib.util.find_spec("vllm")
        packages = str(Path(str(found and found.origin)).parents[1])
        self._folder = Path(tempfile.mkdtemp(prefix="affq-vllm-"))
        self._socket, self._log = self._folder / "sock", self._folder / "log"
        self._asked = Server(AskedEngine("vllm", "vllm", "http://localhost/v1", MODEL))
        served = ["--served-model-name", MODEL, "--uds", str(self._socket)]
        command = [sys.executable, "-I", str(CHILD), packages, *arguments(settings), *served]
        environment = {name: value for name, value in os.environ.items() if name not in NOT_ITS_OWN}
        with open(self._log, "wb") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "start_new_session": True}
            self._process = subprocess.Popen(command, env=environment, **pipes)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[httpx.AsyncClient]:
        """Return what `stream` asks through."""
        async with self._asked.at_once(self._socket) as client:
            yield client

    async def stream(
        self, client: httpx.AsyncClient, ids: Sequence[int], options: Mapping[str, Any], at_token: AtToken
    ) -> Answer:
        """Ask for the text of a prompt's token ids, among others that are under way. Raises Unanswered."""
        told = {"return_token_ids": True, "stream_options": {"include_usage": True}}
        body = {"model": MODEL, "prompt": list(ids), "stream": True, **told, **options}
        return await self._asked.stream_among(client, "/completions", body, options["max_tokens"], at_token)

    def need(self) -> None:
        """Raise ServerError if the process has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LOOK_S)
            raise ServerError(f"vLLM is gone: {self._why()}")

    def close(self) -> None:
        """End the process, and its own, which are of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._asked.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        """Wait until it serves. Raises LoadError if it ends before."""
        deadline = time.monotonic() + LOADING_S
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self._socket))) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise LoadError(f"vLLM cannot serve the model: {self._why()}")
                with suppress(httpx.RequestError):
                    if client.get("http://localhost/health").is_success:
                        return
                time.sleep(LOOK_S)
        raise LoadError(f"vLLM does not serve the model after {LOADING_S:,.0f} s")

    def _why(self) -> str:
        """Return how the process ended, and the last error in its log, without folders."""
        log = self._log.read_text(errors="replace").splitlines()
        last = next((line for line in reversed(log) if re.search(r"Error\b", line)), log[-1] if log else "")
        words = f"its process ended with status {self._process.poll()}; {last.strip()}"
        return re.sub(r"(/[^\s/']+)+/", "", words)


def arguments(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as the arguments of vLLM's server."""
    words: list[str] = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{option}")
        else:
            words += [f"--{option}", str(value)]
    return words
