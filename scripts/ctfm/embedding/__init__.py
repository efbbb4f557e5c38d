"""Embeddings of scans: windows over a volume, an encoder applied to each, a table of the results.

`WindowEmbedder`, `EmbeddingTable`, `soft_tissue` and `without_embeddings` are what configs name as
`_target_`.
"""

from ctfm.embedding.inferer import WindowEmbedder, embed_windows
from ctfm.embedding.inputs import soft_tissue
from ctfm.embedding.table import POOLINGS, EmbeddingTable, without_embeddings
from ctfm.embedding.windows import WindowGrid, cut_window, world

__all__ = [
    "POOLINGS",
    "EmbeddingTable",
    "WindowEmbedder",
    "WindowGrid",
    "cut_window",
    "embed_windows",
    "soft_tissue",
    "without_embeddings",
    "world",
]
