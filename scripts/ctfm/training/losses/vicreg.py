"""VICReg (arXiv:2105.04906): equal views, and features that vary and are not correlated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from ctfm.base.errors import UserError
from ctfm.training.losses.embeddings import full_precision, without_autocast
from ctfm.training.losses.gathering import gathered

__all__ = ["VICRegLoss", "covariance_term", "invariance_term", "variance_term"]


class VICRegLoss(nn.Module):
    """Weighted sum of invariance, variance and covariance.

    Args:
        invariance, variance, covariance: weights, the paper's lambda, mu and nu.
        eps: added to variances before their square root.
        within_scan: variances and covariances are those over the crops of a scan, averaged over
            scans, as in the published intra-sample runs. False: over all crops of the batch.
        gather: the batch is that of all processes together. Each process must have as many scans
            and crops as the others.

    Raises:
        UserError: `gather` together with `within_scan`.
    """

    def __init__(
        self,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        eps: float = 1e-4,
        within_scan: bool = False,
        gather: bool = False,
    ) -> None:
        super().__init__()
        if within_scan and gather:
            raise UserError("within_scan and gather are both true: give one of them")
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance
        self.eps = eps
        self.within_scan = within_scan
        self.gather = gather

    def forward(self, embeddings: Tensor, target: None = None) -> Tensor:
        """Sum of the terms.

        Args:
            embeddings: (B, crops, 2, dim).
            target: not used; trainers pass it.

        Raises:
            UserError: another shape, or a single crop, which does not vary.
        """
        return torch.stack(list(self.terms(embeddings).values())).sum()

    def terms(self, embeddings: Tensor) -> dict[str, Tensor]:
        """The weighted terms "invariance", "variance" and "covariance", each a scalar."""
        crops = full_precision(embeddings)
        if self.gather:
            crops = gathered(crops)
        sets = crops if self.within_scan else crops.flatten(0, 1)[None]  # (S, N, 2, dim)
        if sets.shape[1] < 2:
            raise UserError("one crop does not vary: give at least two crops of a scan")
        with without_autocast(sets):
            return {
                "invariance": self.invariance * invariance_term(sets),
                "variance": self.variance * variance_term(sets, self.eps),
                "covariance": self.covariance * covariance_term(sets),
            }


def invariance_term(sets: Tensor) -> Tensor:
    """Mean squared difference of the two views of S sets of N crops (S, N, 2, dim)."""
    first, second = sets.unbind(2)
    return mse_loss(first, second)


def variance_term(sets: Tensor, eps: float = 1e-4) -> Tensor:
    """How far each feature's standard deviation over a set is below 1; mean over features, views.

    Args:
        sets: (S, N, 2, dim).
        eps: keeps the gradient finite where a feature does not vary.
    """
    deviation = torch.sqrt(sets.var(1) + eps)  # (S, 2, dim)
    return relu(1 - deviation).mean()


def covariance_term(sets: Tensor) -> Tensor:
    """Squared covariances of different features over a set: sum over views and pairs, over dim.

    Args:
        sets: (S, N, 2, dim).

    Returns:
        Mean over sets.
    """
    number, dim = sets.shape[1], sets.shape[3]
    centred = (sets - sets.mean(1, keepdim=True)).transpose(1, 2)  # (S, 2, N, dim)
    # (S, 2, dim, dim) or (S, 2, N, N): the sums of their squares are equal, and VICReg's 8192
    # features of 15 crops would fill gigabytes
    product = centred.mT @ centred if dim < number else centred @ centred.mT
    itself = centred.square().sum(2)  # (S, 2, dim)
    squares = product.square().sum((1, 2, 3)) - itself.square().sum((1, 2))
    return squares.mean() / (number - 1) ** 2 / dim
