"""What an encoder sees of a scan, where MONAI's transforms need a word of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.transforms import (
    Compose,
    CropForegroundd,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.contract.tasks import AXCODES, HU_WINDOW
from ctfm.imaging.transforms import LoadScand

__all__ = ["apply_steps", "preprocessing", "soft_tissue"]


def preprocessing(
    recipe: Mapping[str, Any], input_check: str | None = "error", key: str = "image"
) -> Compose:
    """From a path to what windows are cut from; configs spell out the same transforms.

    Axes to SPL, resampled, cropped to what lies above 0 HU, padded with air to the size of a
    patch, scaled to 0..1.

    Args:
        recipe: "spacing" and "patch"; "axcodes" and "hu_window" where they are not CT-FM's.
        input_check: what to do about values that are no CT's: "error", "warn" or "off"; None: the
            item holds a scan that was read already, not a path.
        key: item with the path, then with the scan (1, D, H, W).
    """
    low, high = recipe.get("hu_window", HU_WINDOW)
    reading = [] if input_check is None else [LoadScand(key, input_check)]
    return Compose(
        [
            *reading,
            Orientationd(key, recipe.get("axcodes", AXCODES), labels=None),
            Spacingd(key, recipe["spacing"], mode="bilinear"),
            CropForegroundd(key, key, select_fn=soft_tissue, allow_smaller=True),
            SpatialPadd(key, recipe["patch"], value=low),
            ScaleIntensityRanged(key, low, high, 0, 1, clip=True),
        ]
    )


def apply_steps(steps: Compose, item: Mapping[str, Any], *paths: str) -> dict[str, Any]:
    """Run transforms on an item; what a user has to know is told as the transform raised it.

    Args:
        steps: such as `preprocessing` gives.
        item: what they take.
        paths: the item's files; the first is named in front of a message that names none.

    Raises:
        UserError: a transform raised it; MONAI wraps it.
    """
    try:
        return dict(steps(item))
    except RuntimeError as error:
        if not isinstance(error.__cause__, UserError):
            raise
        text = str(error.__cause__)
        raise UserError(text if text.startswith(paths) else f"{paths[0]}: {text}") from error


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
