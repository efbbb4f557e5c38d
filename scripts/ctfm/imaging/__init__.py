"""Scans as users bring them: read, checked to be CT, on their own grid."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
