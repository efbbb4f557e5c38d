"""What an encoder sees of a scan, where MONAI's transforms need a word of their own."""

from __future__ import annotations

from torch import Tensor

from ctfm.errors import UserError

__all__ = ["soft_tissue"]


def soft_tissue(image: Tensor) -> Tensor:
    """Voxels above 0 HU, which CT-FM crops scans to before they are scaled.

    A `select_fn` for `CropForegroundd`, whose own default leaves an empty volume where there is
    no such voxel.

    Args:
        image: HU, of any shape.

    Raises:
        UserError: there is none.
    """
    above: Tensor = image > 0
    if not above.any():
        raise UserError("nothing lies above 0 HU: not a body, or not in Hounsfield units")
    return above
