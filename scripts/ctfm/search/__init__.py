"""Find a location of one scan in another, or similar scans in an index, and look at them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
