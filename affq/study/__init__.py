"""What is asked: study files, prompts, claims; what is wrong with them, by file and line.

It may import scoring and every room below it. Its public names are in `__init__.pyi`, each imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
