"""affq: which model, at which precision, is worth the GPU memory and the wait, for text that carries an emotion?

What a notebook needs is here: `load_study`, `Results`, `report`, `InputError`; each is imported when it is first used.
"""

import os

import lazy_loader

# Where the package `kernels` is installed, transformers would fetch code from the hub while it builds some models. It reads
# this when it is imported, and so do the processes that affq starts.
os.environ["USE_HUB_KERNELS"] = "NO"

# As __init__.pyi says, whose reading would take as long as Python's own start: Ctrl-C would meet it at each command.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["report"], {"analysis": ["Results"], "errors": ["InputError"], "study": ["load_study"], "version": ["__version__"]}
)
