"""Read, convert, verify and inject CT-FM weights: strict, counted, and said aloud.

Weights go wrong in silence: a load that matches no tensor leaves a random network that trains
without complaint. Here every tensor has to agree by name, shape and type, BatchNorm's running
statistics included; what does not agree is an error that names it. `load_encoder` and
`load_network` are what configs name as `_target_`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
