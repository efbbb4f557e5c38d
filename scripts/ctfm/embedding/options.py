"""Options that decide what patches are, each said once: voxel size, side and overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctfm.base.errors import UserError
from ctfm.contract.tasks import ENCODER
from ctfm.embedding.recipes import Recipe, check_windows, make_recipe

__all__ = ["PatchOptions", "WindowOptions"]


@dataclass(frozen=True, kw_only=True)
class PatchOptions:
    """Patches of a scan; None is what the contract says of a use.

    Attributes:
        spacing: voxel size in mm, axes SPL; 1,1,1 in the semantic search, 3,1,1 for stability.
        patch: voxels of a patch or window; 64,64,64 in the semantic search, where sides are
            divisible by 16, 24,128,128 for stability. At a spacing of 3 mm, take 32,32,32.
    """

    spacing: Sequence[float] | None = None
    patch: Sequence[int] | None = None

    def recipe(self, use: str, amp: bool | None = None) -> Recipe:
        """The recipe of a use, with these options in place of its own.

        Args:
            use: a key of `ctfm.embedding.recipes.RECIPES`.
            amp: compute in the fast number format of the device; None: as the recipe has it.

        Raises:
            UserError: a value makes no sense.
        """
        changes = {**vars(self), "amp": amp}
        recipe = make_recipe(use, **{k: v for k, v in changes.items() if v is not None})
        sides = recipe["patch"] if isinstance(recipe["patch"], list) else []
        if any(isinstance(side, int) and side < ENCODER.divisor for side in sides):
            # of half of less, the encoder leaves nothing
            raise UserError(f"patch is {sides}: give sides from {ENCODER.divisor}")
        check_windows(recipe)
        return recipe


@dataclass(frozen=True, kw_only=True)
class WindowOptions(PatchOptions):
    """Windows all over a scan.

    Attributes:
        overlap: share of a window that neighbours have in common; None: 0.625, as published.
    """

    overlap: float | None = None
