"""Make texts and time them; the memory and the load of the machine meanwhile.

It may import stats and the ground. Its public names are in `__init__.pyi`, each imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
