"""Embeddings of scans: windows over a volume, an encoder applied to each, a table of the results.

`WindowEmbedder`, `EmbeddingTable`, `RayPool`, `SegmenterEmbeddings`, `soft_tissue` and
`without_embeddings` are what configs name as `_target_`.
"""

from ctfm.embedding.embedder import Embedder
from ctfm.embedding.inferer import WindowEmbedder, embed_windows
from ctfm.embedding.inputs import preprocessing, soft_tissue
from ctfm.embedding.pool import RayPool
from ctfm.embedding.recipes import POOLINGS, RECIPES, make_recipe
from ctfm.embedding.segmenter import SegmenterEmbeddings
from ctfm.embedding.table import EmbeddingTable, without_embeddings
from ctfm.embedding.windows import WindowGrid, cut_window, world

__all__ = [
    "POOLINGS",
    "RECIPES",
    "Embedder",
    "EmbeddingTable",
    "RayPool",
    "SegmenterEmbeddings",
    "WindowEmbedder",
    "WindowGrid",
    "cut_window",
    "embed_windows",
    "make_recipe",
    "preprocessing",
    "soft_tissue",
    "without_embeddings",
    "world",
]
