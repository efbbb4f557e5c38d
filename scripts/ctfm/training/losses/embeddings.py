"""What all losses do with embeddings first: check their shape, and leave half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ctfm.base.errors import UserError

__all__ = ["VIEWS", "full_precision", "without_autocast"]

VIEWS = 2


def full_precision(embeddings: Tensor) -> Tensor:
    """Embeddings (B, crops, 2, dim), in float32 unless they are in float64.

    float16 has three digits: too few for cosines that are divided by a temperature of 0.1.

    Raises:
        UserError: another shape.
    """
    shape = tuple(embeddings.shape)
    if len(shape) != 4:
        raise UserError(f"embeddings have shape {shape}: give (scans, crops, views, dim)")
    if shape[2] != VIEWS:
        raise UserError(f"embeddings of shape {shape} have {shape[2]} views of a crop: give 2")
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


@contextmanager
def without_autocast(embeddings: Tensor) -> Iterator[None]:
    """Keep a matrix product of `full_precision` embeddings in that precision."""
    with torch.autocast(embeddings.device.type, enabled=False):
        yield
