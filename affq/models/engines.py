"""What turns weights and prompts into tokens: transformers' own generate, each step as it is or compiled."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from affq.models.precisions import PrecisionError

if TYPE_CHECKING:
    import transformers

    from affq.inference import generate

ENGINES = ("transformers", COMPILED := "transformers-compiled")


def make_ready(
    model: "transformers.PreTrainedModel",
    precision: str,
    engine: str,
    inputs: "generate.Inputs",
    most_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Compute the inputs once, and let `generate` work as the engine does from now on; return {compile_s}, {} for another engine.

    The compiled engine computes each step of decoding by code that torch compiles for this model, over keys and values of one
    size for all prompts, so that it compiles once for each size of batch: now for that of the inputs, in compile_s seconds.
    inputs: as generate.prepare makes them. most_tokens: of a prompt and its text together. Raises PrecisionError as compute_once
    does, and for a model that transformers would go on computing as it is, without an error.
    """
    from affq.models.loading import compute_once  # it imports torch, which a study's settings do without

    compute_once(model, precision, inputs)
    if engine != COMPILED:
        return {}
    from transformers import CompileConfig

    quantizer = getattr(model, "hf_quantizer", None)
    if not getattr(model, "_can_compile_fullgraph", False) or (quantizer is not None and not quantizer.is_compileable):
        what = "this model" if quantizer is None else "what bitsandbytes has quantized"
        raise PrecisionError(f"transformers does not compile {what}; leave engine: {COMPILED} out for it")
    every_device: Any = CompileConfig()
    every_device._compile_all_devices = True  # else a CPU computes each step as it is, and says nothing
    model.generation_config.update(cache_implementation="static", max_cache_len=most_tokens, compile_config=every_device)
    start = clock()  # the second of three steps is the first that is compiled
    cast("generate.Model", model).generate(**inputs, max_new_tokens=3, eos_token_id=[-1], do_sample=False)
    return {"compile_s": clock() - start}
