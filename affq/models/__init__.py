"""Where weights come from, what is checked before they are loaded; load a model at a precision, and prove it; predict its memory.

It may import results and every room below it. Its public names are in `__init__.pyi`, each imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
