"""llama.cpp's server in a process of its own: its memory is read apart from Python's, and what ends it does not end a notebook.

It is asked through a socket in a folder of its own, which no other machine reaches, and which sends each token at once.
"""

import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affq.inference import AtToken, ServerError, Unanswered
from affq.models.checkpoints import LoadError

if TYPE_CHECKING:
    import httpx

CHILD = Path(__file__).with_name("llama_child.py")
LOGGED_S = 5.0  # in which llama.cpp's log says what it was asked to say, at most
ENDED_S = 5.0  # in which its process ends when it is told to
ENDING_S = 0.5  # in which it ends once its connections are gone
READY = "listening on unix:"  # what its log says last of loading
FLASH = "Flash Attention enabled"
VERBOSITY = 4  # at which its log tells that, and the bytes of its buffers
ERROR = re.compile(r"^[\d.]+ E .*?: +(.+)$", re.MULTILINE)
# The bytes that it says it has taken, by what they are for.
BUFFERS = re.compile(r"(model|KV|compute|output) buffer size *= *([\d.]+) MiB")


@dataclass
class Written:
    """A text that llama.cpp wrote: the ids of its tokens, and how many there are by its own count.

    ended: by a token that ends a text for llama.cpp, which is the last. timings: its own.
    """

    token_ids: list[int] = field(default_factory=list)
    new_tokens: int = 0
    ended: bool = False
    done: bool = False
    timings: dict[str, float] = field(default_factory=dict)

    def take(self, chunk: Mapping[str, Any], encode: Callable[[str], list[int]]) -> None:
        """Add a part that llama.cpp sent; encode: as for LlamaServer.generate."""
        before, self.new_tokens = self.new_tokens, chunk["tokens_predicted"]
        if chunk["stop"]:
            self.done, self.ended, self.timings = True, chunk["stop_type"] == "eos", chunk["timings"]
        elif chunk["tokens"]:
            whole = self.new_tokens == before + 1
            self.token_ids += chunk["tokens"] if whole else encode(chunk["content"])


class LlamaServer:
    """A process of llama.cpp's, which holds no model until `load`.

    version: of xllamacpp. build: number, commit, compiler and platform of its llama.cpp, as far as it knows them. system: what of
    the processor it uses. flash_attention: whether the model that is loaded is computed with it.
    """

    def __init__(self) -> None:
        found = importlib.util.find_spec("xllamacpp")
        packages = str(Path(str(found and found.origin)).parents[1])
        self._folder, self._start = Path(tempfile.mkdtemp(prefix="affq-llama-")), 0
        self._socket, self._log = self._folder / "0.sock", self._folder / "log"
        with open(self._log, "wb") as log:
            # A session of its own: what interrupts a terminal's command is for that to handle.
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            command = [sys.executable, "-I", str(CHILD), packages, str(self._folder)]
            self._process = subprocess.Popen(command, start_new_session=True, **pipes)
        about = self._told()
        self.version, self.build, self.system = about["version"], about["build"], about["system"]
        self.flash_attention = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, settings: Mapping[str, Any]) -> dict[str, int]:
        """Load a model in the place of any before it; return the bytes of each kind of buffer, as llama.cpp's log has them.

        settings: by the names of xllamacpp's parameters. Raises LoadError if llama.cpp cannot load it.
        """
        self._start = self._log.stat().st_size
        self._socket = self._socket.with_stem(str(int(self._socket.stem) + 1))  # one that was used before is not taken
        self._tell({"hostnames": [str(self._socket)], "verbosity": VERBOSITY, **settings})
        told = self._told()
        if "error" in told:
            raise LoadError(f"llama.cpp cannot load {Path(settings['model.path']).name}: {self._why() or told['error']}")
        deadline = time.monotonic() + LOGGED_S
        while READY not in (log := self._logged()) and time.monotonic() < deadline:
            time.sleep(0.01)  # its log is written by a thread of its own
        self.flash_attention = FLASH in log
        # A server that is ended before its loop began never ends: what it answers shows that the loop goes on.
        self.ask("/completion", {"prompt": [0], "n_predict": 1, "cache_prompt": False})
        sizes: dict[str, int] = {}
        for kind, mebibytes in BUFFERS.findall(log):
            sizes[kind] = sizes.get(kind, 0) + round(float(mebibytes) * 2**20)
        return sizes

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        options: Mapping[str, Any],
        encode: Callable[[str], list[int]],
        at_token: AtToken | None = None,
    ) -> list[Written]:
        """Generate a text for each prompt, all at once, and return them in the order of the prompts.

        prompts: token ids. options: of llama.cpp's /completion. at_token() is called each time that every text which is not done
        has one token more. encode: text to token ids: llama.cpp sends no ids of the tokens that end within a character, but its
        text later, with the character.
        """
        texts, steps = [Written() for _ in prompts], 0
        for chunk in self._stream("/completion", {"prompt": prompts, "stream": True, "cache_prompt": False, **options}):
            texts[chunk["index"]].take(chunk, encode)
            if at_token and steps < (reached := min((text.new_tokens for text in texts if not text.done), default=0)):
                steps = reached
                at_token()
        if not all(text.done for text in texts):
            raise RuntimeError(f"llama.cpp left a text without an end: {self._why()}")
        return texts

    def at_once(self) -> "httpx.AsyncClient":
        """Return what `stream_among` asks through, for any number of texts at the same time, each over its own connection."""
        import httpx  # here: a run asks without it

        # A connection that is kept would hold one of the threads that llama.cpp answers by.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket), limits=limits)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None)

    async def stream_among(self, client: "httpx.AsyncClient", body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield what llama.cpp sends of one text, part by part, while others are under way. Raises Unanswered."""
        import httpx

        done = False
        try:
            async with client.stream("POST", "/completion", json={"stream": True, "cache_prompt": False, **body}) as answer:
                if not answer.is_success:
                    words = (await answer.aread()).decode(errors="replace")
                    raise RuntimeError(f"llama.cpp answers {answer.status_code}: {words}")
                async for line in _lines(answer.aiter_bytes()):
                    if chunk := _chunk(line):
                        done = chunk["stop"]
                        yield chunk
        except httpx.RequestError as error:
            raise Unanswered(f"llama.cpp does not answer ({type(error).__name__})") from None
        except RuntimeError as error:
            raise Unanswered(_without_folders(str(error))) from None
        if not done:
            raise Unanswered("llama.cpp left the text without an end")

    def need(self) -> None:
        """Raise ServerError if the process has ended; a connection is gone some moments before that shows."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_S)
            raise ServerError(f"llama.cpp is gone: {self._why()}")

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post JSON to a path of the server, and return its answer."""
        with self._answer(path, body) as answer:
            return json.loads(answer.read())

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        with self._answer(path, body) as answer:
            yield from filter(None, map(_chunk, answer))

    def _answer(self, path: str, body: Mapping[str, Any]) -> http.client.HTTPResponse:
        connection = _Connection(self._socket)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "Connection": "close"})
            answer = connection.getresponse()
        except OSError as error:
            raise RuntimeError(f"llama.cpp does not answer ({error}): {self._why()}") from error
        if answer.status != http.client.OK:
            words = answer.read().decode(errors="replace")
            raise RuntimeError(f"llama.cpp: {words}")
        return answer

    def _tell(self, words: Mapping[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def _told(self) -> dict[str, Any]:
        assert self._process.stdout
        if not (line := self._process.stdout.readline()):
            self._process.wait()
            raise LoadError(f"llama.cpp cannot be used: {self._why()}")
        return json.loads(line)

    def _logged(self) -> str:
        """Return the log since the last load began."""
        with open(self._log, "rb") as log:
            log.seek(self._start)
            return log.read().decode(errors="replace")

    def _why(self) -> str:
        """Return how the process ended, if it did, and the first error in its log, without folders."""
        status, log = self._process.poll(), self._logged()
        words = ERROR.findall(log)[:1]
        if status is not None:
            words = [f"its process ended with status {status}", *(words or log.splitlines()[-1:])]
        return _without_folders("; ".join(words))


def _chunk(line: bytes) -> dict[str, Any] | None:
    """Return what a line of a stream holds; None where it is nothing of a text. Raises RuntimeError for an error."""
    kind, _, words = line.partition(b": ")
    if kind == b"error":
        raise RuntimeError(f"llama.cpp: {words.decode(errors='replace').strip()}")
    return json.loads(words) if kind == b"data" else None  # null: the work on a prompt begins


def _without_folders(words: str) -> str:
    return re.sub(r"(/[^\s/']+)+/", "", words)


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line


class _Connection(http.client.HTTPConnection):
    """A connection through a socket of this machine's, by its path."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.fspath(self._path))
