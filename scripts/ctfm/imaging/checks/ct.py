"""Is this a three-dimensional CT in Hounsfield units, and is this its label? If not: what to do."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from ctfm.base.errors import UserError
from ctfm.imaging.grids import AFFINE_TOLERANCE_MM, axes_problem, farthest_corner_mm, spacing_of
from ctfm.imaging.hounsfield import value_problem
from ctfm.imaging.nifti_headers import ORIENTED

__all__ = ["check_ct", "check_finite", "check_grid", "check_label", "ct_problem"]

logger = logging.getLogger(__name__)

#: Fewer slices along any axis than this are a slice or a scout, not a volume.
MIN_SLICES = 8


def check_ct(image: Any, path: str, input_check: str = "error") -> str | None:
    """Refuse what is not a three-dimensional CT in Hounsfield units.

    Args:
        image: `MetaTensor` (C, X, Y, Z) with its affine.
        path: named in messages.
        input_check: "error", "warn" or "off", for what only the values tell. Shape, orientation
            and NaN are refused always: nothing could be computed.

    Returns:
        Why it is no CT, as `ct_problem` says, which "warn" lets pass; None: it may be one, or
        ("off") nobody looked.

    Raises:
        UserError: with what was found and what to do.
    """
    check_grid(image, path)
    check_finite(image, path)
    if input_check == "off":
        return None
    problem = ct_problem(image)
    if problem and input_check == "error":
        raise UserError(f"{path}: {problem} (--input_check warn goes on all the same)")
    if problem:
        logger.warning("%s: %s; going on, as input_check is warn", path, problem)
    return problem


def check_grid(image: Any, path: str) -> None:
    """Refuse what is no volume somewhere in space; the values are not looked at.

    Args:
        image: `MetaTensor` (C, X, Y, Z) with its affine.
        path: named in messages.

    Raises:
        UserError: with what was found and what to do.
    """
    for problem in (_shape_problem(image), _affine_problem(image)):
        if problem:
            raise UserError(f"{path}: {problem}")


def check_finite(image: Any, path: str) -> None:
    """Refuse voxels that are NaN or infinite.

    Args:
        image: tensor of any shape.
        path: named in messages.

    Raises:
        UserError: with their number and what to do.
    """
    if problem := _finite_problem(image):
        raise UserError(f"{path}: {problem}")


def ct_problem(image: Any) -> str | None:
    """Why values or header are no CT's, and what to do; None: they may be.

    Args:
        image: `MetaTensor` (C, X, Y, Z) in HU, or a sample of its voxels.
    """
    values = torch.as_tensor(image).numpy()  # numpy minds no order of axes in memory
    return value_problem(values) or _header_problem(image)


def check_label(label: Any, path: str, shape: tuple[int, ...], affine: Any) -> None:
    """Refuse a label map that is not its image's.

    Args:
        label: `MetaTensor` (C, X, Y, Z) with its affine.
        path: named in messages.
        shape: voxels of the image (X, Y, Z).
        affine: (4, 4) of the image.

    Raises:
        UserError: it lies on another grid, or holds no class ids.
    """
    found = tuple(label.shape)
    if found != (1, *shape):
        raise UserError(
            f"{path}: has {found} channels and voxels, its image {(1, *shape)}: give its own label"
        )
    distance = farthest_corner_mm(shape, label.affine, affine)
    if not distance <= AFFINE_TOLERANCE_MM:
        raise UserError(
            f"{path}: its voxels lie up to {distance:.3g} mm from its image's: give its own label"
        )
    values = torch.as_tensor(label).numpy()
    low, high = values.min(), values.max()
    if low < 0 or high > 65535 or not np.array_equal(values, np.rint(values)):
        raise UserError(f"{path}: holds {low:g} to {high:g}, not class ids: not a label")


def _shape_problem(image: Any) -> str | None:
    shape = tuple(image.shape)
    if len(shape) != 4 or shape[0] != 1:
        return (
            f"has {shape[0]} channels or time points (shape {shape}), not one three-dimensional "
            "volume: extract one volume"
        )
    if min(shape[1:]) < MIN_SLICES:
        return (
            f"has only {min(shape[1:])} slices along one axis (shape {shape[1:]}): "
            f"at least {MIN_SLICES} are needed; give the whole series, not a slice or a scout"
        )
    return None


def _affine_problem(image: Any) -> str | None:
    affine = np.asarray(image.affine, dtype=float)
    if problem := axes_problem(affine):
        return f"has no readable orientation ({problem}): fix the header"
    spacing = spacing_of(affine)
    if spacing.max() > 50 or spacing.min() < 0.01:
        sizes = ", ".join(f"{s:.4g}" for s in spacing)
        return f"has voxels of {sizes} mm: the header is wrong; spacing must be in mm"
    return None


def _finite_problem(image: Any) -> str | None:
    values = torch.as_tensor(image)
    if values.sum().isfinite():  # quick, and what is not finite shows in it
        return None
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        return f"has {bad} voxels that are NaN or infinite: replace them (air is -1024 HU)"
    return None


def _header_problem(image: Any) -> str | None:
    codes = [int(image.meta[key]) for key in ("qform_code", "sform_code") if key in image.meta]
    if not image.meta.get(ORIENTED, any(codes) or not codes):
        return (
            "does not say how the patient lies (NIfTI: qform and sform code 0; NRRD: no space or "
            "space directions; MHA: no TransformMatrix): set the orientation"
        )
    return None
