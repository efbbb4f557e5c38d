"""What a scan is, before any network runs: its grid, its values, and what speaks against it.

`ctfm.imaging.checks.ct` refuses hopeless scans. Here is the rest: what a reader of the
result should know. The limits are round figures between what scanners write and what they do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch

from ctfm.base.types import Array
from ctfm.imaging.carried import Carried
from ctfm.imaging.checks.front import front_signs
from ctfm.imaging.grids import spacing_of
from ctfm.imaging.hounsfield import AIR_HU
from ctfm.imaging.nifti_headers import CONFLICT

__all__ = ["InputCheck", "inspect_scan"]

#: So many voxels of an axis, at least, are looked at.
SAMPLES = 96
#: Thicker slices than this: small structures fall between them.
MAX_SPACING_MM = 5.0
#: In the plane of its slices, a scan of anything whole is wider than this.
MIN_FIELD_MM = 120.0
MAX_EXTENT_MM = 2100.0
#: Bodies end in air; where less than this share of the rim is air, the field of view cuts them.
MIN_RIM_AIR = 0.1
#: Values that one extreme is shared by: a picture that was windowed.
CLIPPED_SHARE = 0.02
BODY_HU = -200.0
#: Score of `front_signs`: of 227 real patients 1 lies below, of the same flipped 88 %.
FRONT_BEHIND = -1.5


@dataclass(frozen=True)
class InputCheck(Carried):
    """What was found; lengths in mm, values in HU, axes as stored.

    Attributes:
        shape: voxels (X, Y, Z).
        spacing_mm: distance of neighbouring voxels.
        extent_mm: size of the whole grid.
        axcodes: direction in which each axis runs, as in "LPS".
        hu: minimum, median and maximum of a sample of the voxels.
        air_share: voxels below -500 HU.
        problem: why it is no CT in Hounsfield units, and what to do; None: it may be one.
        warnings: what else a reader of the result should know.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    extent_mm: tuple[float, ...]
    axcodes: str
    hu: tuple[float, float, float]
    air_share: float
    problem: str | None
    warnings: tuple[str, ...]


def inspect_scan(image: Any, problem: str | None) -> InputCheck:
    """Look at a scan; nothing is refused.

    Args:
        image: `MetaTensor` (1, X, Y, Z) in HU with its affine.
        problem: why it is no CT, as `ctfm.imaging.checks.ct.ct_problem` says; None: it may be one.

    Returns:
        Grid, values, and what speaks against the scan.
    """
    affine = np.asarray(image.affine, dtype=float)
    shape = tuple(int(n) for n in image.shape[1:])
    spacing = spacing_of(affine)
    steps = [max(1, n // SAMPLES) for n in shape]
    sample = torch.as_tensor(image)[0, :: steps[0], :: steps[1], :: steps[2]].cpu().numpy()
    sample_affine = affine @ np.diag([*steps, 1.0])
    extent = spacing * np.asarray(shape)
    conflict = str(getattr(image, "meta", {}).get(CONFLICT, ""))
    found = [conflict] if conflict else []
    found += [*_grid_warnings(spacing, extent), *_value_warnings(sample, problem)]
    if problem is None:
        found += _anatomy_warnings(sample, sample_affine)
    return InputCheck(
        shape=shape,
        spacing_mm=tuple(round(float(one), 4) for one in spacing),
        extent_mm=tuple(round(float(one), 1) for one in extent),
        axcodes="".join(nib.aff2axcodes(affine)),
        hu=(float(sample.min()), float(np.median(sample)), float(sample.max())),
        air_share=round(float((sample < AIR_HU).mean()), 4),
        problem=problem,
        warnings=tuple(found),
    )


def _grid_warnings(spacing: Array, extent: Array) -> list[str]:
    found = []
    if spacing.max() > MAX_SPACING_MM:
        found.append(
            f"slices lie {spacing.max():.3g} mm apart: small structures fall between them; "
            "a thinner reconstruction of the same scan gives better labels"
        )
    if np.median(extent) < MIN_FIELD_MM:
        found.append(
            f"shows {' x '.join(f'{one:.0f}' for one in extent)} mm: less than a body's "
            "cross-section; structures without their surroundings are easily mistaken"
        )
    if extent.max() > MAX_EXTENT_MM:
        found.append(f"is {extent.max():.0f} mm long: longer than a person; is the spacing in mm?")
    return found


def _value_warnings(sample: Array, problem: str | None) -> list[str]:
    """Values that lie on one number at an end of the range were cut there."""
    low, high = float(sample.min()), float(sample.max())
    found = []
    body = sample > BODY_HU
    at_high = float((sample == high).sum() / max(1, body.sum()))
    if problem is None and high < 1000 and at_high > CLIPPED_SHARE:
        found.append(
            f"{at_high:.0%} of the body's voxels are {high:.0f} HU, its maximum: a picture that "
            "was windowed; export the whole range of HU"
        )
    at_low = float((sample == low).mean())
    if problem is None and low > -900 and at_low > CLIPPED_SHARE:
        found.append(
            f"{at_low:.0%} of its voxels are {low:.0f} HU, its minimum: a picture that was "
            "windowed; export the whole range of HU"
        )
    return found


def _anatomy_warnings(sample: Array, affine: Array) -> list[str]:
    """The patient's left-right axis, front and back, as the body itself shows them."""
    canonical = nib.as_closest_canonical(nib.Nifti1Image(sample.astype(np.float32), affine))
    hu = np.asanyarray(canonical.dataobj)
    spacing = spacing_of(canonical.affine)
    found = []
    if _rim_air(hu) < MIN_RIM_AIR:
        found.append(
            "little air around the body: the field of view cuts it; structures at the border are "
            "incomplete, and volumes too small"
        )
    signs = front_signs(hu, spacing)
    if signs is not None and signs.score < FRONT_BEHIND:
        found.append(f"front and back may be exchanged in the header: {signs}")
    return found


def _rim_air(hu: Array) -> float:
    """Share of air on the four sides of the slices, the ends of the scan left out."""
    sides = (hu[0], hu[-1], hu[:, 0], hu[:, -1])
    return float(np.mean([(side < AIR_HU).mean() for side in sides]))
