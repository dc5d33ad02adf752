"""An event loop whose time jumps instead of passing, and a server in it whose every token comes when it is planned to."""

import asyncio
import json
import selectors
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np

from affq.errors import InputError
from affq.models import engines, sources
from affq.models.engines.asked import AskedEngine
from affq.models.engines.openai import OpenAI

FIRST_S, TOKEN_S, TOKENS = 0.05, 0.01, 10
REQUESTS = [
    {"prompt_id": name, "kind": "general", "emotion": "joy", "sample": 0, "request": f"Write {name}."} for name in ("a", "b", "c")
]
QUANTILES = (0.5, 0.9, 0.99)
SETTLED_S = 0.0005  # of real time, in which what was written to a connection of this machine is there


class Simulated(asyncio.SelectorEventLoop):
    """Its clock stands still while anything can be done, and jumps to the next timer when nothing can."""

    def __init__(self):
        self.now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self):
        return self.now_s


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def select(self, timeout=None):
        if timeout is None:
            return super().select(0.1)  # a thread is waited for
        if not (ready := super().select(0)) and timeout > 0 and not (ready := super().select(SETTLED_S)):
            self.loop.now_s += timeout
        return ready


def simulate(coroutine):
    """Run a coroutine in simulated time, and return what it returns."""
    with asyncio.Runner(loop_factory=Simulated) as runner:
        return runner.run(coroutine)


class Known:
    """A server that answers each chat with TOKENS pieces, the first after FIRST_S, each further one TOKEN_S later.

    pause: from when to when, in seconds of the loop's clock, it sends nothing. refuse: answers 503 to every request of this
    number and its multiples. at_once: how many texts are under way; most: how many were.
    """

    def __init__(self, pause=(0.0, 0.0), refuse=0):
        self.pause, self.refuse = pause, refuse
        self.asked = self.at_once = self.most = 0

    @asynccontextmanager
    async def serving(self):
        """Serve; gives the address."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=1000)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    def sends(self, at):
        """Return when a piece is sent that is ready at a time."""
        return self.pause[1] if self.pause[0] <= at < self.pause[1] else at

    async def _answer(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET"):
                    writer.write(b"HTTP/1.1 404 None\r\nContent-Length: 2\r\n\r\n{}")
                    continue
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(length)
                self.asked, self.at_once = self.asked + 1, self.at_once + 1
                self.most = max(self.most, self.at_once)
                await self._stream(writer)
                self.at_once -= 1
        except asyncio.IncompleteReadError:
            pass  # the client has closed its connection
        finally:
            writer.close()

    async def _stream(self, writer):
        if self.refuse and self.asked % self.refuse == 0:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nBusy")
            return
        clock = asyncio.get_running_loop().time
        ready = clock()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(TOKENS):
            ready = self.sends(ready + (TOKEN_S if number else FIRST_S))
            await asyncio.sleep(ready - clock())
            self._write(writer, {"choices": [{"delta": {"content": f" {number}"}}]})
        self._write(writer, {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"completion_tokens": TOKENS}})
        writer.write(b"E\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _write(self, writer, chunk):
        data = f"data: {json.dumps(chunk)}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def client(address):
    """Return the engine that asks the server at an address, as a run has it."""
    study = SimpleNamespace(generation=SimpleNamespace(max_new_tokens=TOKENS, thinking=False), sampling=None, requests=REQUESTS)
    away = sources.absent("away", InputError("it is not here"))
    at = AskedEngine(engines.OPENAI, "known", address, "known")
    return OpenAI(SimpleNamespace(study=study, model=away, precision="stored", engine=at, random_seed=None))


def seconds(rows):
    """Return seconds to the first token and to the end, of each text since it was due, and between tokens, of all."""
    first = np.array([row["first_s"] - row["due_s"] for row in rows])
    whole = np.array([row["end_s"] - row["due_s"] for row in rows])
    between = np.concatenate([np.diff(row["moments_s"]) for row in rows])
    return {"first": first, "whole": whole, "between": between}


def planned(due_s, known):
    """Return what `seconds` is to be, for texts that are sent when they are due: the server's plan, worked out text by text."""
    moments = np.empty((len(due_s), TOKENS))
    for place, due in enumerate(due_s):
        for number in range(TOKENS):
            ready = moments[place, number - 1] + TOKEN_S if number else due + FIRST_S
            moments[place, number] = known.sends(ready)
    ends = moments[:, -1] - due_s
    return {"first": moments[:, 0] - due_s, "whole": ends, "between": np.diff(moments, axis=1).ravel()}
