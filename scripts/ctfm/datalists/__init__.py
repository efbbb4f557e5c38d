"""Data set folders to MONAI datalists, and back; needs neither torch nor monai."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
