"""affq: which model, at which precision, is worth the GPU memory and the wait, for text that carries an emotion?

What a notebook needs is here: `load_study`, `Results`, `report`, `InputError`; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
