"""Plan a study, execute its runs (the only room that knows papermill), follow them, say how they ended; look at the machine.

It may import study and every room below it. Its public names are in `__init__.pyi`, each imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
