"""A bundle as the Model Zoo serves it: checked, packed, verified."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
