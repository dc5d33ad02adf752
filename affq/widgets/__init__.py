"""What people hold in JupyterLab: the explorer and the annotator, their state and keys. Nothing is reckoned here.

It may import report and every room below it. Its public names are in `__init__.pyi`, each imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
