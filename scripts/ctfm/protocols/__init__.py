"""Published evaluations of embeddings, each on its data set's own files."""

from ctfm.protocols.clustering import clustering
from ctfm.protocols.mir import mir
from ctfm.protocols.organ_mnist import organ_mnist
from ctfm.protocols.ranking import average_precision_at, hit_at, precision_at, rank
from ctfm.protocols.saliency import saliency
from ctfm.protocols.semantic import semantic
from ctfm.protocols.stability import stability

__all__ = [
    "average_precision_at",
    "clustering",
    "hit_at",
    "mir",
    "organ_mnist",
    "precision_at",
    "rank",
    "saliency",
    "semantic",
    "stability",
]
