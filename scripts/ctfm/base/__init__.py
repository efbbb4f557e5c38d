"""The ground floor: errors in one line, files that appear whole, tables, many processes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
