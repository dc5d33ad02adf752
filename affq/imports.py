"""Import libraries without what they import for uses that affq has none of: a process starts seconds sooner."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


def models_of_transformers() -> None:
    """Import what transformers' models are made of, but not scipy for the losses of those that find objects in pictures.

    It goes on as where scipy is not installed: such a model could not be trained in this process, which affq never does. Nor
    torchao, which would be imported, if it is installed, to save what it has quantized; for loading that it is imported then.
    """
    from transformers.utils import import_utils

    with _without("scipy", "torchao"):
        import_utils.is_scipy_available.cache_clear()  # it has looked already, and does not look again
        import_utils.is_torchao_available.cache_clear()
        import transformers.modeling_utils  # noqa: F401
    import_utils.is_torchao_available.cache_clear()


def quantizer(package: str) -> None:
    """Import what transformers loads quantized weights with, as pip names it."""
    if package == "bitsandbytes":
        bitsandbytes()
    else:
        importlib.import_module(package.replace("-", "_"))


def bitsandbytes() -> None:
    """Import bitsandbytes, but not torch's compiler, which takes seconds and memory.

    bitsandbytes compiles with it what stands in for its own library where that lacks, and its optimizers: no run uses either. By
    itself it would try so at the first use, and fall back without a word where there is no C compiler.
    """
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        import bitsandbytes  # noqa: F401
    finally:
        if before is None:
            del os.environ["TORCHDYNAMO_DISABLE"]
        else:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def nltk() -> None:
    """Import nltk, whose stemmer rouge-score uses, but not scikit-learn, scipy and pandas for its classifiers and parsers."""
    with _without("scipy", "sklearn"):
        import nltk  # noqa: F401


@contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Hide packages from what is imported meanwhile, as if they were not installed; what is imported already stays so."""
    modules = cast(dict[str, ModuleType | None], sys.modules)
    before = {name: modules[name] for name in packages if name in modules}
    modules.update(dict.fromkeys(packages))
    try:
        yield
    finally:
        for name in packages:
            del modules[name]
        modules.update(before)
