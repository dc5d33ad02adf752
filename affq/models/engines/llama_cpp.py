"""llama.cpp: a GGUF file as it was published, or made of that at another precision, computed on the processor."""

import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from affq.errors import InputError
from affq.inference import (
    AloneText,
    Ask,
    AtToken,
    Ending,
    Engine,
    Generation,
    Made,
    Request,
    TextReading,
    chat,
    generate,
    kernels,
    key_of,
    probes,
)
from affq.models import ggufs, loading, weights
from affq.models.engines.asked import AskedRun
from affq.models.engines.llama_server import LlamaServer, Written
from affq.models.precisions import STORED, PrecisionError

GREEDY = {"samplers": ["top_k"], "top_k": 1}  # the likeliest token, and no settings that the file has of its own
DRAWN = "a seed for each text: no random numbers in common with another precision or engine; texts that share a step can differ"
# Neither prompts nor their keys and values are kept from one text to the next: each is computed, as it is timed. Weights are read
# into memory (load_mode 0), where they are counted, and a text has its own room for keys and values, whichever shares its batch.
# At most n_batch tokens are taken at once, and n_ubatch computed, as llama.cpp does by itself.
PARAMETERS = {
    "load_mode": 0,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_gpu_layers": 0,
    "kv_unified": False,
    "fit_params": False,
    "cache_prompt": False,
    "cache_ram_mib": 0,
    "cache_idle_slots": False,
    "n_ctx_checkpoints": 0,
    "slot_prompt_similarity": 0.0,
}


class LlamaCpp(Engine):
    """A model that llama.cpp's server has, in a process of its own: one text for each of its slots at once."""

    device = "cpu"

    def __init__(self, run: AskedRun) -> None:
        self.run = run
        self._thinking, self._most_new = run.study.generation.thinking, run.study.generation.max_new_tokens
        self._slots = 0

    @cached_property
    def _gguf(self) -> Path:
        published = self.run.model.gguf
        assert published  # else why_not has a reason
        if not (published.is_file() and (path := ggufs.at(published, self.run.precision)).is_file()):
            problem = f"the GGUF file of {self.run.model.name} at {self.run.precision} is not in the cache"
            raise InputError(problem, value=self.run.precision, remedy="affq run brings it there")
        return path

    @cached_property
    def _server(self) -> LlamaServer:
        return LlamaServer()

    def weights_sha256(self) -> str:
        """Return the fingerprint of the model's folder, for its tokenizer and template, and of the GGUF file."""
        both = f"{weights.fingerprint(self.run.model.folder)} {weights.remembered_sha256(self._gguf)}"
        return hashlib.sha256(both.encode()).hexdigest()

    def about(self) -> dict[str, str]:
        """Return the version of llama.cpp's package, what it uses of the processor, and the settings that it is given."""
        threads = torch.get_num_threads()  # as many as transformers takes
        return {
            "xllamacpp": self._server.version,
            "build": self._server.build,
            "system": self._server.system,
            "threads": str(threads),
            "parameters": ", ".join(f"{name}: {value}" for name, value in PARAMETERS.items()),
            "keys_and_values": "f16",
            "sampling": DRAWN if self.run.study.sampling else "greedy",
        }

    def import_all(self) -> None:
        """Read the configuration, the tokenizer, and the file's tensors; llama.cpp itself is in its own process already."""
        self.config, self._tokenizer, self._ends = loading.tokenizer_of(self.run.model.folder)
        self._header, self._stored = chat.user_header(self._tokenizer), ggufs.census(self._gguf)

    def instruments(self) -> tuple[probes.Probe, probes.Clock]:
        """Return the probe of llama.cpp's process, and the clock."""
        return probes.RssProbe(self._server.pid), time.perf_counter

    def load(self) -> None:
        """Load the model with as many slots as a batch has texts, and prove its precision by the tensors of its file."""
        self._prove()
        study = self.run.study
        self._serve(min(study.batch, len(study.requests)))
        self._reported = self._sizes

    def serve(self, streams: int) -> None:
        """Load the model with so many slots, each with the room that a batch's slots have."""
        self._prove()
        self._serve(streams)
        self._inputs = {request["request"]: self._input(request) for request in self.run.study.requests}

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Ask]:
        """Return what asks for a text by the token ids that `texts` gives."""
        async with self._server.at_once() as client:

            async def ask(request: Request, at_token: AtToken) -> Callable[[], Ending]:
                written, (prompt, ids) = Written(), self._inputs[request["request"]]
                body = {"prompt": ids, "n_predict": self._most_new, **self._decoding(request)}
                async for chunk in self._server.stream_among(client, body):
                    written.take(chunk, self._encode)
                    if not written.done:
                        at_token()
                return lambda: self._ending(written, prompt)

            yield ask

    def need(self) -> None:
        """Raise ServerError if llama.cpp's process has ended."""
        self._server.need()

    def _prove(self) -> None:
        """Prove the precision by the file's tensors, of which norms and biases are float32 always, and reckon a slot's room."""
        if self.run.precision != STORED:
            loading.prove([row for row in self._stored if row["role"] not in ("norm", "bias")], self.run.precision)
        study = self.run.study
        new_tokens = max(self._most_new, study.measurement.new_tokens)
        self._room = ggufs.room(max(self.count_tokens(study.requests)) + new_tokens)

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return how many tokens each request takes. Raises InputError for one that the model has no room for."""
        new_tokens = max(self._most_new, self.run.study.measurement.new_tokens)
        return generate.count_tokens(self, self._tokenizer, requests, new_tokens, self._thinking)

    def make_ready(self, requests: Sequence[Request]) -> dict[str, float]:
        """Compute the first request once, and compare every prompt's token ids with those that llama.cpp makes by itself."""
        if not self._finite(self._ids(requests[:1])[0]):
            precision = self.run.precision
            raise PrecisionError(f"{precision} gives logits of this model that are not finite numbers; {generate.NO_NUMBERS}")
        differs = [request for request in requests if self._own_ids(request) != self._ids([request])[0]]
        first = differs[0]["prompt_id"] if differs else None
        self._prompt_ids = {"compared": len(requests), "equal": len(requests) - len(differs), "first": first}
        return {}

    def texts(self, batch: Sequence[Request], at_token: AtToken | None = None) -> tuple[list[Generation], int | str]:
        """Generate one batch as the study asks for, a slot for each text.

        Where tokens are drawn, each text has a seed of its own: they are asked for one by one, at the same time.
        """
        study = self.run.study
        self._serve(min(study.batch, len(study.requests)))
        options, prompts = {"n_predict": self._most_new}, self._ids(batch)
        if study.sampling is None:
            written = self._generate(prompts, GREEDY | options, at_token)
        else:
            tellers = [at_token, *[None] * (len(batch) - 1)]
            with ThreadPoolExecutor(len(batch)) as pool:
                asked = zip(batch, prompts, tellers, strict=True)
                calls = [pool.submit(self._generate, [ids], options | self._decoding(one), tell) for one, ids, tell in asked]
            written = [text for call in calls for text in call.result()]
        texts = [
            generate.generation(request, prompt, self._ending(text, prompt))
            for request, prompt, text in zip(batch, self._rendered(batch), written, strict=True)
        ]
        for text, ids in zip(texts, prompts, strict=True):
            if not text["new_tokens"] and not self._finite(ids):  # it takes the first token of all for the likeliest then
                raise generate.LogitsError(
                    f"prompt {text['prompt_id']!r}: the model's logits are not finite numbers; {generate.NO_NUMBERS}"
                )
        return texts, self._sizes.get("KV", probes.UNKNOWN)

    def prepare(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return the token ids of each request; the model is loaded anew, if it has another number of slots."""
        self._serve(len(requests))
        return self._ids(requests)

    def produce(self, inputs: list[list[int]], new_tokens: int, at_token: AtToken | None = None) -> list[Made]:
        """Generate greedily exactly `new_tokens` for each prompt; an end of text is not taken, even where it is likeliest."""
        written = self._generate(inputs, GREEDY | {"n_predict": new_tokens, "ignore_eos": True}, at_token)
        return [Made(text.token_ids, text.new_tokens) for text in written]

    def profile(self, inputs: Any, new_tokens: int) -> list[kernels.KernelTime]:
        """Return nothing: torch's profiler sees none of llama.cpp's kernels."""
        return []

    def census(self) -> list[dict[str, Any]]:
        """Return every tensor of the file counted, by role and type; llama.cpp holds them as they are there."""
        return loading.by_role(self._stored)

    def alone(self, readings: Sequence[TextReading]) -> list[AloneText]:
        """Return what each timed text is by itself: generated once more, since an end of text was not taken when it was timed."""
        self._serve(1)
        keys = [key_of(reading) for reading in readings if reading["round"] == 0]
        asked = {tuple(key_of(request).values()): request for request in self.run.study.requests}
        rows: list[AloneText] = []
        for key in keys:
            request = asked[tuple(key.values())]
            (text,) = self._generate(self._ids([request]), GREEDY | {"n_predict": self._most_new})
            rows.append({**key, "text": self._ending(text, *self._rendered([request]))["text"]})
        return rows

    def described(self) -> dict[str, Any]:
        """Return what serves the model: its architecture, what llama.cpp says of its memory, whether prompts are as ours."""
        tokenizer = self._tokenizer
        return {
            "class": type(self.config).__name__,
            "attention": "flash" if self._server.flash_attention else "plain",
            "compute_dtype": "float32",
            "kernels": "llama.cpp",
            "placed": self.device,
            "chat_template": "the tokenizer's" if chat.template_of(tokenizer) else "none",
            "thinking_switch": chat.has_switch(tokenizer),
            "ends": {str(tokenizer.convert_ids_to_tokens(end)): end for end in self._ends},
            "prompt_ids": self._prompt_ids,
            "reported_bytes": self._reported,
        }

    def close(self) -> None:
        """End llama.cpp's process."""
        self._server.close()

    def _serve(self, slots: int) -> None:
        """Load the model with so many slots, unless it is loaded so."""
        if slots == self._slots:
            return
        threads, self._slots = torch.get_num_threads(), 0
        sizes = {"n_parallel": slots, "n_ctx": slots * self._room}
        used = {"cpuparams.n_threads": threads, "cpuparams_batch.n_threads": threads}
        self._sizes = self._server.load({"model.path": str(self._gguf), **sizes, **used, **PARAMETERS})
        self._slots = slots

    def _generate(self, prompts: list[list[int]], options: dict[str, Any], at_token: AtToken | None = None) -> list[Written]:
        return self._server.generate(prompts, options, self._encode, at_token)

    def _decoding(self, request: Request) -> dict[str, Any]:
        """Return by what options the tokens of a text are chosen: the likeliest, or drawn by a seed of its own."""
        if (sampling := self.run.study.sampling) is None:
            return GREEDY
        seed = generate.noise_key(sampling["seed"], request) % (2**32 - 1)  # the last: any seed
        return {"samplers": ["temperature"], "temperature": sampling["temperature"], "seed": seed}

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _rendered(self, requests: Sequence[Request]) -> list[str]:
        return [chat.render(self._tokenizer, request["request"], self._thinking) for request in requests]

    def _ids(self, requests: Sequence[Request]) -> list[list[int]]:
        return generate.token_ids(self._tokenizer, self._rendered(requests))

    def _input(self, request: Request) -> tuple[str, list[int]]:
        """Return what is given for a request, rendered and as token ids."""
        return self._rendered([request])[0], self._ids([request])[0]

    def _own_ids(self, request: Request) -> list[int]:
        """Return the token ids that llama.cpp makes of a request by its own template, where ours has one, and tokenizer."""
        words = request["request"]
        if chat.template_of(self._tokenizer) is not None:
            switches = dict.fromkeys(chat.SWITCHES, self._thinking)
            asked = {"messages": [{"role": "user", "content": words}], "chat_template_kwargs": switches}
            words = self._server.ask("/apply-template", asked)["prompt"]
        return self._server.ask("/tokenize", {"content": words, "add_special": True, "parse_special": True})["tokens"]

    def _ending(self, text: Written, prompt: str) -> Ending:
        """Return a text up to its end: ours, or one that ends it for llama.cpp alone."""
        ends = [*self._ends, *text.token_ids[-1:]] if text.ended else self._ends
        return generate.up_to_end(ends, self._tokenizer, text.token_ids, prompt, self._header)

    def _finite(self, ids: list[int]) -> bool:
        """Return whether the logits behind a prompt are numbers: llama.cpp itself does not look."""
        asked = {"prompt": ids, "n_predict": 1, "n_probs": 1, "cache_prompt": False, **GREEDY}
        tokens = self._server.ask("/completion", asked)["completion_probabilities"]
        return all(isinstance(token["logprob"], float | int) and math.isfinite(token["logprob"]) for token in tokens)
