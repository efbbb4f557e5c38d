"""What a training needs beside MONAI's engines: losses, handlers, checkpoints, BatchNorm."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
