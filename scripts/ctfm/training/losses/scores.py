"""Whether contrastive pretraining learns or collapses, read off the embeddings of a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ctfm.training.losses.embeddings import full_precision, without_autocast

__all__ = ["contrastive_scores"]


@torch.no_grad()
def contrastive_scores(embeddings: Tensor) -> dict[str, float]:
    """Scores of embeddings (B, crops, 2, dim), of any length, after scaling to length 1.

    Returns:
        top1: share of first views that are closer to their second view than to any view of
            another crop of the scan; 1 / (2 * crops - 1) by chance, 0 where all are equal.
        alignment: mean squared distance of the views of a crop; 0 is best, 2 is chance
            (Wang and Isola, arXiv:2005.10242).
        uniformity: log of the mean of exp(-2 * squared distance) over all pairs of views of the
            batch; 0 where all are equal, near -4 where they are spread evenly (same paper).
        std: standard deviation of a feature over all views of the batch, mean over features,
            times sqrt(dim); 0 where all are equal, 1, its bound, where they are spread evenly
            (SimSiam, arXiv:2011.10566).
    """
    unit = normalize(full_precision(embeddings), dim=-1)
    with without_autocast(unit):
        scores = {
            "top1": _top1(unit),
            "alignment": (unit[:, :, 0] - unit[:, :, 1]).square().sum(-1).mean(),
            "uniformity": _uniformity(unit.flatten(0, 2)),
            "std": unit.flatten(0, 2).std(0, correction=0).mean() * math.sqrt(unit.shape[-1]),
        }
    values = torch.stack(list(scores.values())).tolist()  # waits for the device once
    return dict(zip(scores, values, strict=True))


def _top1(unit: Tensor) -> Tensor:
    cosines = torch.einsum("bid,bjvd->bijv", unit[:, :, 0], unit)  # first views to all views
    same_crop = torch.eye(unit.shape[1], dtype=torch.bool, device=unit.device)[..., None]
    nearest_negative = cosines.masked_fill(same_crop, -torch.inf).amax((2, 3))
    positive = cosines[..., 1].diagonal(dim1=1, dim2=2)
    return (positive > nearest_negative).to(unit.dtype).mean()


def _uniformity(unit: Tensor) -> Tensor:
    """Of vectors (N, dim)."""
    number = len(unit)
    itself = torch.eye(number, dtype=torch.bool, device=unit.device)
    exponents = 4 * (unit @ unit.T) - 4  # the squared distance is 2 - 2 * cosine
    kernel = exponents.masked_fill(itself, -torch.inf)
    return kernel.flatten().logsumexp(0) - math.log(number * (number - 1))
