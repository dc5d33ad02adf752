"""affq: which model, at which precision, is worth the GPU memory and the wait, for text that carries an emotion?"""

from importlib.metadata import version

__version__ = version("affq")
