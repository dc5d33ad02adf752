"""A model behind an OpenAI-compatible address: each text is asked for over HTTP, and read while it is streamed.

The server renders the prompts, counts the tokens and ends the texts; what it refuses or ignores of what is asked for is recorded.
"""

import json
import statistics
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import transformers

from affq.errors import InputError
from affq.inference import (
    UNKNOWN,
    AloneText,
    Ask,
    AtToken,
    Clock,
    Ending,
    Engine,
    Generation,
    KernelTime,
    Made,
    Probe,
    Request,
    TextReading,
    chat,
    generate,
    key_of,
    probes,
)
from affq.models.configuration import LOCAL
from affq.models.engines.asked import AskedRun
from affq.models.engines.server import ATTEMPTS, KEY, LLAMA_CPP, VLLM, Answer, Refused, Server

CHAT, COMPLETIONS = "/chat/completions", "/completions"
LIMITS = ("max_tokens", "max_completion_tokens")  # of a text: the name that most servers know, and the one that some ask for
ROUND_TRIPS = 20
MOST_AT_ONCE = 4096  # threads: a batch is never split


class OpenAI(Engine):
    """A model behind an address. A batch is asked for at once, each of its texts over a connection of its own."""

    device = "server"

    def __init__(self, run: AskedRun) -> None:
        self.run, self._thinking = run, run.study.generation.thinking
        self._server, self._pool = Server(run.engine), ThreadPoolExecutor(MOST_AT_ONCE)
        self._tokenizer: transformers.PreTrainedTokenizerBase | None = None
        # What is settled with the server by the first request.
        self._agreed, self._path, self._limit, self._refused = False, CHAT, LIMITS[0], set[str]()
        self._kind: str | None = None
        self._called = UNKNOWN
        self._compared: dict[str, Any] | None = None
        self._round_trip_s: float | None = None
        self._counts, self._fingerprints = Counter[str](), set[str]()

    def weights_sha256(self) -> str:
        """Return UNKNOWN: a server does not tell."""
        return UNKNOWN

    def about(self) -> dict[str, str]:
        """Return what the server says of itself and of the model, how it is asked, and what it refuses of that."""
        self._agree()
        asked = self._body(self.run.study.requests[0], self.run.study.generation.max_new_tokens, timed=True)
        settings = {name: value for name, value in asked.items() if name not in ("model", "messages", "prompt", "cache_salt")}
        return {
            "address": self._server.address,
            "model": self._server.model,
            "server": self._called,
            "says_of_the_model": json.dumps(self._server.entry(), sort_keys=True),
            "asked_by": self._path,
            "settings": json.dumps(settings, sort_keys=True),
            "refused": ", ".join(sorted(self._refused)),
            "tokens_by": self._tokens_by,
            "key": KEY if self._server.with_key else "",
        }

    def import_all(self) -> None:
        """Read the tokenizer of the study's model, where the model is here."""
        try:
            folder = self.run.model.folder
        except InputError:
            return
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)

    def instruments(self) -> tuple[Probe, Clock]:
        """Return a probe that knows of no memory, and this process's clock: latency is the client's."""
        return probes.UnknownProbe(), time.perf_counter

    def load(self) -> None:
        """Measure what the way to the server and back takes, without a model's work: the server has loaded its model itself."""
        self._agree()
        seconds = []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            self._server.patiently(self._server.models)
            seconds.append(time.perf_counter() - start)
        self._round_trip_s = statistics.median(seconds)

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return how many tokens each request takes, where the server or a tokenizer here tells; else letters, to order them by.

        The server's ids are compared with those that our template and tokenizer give. A request that the model has no room for
        is refused by the server: the longest come first.
        """
        lengths: dict[str, int] = {}
        first, compared, equal = None, 0, 0
        for request in requests:
            if (words := request["request"]) in lengths:
                continue
            theirs, ours = self._ids_of_server(words), self._own_ids(words)
            lengths[words] = len(theirs or ours or words)
            if theirs is not None and ours is not None:
                compared, equal = compared + 1, equal + (theirs == ours)
                first = request["prompt_id"] if first is None and theirs != ours else first
        self._compared = {"compared": compared, "equal": equal, "first": first} if compared else None
        return [lengths[request["request"]] for request in requests]

    def make_ready(self, requests: Sequence[Request]) -> dict[str, float]:
        """Do nothing: the server has computed its first token already."""
        return {}

    def texts(self, batch: Sequence[Request], at_token: AtToken | None = None) -> tuple[list[Generation], int | str]:
        """Generate one batch, all of its texts at once."""
        most = self.run.study.generation.max_new_tokens
        answers = self._together(batch, most, at_token=at_token)
        if at_token and not any(answer.pieces or answer.thoughts for answer in answers):
            at_token()  # all are empty: prefill ends where decoding does
        self._counts["texts"] += len(answers)
        self._counts["texts_over_limit"] += sum(answer.over or answer.new_tokens > most for answer in answers)
        return [self._generation(*pair, most) for pair in zip(batch, answers, strict=True)], UNKNOWN

    def prepare(self, requests: Sequence[Request]) -> list[Request]:
        """Return the requests: the server renders them."""
        return list(requests)

    def produce(self, inputs: list[Request], new_tokens: int, at_token: AtToken | None = None) -> list[Made]:
        """Generate greedily, all texts at once, and ask the server to ignore their ends; a failure is not tried again.

        at_token() is called at each piece that comes: most servers send one a token.
        """
        answers = self._together(inputs, new_tokens, timed=True, at_token=at_token)
        self._counts["timed"] += len(answers)
        self._counts["timed_short"] += sum(answer.new_tokens < new_tokens for answer in answers)
        self._counts["timed_over_limit"] += sum(answer.over or answer.new_tokens > new_tokens for answer in answers)
        self._counts["timed_tokens"] += sum(answer.new_tokens for answer in answers)
        self._counts["timed_pieces"] += sum(len(answer.pieces) + answer.thoughts for answer in answers)
        cached = sum(answer.usage.cached_tokens for answer in answers if answer.usage)
        self._counts["timed_prompt_tokens_cached"] += cached
        return [Made((), answer.new_tokens) for answer in answers]

    def profile(self, inputs: list[Request], new_tokens: int) -> list[KernelTime]:
        """Return nothing: a server's kernels are its own."""
        return []

    def census(self) -> list[dict[str, Any]]:
        """Return nothing: a server's weights cannot be counted."""
        return []

    def alone(self, readings: Sequence[TextReading]) -> list[AloneText]:
        """Return each timed text as the server writes it by itself, up to its end: it is asked for again, one at a time."""
        timed = [key_of(reading) for reading in readings if reading["round"] == 0]
        requests = [request for request in self.run.study.requests if key_of(request) in timed]
        return [{**key_of(request), "text": self.texts([request])[0][0]["text"]} for request in requests]

    def described(self) -> dict[str, Any]:
        """Return what serves the model, as far as the server tells, and what came of what it was asked for.

        round_trip_s: the median of ROUND_TRIPS requests that no model computes for. tokens_by: what counts tokens: the server's
        usage, or else the pieces of its streams. counts: of texts; over_limit: with more tokens than were asked for; short: with
        fewer, though their ends were to be ignored.
        """
        return {
            "class": UNKNOWN,
            "attention": UNKNOWN,
            "compute_dtype": UNKNOWN,
            "kernels": UNKNOWN,
            "placed": self._server.address,
            "chat_template": "the server's" if self._path == CHAT else "none",
            "thinking_switch": self._path == CHAT and "chat_template_kwargs" not in self._refused,
            "ends": {},
            "prompt_ids": self._compared,
            "round_trip_s": self._round_trip_s,
            "fingerprints": sorted(self._fingerprints),
            "tokens_by": self._tokens_by,
            "counts": dict(self._counts),
        }

    def serve(self, streams: int) -> None:
        """Settle with the server how it is asked: it has loaded its model itself."""
        self._agree()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Ask]:
        """Return what asks for a text as `texts` does, once, and without what the server may keep of a prompt."""
        most = self.run.study.generation.max_new_tokens
        async with self._server.at_once() as client:

            async def ask(request: Request, at_token: AtToken) -> Callable[[], Generation]:
                body = self._body(request, most, timed=False, fresh=True)
                answer = await self._server.stream_among(client, self._path, body, most, at_token)
                return lambda: self._generation(request, answer, most)

            yield ask

    def need(self) -> None:
        """Raise ServerError unless the server answers."""
        self._server.patiently(self._server.ask_models)

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown(cancel_futures=True)
        self._server.close()

    @property
    def _tokens_by(self) -> str:
        return "pieces" if self._counts["without_usage"] else "usage"

    def _agree(self) -> None:
        """Ask for one token with all that will be asked for, once: so it is settled by what path, and what the server refuses."""
        if not self._agreed:
            self._server.entry()
            self._together(self.run.study.requests[:1], 1, timed=True)
            self._kind, self._called = self._server.identity()
            self._agreed = True

    def _together(
        self, requests: Sequence[Request], most: int, timed: bool = False, at_token: AtToken | None = None
    ) -> list[Answer]:
        """Ask for texts at once, and return what the server streamed for each."""
        answers = list(self._pool.map(lambda request: self._ask(request, most, timed, at_token), requests))
        self._counts["without_usage"] += sum(answer.usage is None for answer in answers)
        self._fingerprints |= {answer.fingerprint for answer in answers if answer.fingerprint}
        return answers

    def _ask(self, request: Request, most: int, timed: bool, at_token: AtToken | None) -> Answer:
        """Ask for one text, again where that can help: while it is timed it cannot, since the time would be of both."""
        attempts = 1 if timed and self._agreed else ATTEMPTS
        return self._server.patiently(lambda: self._accepted(request, most, timed, at_token), attempts)

    def _accepted(self, request: Request, most: int, timed: bool, at_token: AtToken | None) -> Answer:
        """Ask for one text, without each parameter that the server turns out to refuse."""
        while True:
            body = self._body(request, most, timed)
            try:
                return self._server.stream(self._path, body, most, at_token)
            except Refused as refused:
                self._give_way(refused, body)

    def _give_way(self, refused: Refused, body: dict[str, Any]) -> None:
        """Settle on another path, or without a parameter, where the server refuses it; raise InputError where nothing is left."""
        named = {
            name for name in body if name not in ("model", "messages", "prompt", "stream", LIMITS[1]) and refused.names(name)
        }
        no_chat = refused.status in (404, 405, 501) or "chat template" in str(refused).lower()
        if named:
            self._refused |= named
            self._limit = LIMITS[LIMITS[0] in self._refused]
        elif no_chat and self._path == CHAT and not self._agreed:
            self._path = COMPLETIONS
        elif refused.status == 404:
            words = f"has no model {self._server.model!r}, or no path {self._path} ({refused})"
            raise self._server.error(words, "most addresses end in /v1") from None
        else:
            raise self._server.error(f"refuses a request with {refused.status}: {refused}") from None

    def _body(self, request: Request, most: int, timed: bool, fresh: bool = False) -> dict[str, Any]:
        """Return the body that asks for a text of `most` tokens, without what the server refuses.

        timed: greedily, end-of-text ignored. fresh, as what is timed: nothing of the prompt is kept from an earlier request.
        """
        sampling = None if timed else self.run.study.sampling
        wished: dict[str, Any] = {"temperature": 0, "seed": 0}
        if sampling:
            seed = generate.noise_key(sampling["seed"], request) % 2**31
            wished = {"temperature": sampling["temperature"], "seed": seed, "top_p": 1}
        # Some servers take penalties from a checkpoint's own settings, and keep what they computed of a prompt.
        wished |= {"stream_options": {"include_usage": True}, "repetition_penalty": 1.0, "cache_prompt": False}
        wished |= {"ignore_eos": True} if timed else {}
        wished |= {"cache_salt": uuid.uuid4().hex} if timed or fresh else {}
        settings = {name: value for name, value in wished.items() if name not in self._refused}
        return {"model": self._server.model, **self._asked(request["request"]), "stream": True, self._limit: most, **settings}

    def _asked(self, words: str) -> dict[str, Any]:
        """Return what a request gives to the server: the words as a user's message, or as they are where it has no chat."""
        if self._path == COMPLETIONS:
            return {"prompt": words}
        thinking = {"chat_template_kwargs": dict.fromkeys(chat.SWITCHES, self._thinking)}
        return {"messages": [{"role": "user", "content": words}]} | ({} if thinking.keys() & self._refused else thinking)

    def _generation(self, request: Request, answer: Answer, most: int) -> Generation:
        """Return a text up to its end, without the thoughts that it begins with, whether the server tells them apart or not."""
        inner = chat.thought_tokens("".join, answer.pieces, "")
        told = answer.usage.thought_tokens if answer.usage else None
        text = "".join(answer.pieces[inner:]).strip()
        # A stream that does not say why it ends has ended by itself where the limit was not reached.
        ended = answer.finish != "length" if answer.finish else answer.new_tokens < most
        ending: Ending = {
            "text": text,
            "new_tokens": answer.new_tokens - self._end_counted(answer),
            "thought_tokens": told or answer.thoughts + inner,
            "ended": ended and not answer.over,
            "opens_turn": self._tokenizer is not None and chat.opens_turn(text, chat.user_header(self._tokenizer)),
        }
        return generate.generation(request, request["request"], ending)

    def _end_counted(self, answer: Answer) -> bool:
        """Return whether the tokens that a server counts have the end of the text among them, which is none of the text."""
        return answer.finish == "stop" and answer.usage is not None and self._kind is not None

    def _ids_of_server(self, words: str) -> list[int] | None:
        """Return the ids of the prompt that the server makes of a request; None where it does not tell."""
        asked = self._asked(words)
        if self._kind == LLAMA_CPP:
            rendered = self._server.told("/apply-template", asked).get("prompt") if self._path == CHAT else words
            body = {"content": rendered, "add_special": True, "parse_special": True}  # as it does before it generates
        elif self._kind == VLLM:
            body = {"model": self._server.model, **asked}
        else:
            return None
        tokens = self._server.told("/tokenize", body).get("tokens")
        return tokens if isinstance(tokens, list) and tokens else None

    def _own_ids(self, words: str) -> list[int] | None:
        """Return the ids of the prompt that our template and tokenizer make of a request; None where they are not here."""
        if self._tokenizer is None:
            return None
        return generate.token_ids(self._tokenizer, [chat.render(self._tokenizer, words, self._thinking)])[0]
