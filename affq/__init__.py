"""affq: which model, at which precision, is worth the GPU memory and the wait, for text that carries an emotion?"""

import re
from importlib.metadata import version
from pathlib import Path

__version__ = version("affq")


class InputError(ValueError):
    """Bad input. The message names the value, the place and the choices; commands print it alone, without a traceback."""


def printable(text):
    """Show what is no printable character of a name or a message as \\x1b, so that it commands no terminal and breaks no file."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def without_places(text):
    """Put ~ for the user's folder and . for the current one, in what is published."""
    for place, sign in ((Path.cwd(), "."), (Path("~").expanduser(), "~")):
        if place.name:  # the root is in every path
            text = re.sub(rf"(?<!\w){re.escape(str(place))}(?![\w-])", sign, text)
    return text
