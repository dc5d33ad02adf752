"""The files of a study's results: records and scores, where they come from, who holds them; people's labels and notes.

It may import inference and every room below it. Its public names are in `__init__.pyi`, each imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
