"""Published evaluations of embeddings, each on its data set's own files."""

from ctfm.protocols.organ_mnist import organ_mnist
from ctfm.protocols.ranking import average_precision_at, hit_at, precision_at, rank

__all__ = ["average_precision_at", "hit_at", "organ_mnist", "precision_at", "rank"]
