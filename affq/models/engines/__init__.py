"""The engines: which there are, which precisions each can have, and one of them for a run.

This table imports no library: a study's settings are read without. Each engine has a module of its own, imported when a run
needs it.
"""

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from affq.errors import InputError
from affq.models import ggufs, quantized, sources
from affq.models.engines.asked import AskedEngine, AskedRun
from affq.models.precisions import PRECISIONS, STORED
from affq.models.sources import Architecture, Source

if TYPE_CHECKING:
    from affq.inference import Engine, Serving

ENGINES = (
    TRANSFORMERS := "transformers",
    COMPILED := "transformers-compiled",
    LLAMA_CPP := "llama.cpp",
    OPENAI := "openai",
    VLLM := "vllm",
)
SERVING = (LLAMA_CPP, OPENAI, VLLM)  # what can be asked for texts by many at once


def why_not(model: Source, precision: str, engine: AskedEngine, device: str) -> str | None:
    """Return why a model cannot be had at a precision on an engine, in a few words; None where nothing is known against it.

    Only what a table knows is said here, before anything is fetched; what loading finds out fails the run. device: as a study
    asks for it: auto, cpu or cuda.
    """
    if engine.of not in (None, model.name):
        return f"it serves {engine.of}"
    if engine.name == OPENAI and precision != STORED:
        return f"a server has its weights as it has them: its precision is called {STORED}"
    if engine.name == VLLM and precision == STORED and model.quantized and model.quantized.method == quantized.GGUF:
        return "vllm is given a GGUF file's weights as float32; llama.cpp takes them as they are"
    if engine.name == VLLM and precision != STORED and PRECISIONS[precision].quantization:
        return "vllm takes what is quantized already, as stored, and quantizes nothing itself here"
    if engine.name in (OPENAI, VLLM) and isinstance(getattr(model, "source", model), Architecture):
        return "random weights are drawn by transformers alone"
    if engine.name == LLAMA_CPP:
        return _why_not_by_llama_cpp(model, precision, device)
    if PRECISIONS[precision].library == LLAMA_CPP:
        return f"{precision} is a type of llama.cpp's"
    if engine.name in (TRANSFORMERS, COMPILED):
        if PRECISIONS[precision].cuda_only and device == "cpu":
            return quantized.CUDA_ONLY
        return _why_not_by_transformers(model, precision, compiled=engine.name == COMPILED)
    return None


def _why_not_by_transformers(model: Source, precision: str, compiled: bool) -> str | None:
    stored, method = model.quantized, PRECISIONS[precision].library
    if stored and stored.method == quantized.GGUF:
        if precision == STORED:
            return "transformers turns a GGUF file's weights into float32; llama.cpp takes them as they are"
    elif stored:
        if precision != STORED:
            return quantized.already(stored)
        if stored.method in quantized.FETCHES_KERNELS:
            return (
                f"transformers fetches its kernels for {stored.method} from the hub while it runs, which affq does not let it do"
            )
        if stored.method not in quantized.PACKAGES:
            return f"affq does not load what {stored.method} has quantized in transformers; give the weights it was made from"
        method = stored.method
    elif precision == STORED and sources.is_shape(model):
        return "random weights are stored nowhere; name another precision"
    if compiled and method and method not in quantized.COMPILED:
        return f"transformers does not compile what {method} has quantized"
    return None


def _why_not_by_llama_cpp(model: Source, precision: str, device: str) -> str | None:
    if precision != STORED and precision not in ggufs.TYPES:
        return f"llama.cpp has no {precision}; it has stored, {', '.join(ggufs.TYPES)}"
    if model.gguf is None:
        return "llama.cpp reads GGUF files: convert the model with its convert_hf_to_gguf.py, and name the file that it writes"
    return "affq has llama.cpp compute on the processor alone" if device == "cuda" else None


def held_bits(model: Source, precision: str) -> float:
    """Return how many bits hold a weight of a model at a precision, scales not counted; 0 where its checkpoint does not say."""
    if precision != STORED:
        return PRECISIONS[precision].bits
    if model.quantized and model.quantized.bits:
        return model.quantized.bits
    kind = re.search(r"(?:float|int|[fq])(\d+)", model.stored_dtype or "")
    return int(kind[1]) if kind else 0


def lacks(model: Source, precision: str, engine: AskedEngine) -> str | None:
    """Return which packages an engine needs for a run that are not installed here, and how to get them; None where all are."""
    if engine.name == LLAMA_CPP and find_spec("xllamacpp") is None:
        return "the engine llama.cpp needs the package xllamacpp, which is not installed here: pip install 'affq[llama.cpp]'"
    return quantized.lacks(model.quantized, precision) if engine.name in (TRANSFORMERS, COMPILED) else None


def fetch(model: Source, precision: str, engine: AskedEngine, say: Callable[[str], None]) -> None:
    """Bring a model's weights here as an engine reads them, which may reach the network; say(words) is told what goes on.

    Of a server nothing is brought here; raises InputError unless it is there and has the model. So it does where a package is not
    installed, before anything is fetched.
    """
    if words := lacks(model, precision, engine):
        raise InputError(words, value=engine.name)
    if engine.name == OPENAI:
        from affq.models.engines.server import look

        look(engine)
        return
    if engine.name == LLAMA_CPP and model.gguf:
        model.fetch_gguf(say)
        ggufs.make(model.gguf, precision, say)
    model.fetch(say)


def engine_of(run: AskedRun) -> "Engine":
    """Return the engine of a run, whose model is neither fetched nor loaded yet."""
    if run.engine.name == OPENAI:
        from affq.models.engines.openai import OpenAI

        return OpenAI(run)
    if run.engine.name == VLLM:
        from affq.models.engines.vllm import Vllm

        return Vllm(run)
    if run.engine.name == LLAMA_CPP:
        from affq.models.engines.llama_cpp import LlamaCpp

        return LlamaCpp(run)
    from affq.models.engines.transformers import Transformers

    return Transformers(run)


def serving_engine_of(run: AskedRun) -> "Serving":
    """Return the engine of a run, to be asked for texts by many at once. Raises InputError for an engine that does not serve."""
    if run.engine.name not in SERVING:
        raise InputError(f"the engine {run.engine.name} serves nobody", value=run.engine.name, choices=SERVING)
    return cast("Serving", engine_of(run))
