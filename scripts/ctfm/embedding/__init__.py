"""Embeddings of scans: windows over a volume, an encoder applied to each, a table of the results.

`WindowEmbedder`, `EmbeddingTable`, `RayPool`, `SegmenterEmbeddings`, `soft_tissue` and
`without_embeddings` are what configs name as `_target_`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
