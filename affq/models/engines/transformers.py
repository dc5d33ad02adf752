"""transformers' own generate: each step computed as it is, or by code that torch compiles."""

from collections.abc import Sequence
from typing import Any, cast

import transformers

from affq.inference import AloneText, AtToken, Engine, Generation, Made, Request, TextReading, generate, kernels, probes
from affq.models import loading, memory, quantized, weights
from affq.models.engines import COMPILED
from affq.models.engines.asked import AskedRun
from affq.models.precisions import PrecisionError


class Transformers(Engine):
    """A model that transformers loads and generates with."""

    def __init__(self, run: AskedRun) -> None:
        self.run, self.device = run, loading.resolve_device(run.study.device)
        self._thinking, self._most_new = run.study.generation.thinking, run.study.generation.max_new_tokens

    def weights_sha256(self) -> str:
        """Return the fingerprint of the model's folder."""
        return weights.fingerprint(self.run.model.folder)

    def about(self) -> dict[str, str]:
        """Return the versions of what loads quantized weights, where no record has them already."""
        packages = quantized.needed(self.run.model.quantized, self.run.precision)
        return quantized.versions(name for name in packages if name != quantized.BITSANDBYTES)

    def import_all(self) -> None:
        """Import the model's code, by building it without memory."""
        loading.import_for(self.run.model.folder, self.run.precision, self.run.random_seed)

    def instruments(self) -> tuple[probes.Probe, probes.Clock]:
        """Return the probe and the clock of the device."""
        self._probe, self._clock = probes.instruments(self.device)
        return self._probe, self._clock

    def load(self) -> None:
        """Load the model, and prove by its census that the precision took effect."""
        run = self.run
        room = memory.room(run, memory.of_run(run, self.device), self.device)
        self._loaded, self._tokenizer = loading.load(run.model.folder, run.precision, self.device, run.random_seed, room)
        # transformers does not declare that its models generate.
        self._network = cast(generate.Model, self._loaded)
        loading.prove(loading.census(self._loaded), run.precision, run.model.folder)

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return how many tokens each request takes. Raises InputError for one that the model has no room for."""
        new_tokens = max(self._most_new, self.run.study.measurement.new_tokens)
        return generate.count_tokens(self._network, self._tokenizer, requests, new_tokens, self._thinking)

    def make_ready(self, requests: Sequence[Request]) -> dict[str, float]:
        """Compute the first request once, and let `generate` work as the engine does from now on; return {compile_s}.

        The compiled engine computes each step of decoding by code that torch compiles for this model, over keys and values of
        one size for all prompts, so that it compiles once for each size of batch: now for one text, in compile_s seconds. Raises
        PrecisionError as compute_once does, and for a model that transformers would go on computing as it is, without an error.
        """
        inputs = self.prepare(requests[:1])
        loading.compute_once(self._loaded, self.run.precision, inputs)
        if self.run.engine.name != COMPILED:
            return {}
        quantizer = getattr(self._loaded, "hf_quantizer", None)
        if not getattr(self._loaded, "_can_compile_fullgraph", False) or (quantizer is not None and not quantizer.is_compileable):
            what = "this model" if quantizer is None else f"what {loading.method_of(self._loaded)} has quantized"
            raise PrecisionError(f"transformers does not compile {what}; leave the engine {COMPILED} out for it")
        new_tokens = max(self._most_new, self.run.study.measurement.new_tokens)
        longest = self.prepare(requests)["input_ids"].shape[1] + new_tokens
        every_device: Any = transformers.CompileConfig()
        every_device._compile_all_devices = True  # else a CPU computes each step as it is, and says nothing
        settings = self._loaded.generation_config
        settings.update(cache_implementation="static", max_cache_len=longest, compile_config=every_device)
        start = self._clock()  # the second of three steps is the first that is compiled
        self._network.generate(**inputs, max_new_tokens=3, eos_token_id=[-1], do_sample=False)
        return {"compile_s": self._clock() - start}

    def texts(self, batch: Sequence[Request], at_token: AtToken | None = None) -> tuple[list[Generation], int | str]:
        """Generate one batch as the study asks for."""
        options = (self._most_new, at_token, self.run.study.sampling, self._thinking)
        return generate.texts(self._network, self._tokenizer, batch, *options)

    def prepare(self, requests: Sequence[Request]) -> generate.Inputs:
        """Return a batch as tensors on the device."""
        return generate.prepare(self._network, self._tokenizer, requests, self._thinking)

    def produce(self, inputs: generate.Inputs, new_tokens: int, at_token: AtToken | None = None) -> list[Made]:
        """Generate greedily exactly `new_tokens` for each prompt."""
        output = generate.exactly(self._network, self._tokenizer, inputs, new_tokens, at_token)
        return [Made(ids, new_tokens) for ids in output[:, -new_tokens:].tolist()]

    def profile(self, inputs: generate.Inputs, new_tokens: int) -> list[kernels.KernelTime]:
        """Return the time of each of torch's kernels while one text is generated."""
        return kernels.profile(self.produce, inputs, new_tokens, self.device == "cuda")

    def census(self) -> list[dict[str, Any]]:
        """Return every parameter counted, by role and dtype."""
        return loading.by_role(loading.census(self._loaded))

    def alone(self, readings: Sequence[TextReading]) -> list[AloneText]:
        """Return what each timed text is by itself, cut at its end."""
        return generate.alone(self._network, self._tokenizer, readings, self._most_new, self._thinking)

    def described(self) -> dict[str, Any]:
        """Return the model's class, its attention, the library of its products."""
        return loading.described(self._loaded, self._tokenizer)

    def close(self) -> None:
        """Do nothing: all of it ends with the process."""
