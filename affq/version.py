"""Which affq this is; apart, so that `import affq` takes no time."""

from importlib.metadata import version

__version__ = version("affq")
