"""Embeddings that a segmentation has left on the side, in the same table as others."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from ctfm.base.types import Array
from ctfm.embedding.table import EmbeddingTable

__all__ = ["SegmenterEmbeddings"]


class SegmenterEmbeddings(EmbeddingTable):
    """Handler: write what `LabelMapInferer(embed=True)` notes of each scan's windows.

    The features are those of the encoder as it was fine-tuned to segment, which are not those of
    the pretrained one: the two do not mix in one table. Otherwise as `EmbeddingTable`, whose
    `network` is here the encoder of the segmentation network.
    """

    def attach(self, engine: Engine) -> None:
        """Add a scan before its label map is written, which is what says that it is done."""
        engine.add_event_handler(Events.STARTED, lambda _engine: self.start())
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._add)

    def _patches(self, _image: Any, labels: Any) -> tuple[Array, Array]:
        return labels.meta["embeddings"].numpy(), labels.meta["centres_mm"].numpy()
