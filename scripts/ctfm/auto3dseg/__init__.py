"""The code behind the Auto3DSeg template: its shims import from here.

Auto3DSeg analyses the data; `statistics` reads that, `decisions` chooses from it, `checks` refuses
what cannot work, `algo` writes a folder for each fold and starts `training` there; `inference`
predicts with what a checkpoint carries, and with nothing else.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
