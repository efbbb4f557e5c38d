"""SimSiam (arXiv:2011.10566): predict one view's projection from the other's, without negatives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ctfm.training.losses.embeddings import full_precision

__all__ = ["SimSiamLoss"]


class SimSiamLoss(nn.Module):
    """Negative cosine of each view's prediction and the other view's projection, from -1 to 1.

    Projections have no gradient: without that all embeddings would become equal. Crops are not
    compared with each other, so that the loss within each scan, averaged over scans, is the same.
    """

    def forward(self, embeddings: Sequence[Tensor], target: None = None) -> Tensor:
        """Mean over both directions, crops and scans.

        Args:
            embeddings: projections and predictions, each (B, crops, 2, dim), of any length.
            target: not used; trainers pass it.

        Raises:
            UserError: another shape.
        """
        projected, predicted = (full_precision(tensor) for tensor in embeddings)
        other = projected.detach().flip(2)
        return -cosine_similarity(predicted, other, dim=-1).mean()
