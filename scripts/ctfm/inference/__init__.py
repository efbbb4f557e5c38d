"""From a scan to a label map on its own grid, in memory that does not grow with the scan."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
