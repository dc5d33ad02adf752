"""A server that speaks OpenAI's protocol, from the client's side: what it lists, how it streams, how it fails.

What another try can mend is tried again, with a bound; what none can mend is said at once. The key is in no word of it.
"""

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from affq.errors import InputError, printable
from affq.inference import UNKNOWN, AtToken, ServerError, Unanswered
from affq.models.engines.asked import AskedEngine, check_address

KEY = "OPENAI_API_KEY"  # the variable that holds it; what it holds is never written
ATTEMPTS = 4  # at one request
FIRST_WAIT_S = 1.0  # before the second attempt; before each further one twice as long
LONGEST_WAIT_S = 60.0  # that a server may ask for
CONNECT_S = 10.0
SILENT_S = 300.0  # without a byte: texts wait behind others in a server's queue
KEPT_S = 2.0  # that an idle connection is used again: some servers end theirs after five
MOST_LETTERS = 200  # of what a server says, in an error
LLAMA_CPP, VLLM = "llama.cpp", "vLLM"  # servers that tell how they tokenize a prompt, each in its way

Result = TypeVar("Result")


class Fault(Exception):
    """What another attempt may mend. wait_s: what the server asks for; infinite where waiting would be for nothing."""

    def __init__(self, words: str, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class Refused(Exception):
    """A request that the server does not take: its status, its words, and the parameter that it names, "" for none."""

    def __init__(self, status: int, words: str, parameter: str) -> None:
        super().__init__(words)
        self.status, self.parameter = status, parameter

    def names(self, parameter: str) -> bool:
        """Return whether it is for a parameter that the request is refused."""
        return self.status in (400, 422) and bool(re.search(rf"\b{parameter}\b", self.parameter or str(self)))


class _Delta(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None  # as llama.cpp and DeepSeek call thoughts
    reasoning: str | None = None  # as others do


class _Choice(BaseModel):
    delta: _Delta | None = None
    text: str | None = None  # of a completion
    finish_reason: str | None = None
    token_ids: list[int] | None = None  # as vLLM sends them where it is asked to


class _Details(BaseModel):
    """What a server counts apart."""

    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


class Usage(BaseModel):
    """What a server counts of a text."""

    completion_tokens: int
    completion_tokens_details: _Details | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def thought_tokens(self) -> int | None:
        """Return how many of the new tokens are thoughts; None where the server does not tell."""
        return self.completion_tokens_details.reasoning_tokens if self.completion_tokens_details else None

    @property
    def cached_tokens(self) -> int:
        """Return how many tokens of the prompt were computed for an earlier request, as far as the server tells."""
        return (self.prompt_tokens_details.cached_tokens or 0) if self.prompt_tokens_details else 0


class _Chunk(BaseModel):
    """A part of a stream."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    system_fingerprint: str | None = None
    error: Any = None


@dataclass
class Answer:
    """What a server streamed for one request.

    pieces: of the text, as they came. token_ids: where the server tells them. thoughts: how many pieces came as thoughts. over:
    whether more pieces came than tokens were asked for; no more was read then.
    """

    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    thoughts: int = 0
    finish: str | None = None
    usage: Usage | None = None
    fingerprint: str | None = None
    over: bool = False

    @property
    def new_tokens(self) -> int:
        """Return how many tokens the server says that it made, the end of the text among them if it counts that; else pieces."""
        return self.usage.completion_tokens if self.usage else len(self.pieces) + self.thoughts


class _Reader:
    """Reads what a server streams of one text, in parts as they come. plain: a server's words to those that may be shown."""

    def __init__(self, most: int, at_token: AtToken | None, plain: Callable[[str], str]) -> None:
        self._answer, self._most, self._at_token, self._plain = Answer(), most, at_token, plain
        self._rest, self._whole = b"", False

    def take(self, part: bytes) -> bool:
        """Read a further part; return whether more is to be read. Raises Fault for what is no part of a text."""
        # httpx's own lines would part a text at the separators that Unicode has, too.
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            self._take_line(line)
        return not self._answer.over

    def answer(self) -> Answer:
        """Return the text, once nothing more is to be read. Raises Fault if its end is missing."""
        self.take(b"\n")
        if not (self._whole or self._answer.finish or self._answer.over):
            raise Fault("ends its stream in the middle of a text")
        return self._answer

    def _take_line(self, line: bytes) -> None:
        answer, data = self._answer, line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or answer.over:
            return
        if data == b"[DONE]":
            self._whole = True  # and read on: a connection whose answer is read to its end serves again
            return
        try:
            chunk = _Chunk.model_validate_json(data)
        except ValidationError:
            raise Fault(f"sends what is no part of a text: {self._plain(data.decode(errors='replace'))}") from None
        if chunk.error:
            raise Fault(f"breaks a text off: {self._plain(_message(chunk.error))}")
        answer.usage, answer.fingerprint = chunk.usage or answer.usage, chunk.system_fingerprint or answer.fingerprint
        for choice in chunk.choices:
            delta = choice.delta or _Delta()
            thought, piece = delta.reasoning_content or delta.reasoning, delta.content or choice.text
            answer.finish = choice.finish_reason or answer.finish
            answer.token_ids += choice.token_ids or []
            if not (piece or thought):
                continue
            if len(answer.pieces) + answer.thoughts >= self._most:
                answer.over = True  # a piece is a token at least
                return
            answer.thoughts += bool(thought)
            answer.pieces += [piece] if piece else []
            if self._at_token:
                self._at_token()


class Server:
    """An address, and a model there."""

    def __init__(self, engine: AskedEngine) -> None:
        self.address, self.model = check_address(engine.address or ""), engine.served or ""
        self._root = self.address.removesuffix("/v1")
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError(f"what {KEY} holds is no key: it has other characters than letters, digits and signs")
        self._settings: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {self._key}"} if self._key else {},
            "timeout": httpx.Timeout(SILENT_S, connect=CONNECT_S, pool=None),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_S),
        }
        self._client = httpx.Client(**self._settings)

    @property
    def with_key(self) -> bool:
        """Return whether the environment holds a key."""
        return bool(self._key)

    def entry(self) -> dict[str, Any]:
        """Return what the server's list says of the model, but for times; {} where it has no list.

        Raises InputError for a model that is not in it.
        """
        response = self.patiently(self.models)
        try:
            entries = {str(entry["id"]): entry for entry in response.json()["data"]} if response.is_success else {}
        except (KeyError, TypeError, ValueError):
            entries = {}
        if entries and self.model not in entries:
            near = get_close_matches(self.model, entries, n=8, cutoff=0.3) or list(entries)[:8]
            raise self.error(f"has no model {self.model!r}", choices=map(printable, near))
        return {name: value for name, value in entries.get(self.model, {}).items() if name not in ("created", "permission")}

    def models(self) -> httpx.Response:
        """Return the server's answer to what needs no model; a server without a list of models answers, too."""
        response = self.ask_models()
        with suppress(Refused):
            self._need_success(response)
        return response

    def ask_models(self) -> httpx.Response:
        """Return what the server answers, whether it is a list or says what is wrong. Raises Fault where it does not."""
        with self._explained():
            return self._client.get(self.address + "/models")

    def identity(self) -> tuple[str | None, str]:
        """Return the kind of server, LLAMA_CPP, VLLM or None, and what it says that it is."""
        properties, version = self.told("/props"), self.told("/version").get("version")
        if build := properties.get("build_info"):
            file = str(properties.get("model_path", UNKNOWN)).replace("\\", "/").rpartition("/")[2]
            return LLAMA_CPP, f"{LLAMA_CPP} {build}, file {file}"
        if version:
            return VLLM, f"{VLLM} {version}"
        return None, self.models().headers.get("server", UNKNOWN)

    def told(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what a path beside OpenAI's answers; {} where there is none, or no answer."""
        try:
            response = self._client.request("POST" if body else "GET", self._root + path, json=body, timeout=CONNECT_S)
            told = response.json() if response.is_success else {}
        except (httpx.RequestError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def stream(self, path: str, body: dict[str, Any], most: int, at_token: AtToken | None) -> Answer:
        """Ask once for a text of `most` tokens, and read what is streamed; at_token() is called at each piece.

        Raises Fault, Refused or InputError.
        """
        reader = _Reader(most, at_token, self._plain)
        with self._explained(), self._client.stream("POST", self.address + path, json=body) as response:
            if not response.is_success:
                response.read()
            self._need_stream(response)
            for part in response.iter_bytes():
                if not reader.take(part):
                    break
        return reader.answer()

    def at_once(self, socket: Path | None = None) -> httpx.AsyncClient:
        """Return what `stream_among` asks through, for any number of texts at the same time; socket: in the place of a port."""
        transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=self._settings["limits"]) if socket else None
        return httpx.AsyncClient(**self._settings, transport=transport)

    async def stream_among(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any], most: int, at_token: AtToken
    ) -> Answer:
        """Ask for a text as `stream` does, while others are under way. Raises Unanswered or InputError."""
        reader = _Reader(most, at_token, self._plain)
        try:
            with self._explained():
                async with client.stream("POST", self.address + path, json=body) as response:
                    if not response.is_success:
                        await response.aread()
                    self._need_stream(response)
                    async for part in response.aiter_bytes():
                        if not reader.take(part):
                            break
            return reader.answer()
        except Fault as fault:
            raise Unanswered(f"the server {fault}") from None
        except Refused as refused:
            raise Unanswered(f"the server refuses a request with {refused.status}: {refused}") from None

    def patiently(self, attempt: Callable[[], Result], attempts: int = ATTEMPTS) -> Result:
        """Return what the first attempt gives that meets no Fault; raise ServerError after so many, or where none can help."""
        for number in count():
            try:
                return attempt()
            except Fault as fault:
                wait_s = FIRST_WAIT_S * 2**number if fault.wait_s is None else fault.wait_s
                if number + 1 == attempts or wait_s > LONGEST_WAIT_S:
                    raise ServerError(f"the server at {self.address} {fault}") from None
                time.sleep(wait_s)
        raise AssertionError  # count has no end

    def error(self, words: str, remedy: str | None = None, choices: Iterable[str] = ()) -> InputError:
        """Return the error that says of the server what is wrong."""
        return InputError(f"the server at {self.address} {words}", value=self.address, choices=choices, remedy=remedy)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what ends a connection into a Fault."""
        try:
            yield
        except httpx.ReadTimeout:
            raise Fault(f"was silent for {SILENT_S:,.0f} s", math.inf) from None
        except httpx.RequestError as error:
            raise Fault(f"does not answer ({self._plain(str(error) or type(error).__name__)})") from None

    def _need_stream(self, response: httpx.Response) -> None:
        self._need_success(response)
        if response.headers.get("content-type", "").startswith("application/json"):
            raise self.error("answers in one piece, and affq needs one that streams")

    def _need_success(self, response: httpx.Response) -> None:
        """Raise Fault, Refused or InputError for an answer that says what is wrong, and was read."""
        if response.is_success:
            return
        try:
            told = response.json()
        except ValueError:
            told = response.text
        status, words = response.status_code, self._plain(_message(told)) or response.reason_phrase
        if status in (401, 403):
            problem = f"refuses the key that {KEY} holds" if self._key else "asks for a key"
            raise self.error(f"{problem} ({status}: {words})", f"set {KEY} in the environment")
        if status in (408, 425, 429) or (status >= 500 and status != 501):
            wait = response.headers.get("retry-after", "")
            raise Fault(f"answers {status}: {words}", float(wait) if wait.isdecimal() else None)
        error = told.get("error") if isinstance(told, dict) else None
        raise Refused(status, words, str(error.get("param") or "") if isinstance(error, dict) else "")

    def _plain(self, words: str) -> str:
        """Return a server's words as they may be shown: in one short line, without the key."""
        plain = " ".join(printable(words.replace(self._key, KEY) if self._key else words, in_text=True).split())
        return plain if len(plain) <= MOST_LETTERS else f"{plain[:MOST_LETTERS]} …"


def look(engine: AskedEngine) -> None:
    """Raise InputError unless a server is there, takes the key and has the model."""
    server = Server(engine)
    try:
        server.ask_models()  # whether it is there is known at once
        server.entry()
    except Fault as fault:
        raise server.error(str(fault), "start it, or correct its address") from None
    except ServerError as error:
        raise InputError(str(error), value=server.address, remedy="try again later") from None
    finally:
        server.close()


def _message(told: Any) -> str:
    """Return the words of an error, in whichever of the usual ways a server says it."""
    if isinstance(told, dict):
        for name in ("error", "message", "detail"):
            if told.get(name):
                return _message(told[name])
    return told if isinstance(told, str) else json.dumps(told)
