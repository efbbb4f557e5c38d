"""From a scan of a head to the volume that the triage network sees, without resampling all of it.

The grid and the values are those of MONAI's `Orientationd`, `Spacingd` (bilinear),
`CropForegroundd` and `ResizeWithPadOrCropd` (mode minimum) one after the other. Those convert
every voxel to float64 first. At 5x2x2 mm, linear interpolation needs one voxel in ten of a scan
of 512x512 pixels: these alone are taken out of the file's own integers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation
from nibabel.orientations import ornt_transform as transform_between

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.imaging.carried import Carried
from ctfm.imaging.checks.ct import check_finite, check_grid, ct_problem
from ctfm.imaging.file_names import is_nifti
from ctfm.imaging.grids import spacing_of
from ctfm.imaging.nifti import NiftiVolume, open_nifti
from ctfm.imaging.nifti_headers import CONFLICT, ORIENTED
from ctfm.imaging.reslice import Taps
from ctfm.imaging.scans import check_file, read_scan
from ctfm.triage.head_checks import MASKED, head_warnings, log_warnings

__all__ = ["SOURCE", "WARNINGS", "HeadWarnings", "LoadHeadd", "head_volume"]

Triple = Sequence[float]

#: The item that receives the `HeadWarnings`.
WARNINGS = "warnings"
#: The item that keeps the path: caches drop the meta data of an image.
SOURCE = "source"
#: So many voxels of an axis, at least, are looked at when values are checked.
SAMPLES = 128


@dataclass(frozen=True)
class HeadWarnings(Carried):
    """What the input check says against a scan.

    Attributes:
        texts: one sentence for each warning.
    """

    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class WholeScan:
    """A scan that had to be read whole; its attributes are those of `NiftiVolume`."""

    hu: Array
    affine: Array
    oriented: bool
    slope: float = 1.0
    intercept: float = 0.0
    conflict: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels (X, Y, Z)."""
        return self.hu.shape

    def pick(self, indices: Sequence[Array]) -> Array:
        """The HU at the crossings of some indices."""
        return np.asarray(self.hu[np.ix_(*indices)])


class LoadHeadd(MapTransform):
    """Read a scan, and crop it to the volume that the triage network sees.

    Args:
        keys: items that hold a path: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
        spacing: mm, in the order of `axcodes`.
        patch: voxels of the result (D, H, W).
        axcodes: orientation of the result.
        input_check: "error" refuses what is no CT; "warn" notes it; "off" looks at no values.
        head_check: note what is no complete plain head (`ctfm.triage.head_checks`).

    Raises:
        UserError: `input_check` is none of these.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Triple,
        patch: Sequence[int],
        axcodes: str = "SPL",
        input_check: str = "error",
        head_check: bool = False,
    ) -> None:
        super().__init__(keys)
        if input_check not in ("error", "warn", "off"):
            raise UserError(f"input_check is {input_check!r}: choose error, warn or off")
        self.spacing = tuple(float(mm) for mm in spacing)
        self.patch = tuple(int(n) for n in patch)
        self.axcodes = axcodes
        self.input_check = input_check
        self.head_check = head_check

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each path by a `MetaTensor` (1, D, H, W) in HU; note warnings beside it.

        Raises:
            UserError: the scan is missing, unreadable, or (with "error") no CT.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            path = str(result[key])
            result[key], texts = head_volume(
                path, self.spacing, self.patch, self.axcodes, self.input_check, self.head_check
            )
            log_warnings(path, texts)
            result[WARNINGS], result[SOURCE] = HeadWarnings(tuple(texts)), path
        return result


def head_volume(
    path: str,
    spacing: Triple,
    patch: Sequence[int],
    axcodes: str = "SPL",
    input_check: str = "error",
    head_check: bool = False,
) -> tuple[MetaTensor, list[str]]:
    """The cropped volume (1, D, H, W) in HU, and what the input check found.

    The meta data have the file's name, its affine (``original_affine``) and its shape
    (``spatial_shape``). The arguments are those of `LoadHeadd`.

    Raises:
        UserError: the scan is missing, unreadable, or (with "error") no CT.
    """
    scan = _opened(path)
    check_grid(MetaTensor(torch.empty(1).expand(1, *scan.shape), affine=scan.affine), path)
    change = transform_between(io_orientation(scan.affine), axcodes2ornt(axcodes))
    oriented = scan.affine @ inv_ornt_aff(change, scan.shape)
    native = spacing_of(oriented)
    steps = np.asarray(spacing) / native
    needed, axes = _taps(_moved(scan.shape, change), steps)
    hu = apply_orientation(_picked(scan, path, change, needed), change)
    found = [scan.conflict] if scan.conflict else []
    found += [] if input_check == "off" else _problems(hu, scan, path, input_check)
    whole = _interpolated(hu, axes)
    if head_check:
        more = head_warnings(whole, spacing, native[0], lambda i: _pixel_differences(hu, axes, i))
        found += [one for one in more if not (found and one == MASKED)]  # said already
    cropped, start = _cropped(whole, patch, path)
    affine = oriented @ np.diag([*steps, 1.0])
    affine[:3, 3] += affine[:3, :3] @ start
    meta = {
        "filename_or_obj": path,
        "original_affine": scan.affine,
        "spatial_shape": np.asarray(scan.shape),
    }
    return MetaTensor(torch.from_numpy(cropped[None]), affine=affine, meta=meta), found


def _opened(path: str) -> NiftiVolume | WholeScan:
    check_file(path)
    file = Path(path)
    if file.is_file() and is_nifti(path):
        with contextlib.suppress(Exception):  # the other reader says why
            return open_nifti(file)
    return _whole(path)


def _whole(path: str) -> WholeScan:
    scan = read_scan(path)
    if scan.shape[0] != 1:
        check_grid(scan, path)  # it refuses them, with the reason
    affine, oriented = np.asarray(scan.affine, dtype=float), bool(scan.meta[ORIENTED])
    return WholeScan(scan[0].numpy(), affine, oriented, conflict=str(scan.meta[CONFLICT]))


def _moved(shape: Sequence[int], change: Array) -> list[int]:
    """The scan's numbers of voxels, in the order of the new axes."""
    return [int(shape[i]) for i in np.argsort(change[:, 0])]


def _taps(shape: Sequence[int], steps: Array) -> tuple[list[Array], list[Taps]]:
    """The old voxels that take part, along each axis, and the new ones between those.

    The grid is that of MONAI's `Spacing`.

    Args:
        shape: old voxels.
        steps: new voxel sizes in old ones.
    """
    pairs = []
    for axis, (old, step) in enumerate(zip(shape, steps, strict=True)):
        places = np.arange(round((old - 1) / step + 1)) * step
        pairs.append(Taps.among(axis, np.arange(old, dtype=float), places).compact())
    return [needed for needed, _ in pairs], [taps for _, taps in pairs]


def _picked(
    scan: NiftiVolume | WholeScan, path: str, change: Array, needed: Sequence[Array]
) -> npt.NDArray[np.float32]:
    """HU of the voxels that take part, axes as stored."""
    indices = []
    for size, (axis, direction) in zip(scan.shape, change.astype(int), strict=True):
        indices.append(needed[axis] if direction > 0 else (size - 1 - needed[axis])[::-1])
    try:
        stored = scan.pick(indices)
    except Exception:
        scan = _whole(path)  # it says what is wrong with the file
        stored = scan.pick(indices)
    values = np.asarray(stored, np.float32)
    if (scan.slope, scan.intercept) != (1.0, 0.0):
        values = values * np.float32(scan.slope) + np.float32(scan.intercept)
    if stored.dtype.kind == "f":
        check_finite(MetaTensor(torch.from_numpy(values)), path)
    return values


def _problems(hu: Array, scan: NiftiVolume | WholeScan, path: str, input_check: str) -> list[str]:
    """What the values say against a CT; with "error" that is refused."""
    sample = hu[tuple(slice(None, None, max(1, n // SAMPLES)) for n in hu.shape)]
    problem = ct_problem(
        MetaTensor(torch.from_numpy(sample.copy())[None], meta={ORIENTED: scan.oriented})
    )
    if problem and input_check == "error":
        raise UserError(f"{path}: {problem} (--input_check warn goes on all the same)")
    return [problem] if problem else []


def _interpolated(hu: Array, axes: Sequence[Taps]) -> npt.NDArray[np.float32]:
    """Linear values at the new voxels."""
    values = hu
    for taps in axes:
        share = taps.share.astype(np.float32).reshape([-1, *[1] * (2 - taps.axis)])
        first, second = (values.take(index, taps.axis) for index in (taps.first, taps.second))
        values = first + (second - first) * share
    return np.asarray(values, np.float32)


def _pixel_differences(hu: Array, axes: Sequence[Taps], number: int) -> Array:
    """In a slice of the new grid (H, W): HU from one old pixel to the next; NaN at the border."""
    depth, rows, columns = axes
    plane = hu[depth.first[number]][rows.first]
    difference = plane[:, columns.second] - plane[:, columns.first]
    difference[:, columns.second == columns.first] = np.nan
    return np.asarray(difference)


def _cropped(
    whole: npt.NDArray[np.float32], patch: Sequence[int], path: str
) -> tuple[npt.NDArray[np.float32], Array]:
    """The centre of the box of voxels above 0 HU, padded by minima, and its first voxel."""
    above = whole > 0
    if not above.any():
        raise UserError(f"{path}: nothing lies above 0 HU: not a body, or not in Hounsfield units")
    inside, pads, start = [], [], []
    for axis, size in enumerate(patch):
        hits = np.flatnonzero(above.any(axis=tuple(i for i in range(3) if i != axis)))
        first, length = int(hits[0]), int(hits[-1] - hits[0] + 1)
        cut = max(0, length // 2 - size // 2) if length > size else 0
        kept, missing = min(length, size), max(0, size - length)
        inside.append(slice(first + cut, first + cut + kept))
        pads.append((missing // 2, missing - missing // 2))
        start.append(first + cut - missing // 2)
    padded = np.pad(whole[tuple(inside)], pads, mode="minimum")
    return np.ascontiguousarray(padded, np.float32), np.asarray(start, dtype=float)
