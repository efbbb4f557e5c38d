"""Recipes that an evaluation changes, and the encoders that take part, ready to embed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctfm.base.errors import UserError
from ctfm.contract.tasks import ENCODER
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import check_windows, make_recipe
from ctfm.protocols.probing.encoders import Candidate

__all__ = ["adapted_recipe", "load_embedders"]


def adapted_recipe(name: str, **changes: Any) -> dict[str, Any]:
    """The recipe of a use, with what was asked for in place of its own.

    Args:
        name: a key of `ctfm.embedding.recipes.RECIPES`.
        changes: spacing, patch, overlap, amp; None: as the recipe has it.

    Raises:
        UserError: a value makes no sense.
    """
    recipe = make_recipe(name, **{k: v for k, v in changes.items() if v is not None})
    check_windows(recipe)
    if min(recipe["patch"]) < ENCODER.divisor:
        raise UserError(f"patch is {recipe['patch']}: give sides from {ENCODER.divisor}")
    return recipe


def load_embedders(
    candidates: Sequence[Candidate],
    recipe: Mapping[str, Any],
    device: str | None = None,
    batch_size: int = 16,
) -> dict[str, Embedder]:
    """All encoders, by the names of the candidates.

    A scan is read once for all of them, so all are in memory together (300 MB each at CT-FM's
    width).

    Args:
        candidates: encoders.
        recipe: of `adapted_recipe`.
        device: such as cuda:0; None: a GPU if there is one.
        batch_size: windows that pass an encoder together.

    Raises:
        UserError: there is no such device, or the batch size makes no sense.
    """
    return {
        one.name: Embedder(one.network(), recipe, device, sw_batch_size=batch_size)
        for one in candidates
    }
