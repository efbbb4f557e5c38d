"""Contrastive losses (NT-Xent): find the other view of a crop among many views.

Of one scan: CT-FM, arXiv:2501.09001. Of all scans: SimCLR, arXiv:2002.05709.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ctfm.base.errors import UserError
from ctfm.training.losses.embeddings import full_precision, without_autocast
from ctfm.training.losses.gathering import gathered, rank

__all__ = ["IntraSampleNTXentLoss", "NTXentLoss", "nt_xent"]


class IntraSampleNTXentLoss(nn.Module):
    """CT-FM's loss: two views of a crop attract each other, the crops of a scan repel each other.

    For each crop the anchor is its first view and the positive its second view; negatives are both
    views of all other crops of the same scan. Of 15 crops, 29 views are candidates.

    Args:
        temperature: what cosine similarities are divided by.
        all_crops: each crop has its turn as the anchor. False: the first crop of a scan alone.
        gather: both views of all crops of all other scans are negatives too: those of the batch,
            which is that of all processes together. Each process must have as many scans and
            crops as the others. Two processes with one scan each then equal one process with two:
            in the mean of their losses, and in the gradients that DDP averages.
        symmetric: second views are anchors too, as in SimCLR. In the published loss they are not.

    Raises:
        UserError: the temperature is not positive.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        all_crops: bool = True,
        gather: bool = False,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = _positive(temperature)
        self.all_crops = all_crops
        self.gather = gather
        self.symmetric = symmetric

    def forward(self, embeddings: Tensor, target: None = None) -> Tensor:
        """Mean over anchors and scans.

        Args:
            embeddings: (B, crops, 2, dim), of any length.
            target: not used; trainers pass it.

        Raises:
            UserError: another shape, or a single crop, which has no negatives.
        """
        return nt_xent(
            embeddings,
            self.temperature,
            within_scan=not self.gather,
            gather=self.gather,
            anchor_crops=None if self.all_crops else 1,
            anchor_views=None if self.symmetric else 1,
        )


class NTXentLoss(nn.Module):
    """SimCLR's loss: each view looks for the other view of its crop among all views of the batch.

    The crops of all scans are one set. Of its N views, N - 1 are candidates of each.

    Args:
        temperature: what cosine similarities are divided by.
        gather: the batch is that of all processes together. Each process must have as many scans
            and crops as the others.

    Raises:
        UserError: the temperature is not positive.
    """

    def __init__(self, temperature: float = 0.1, gather: bool = False) -> None:
        super().__init__()
        self.temperature = _positive(temperature)
        self.gather = gather

    def forward(self, embeddings: Tensor, target: None = None) -> Tensor:
        """Mean over all views.

        Args:
            embeddings: (B, crops, 2, dim), of any length.
            target: not used; trainers pass it.

        Raises:
            UserError: another shape, or a single crop, which has no negatives.
        """
        return nt_xent(embeddings, self.temperature, within_scan=False, gather=self.gather)


def nt_xent(
    embeddings: Tensor,
    temperature: float,
    within_scan: bool,
    gather: bool = False,
    anchor_crops: int | None = None,
    anchor_views: int | None = None,
) -> Tensor:
    """Cross entropy of finding the other view of an anchor's crop among all other candidates.

    Args:
        embeddings: (B, crops, 2, dim).
        temperature: what cosine similarities are divided by.
        within_scan: candidates are the views of the anchor's scan. False: those of all scans.
        gather: all scans are those of all processes; not within a scan.
        anchor_crops: how many crops of a scan, from the first, are anchors; None: all.
        anchor_views: how many views of a crop, from the first, are anchors; None: both.

    Returns:
        Mean over anchors, a scalar.

    Raises:
        UserError: another shape, or a single crop, which has no negatives.
    """
    unit = normalize(full_precision(embeddings), dim=-1)
    sets, dim = (len(unit) if within_scan else 1), unit.shape[-1]
    candidates = (gathered(unit) if gather else unit).reshape(sets, -1, dim)  # (S, N, dim)
    number = candidates.shape[1]
    if number <= unit.shape[2]:
        raise UserError("one crop has no negatives: give at least two crops of a scan")
    chosen = (slice(None), slice(anchor_crops), slice(anchor_views))
    anchors = unit[chosen].reshape(sets, -1, dim)  # (S, A, dim)
    order = torch.arange(unit[..., 0].numel(), device=unit.device).view(unit.shape[:3])
    # where an anchor stands among its candidates, which are a scan's or all processes'
    position = (order[chosen].reshape(sets, -1) + rank() * order.numel()) % number  # (S, A)
    itself = position[..., None] == torch.arange(number, device=unit.device)
    with without_autocast(unit):
        logits = (anchors @ candidates.mT / temperature).masked_fill(itself, -torch.inf)
    positive = position ^ 1  # the views of a crop are neighbours
    return cross_entropy(logits.flatten(0, 1), positive.flatten())


def _positive(temperature: float) -> float:
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}: give a positive number, such as 0.1")
    return temperature
