"""From a scan of a head to the volume that the triage network sees, without resampling all of it.

The grid and the values are those of MONAI's `Orientationd`, `Spacingd` (bilinear),
`CropForegroundd` and `ResizeWithPadOrCropd` (mode minimum) one after the other. Those convert
every voxel to float64 first. At 5x2x2 mm, linear interpolation needs one voxel in ten of a scan
of 512x512 pixels: these alone are taken out of the file's own integers.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation
from nibabel.orientations import ornt_transform as transform_between

from ctfm.errors import UserError
from ctfm.head_checks import MASKED, head_warnings, log_warnings
from ctfm.scan_checks import check_ct, check_grid, ct_problem
from ctfm.scans import check_file, read_scan

__all__ = ["SEPARATOR", "SOURCE", "WARNINGS", "LoadHeadd", "head_volume"]

Array = npt.NDArray[Any]
Triple = Sequence[float]

#: The item that receives what the input check found, joined by `SEPARATOR`.
WARNINGS = "warnings"
SEPARATOR = " | "
#: The item that keeps the path: caches drop the meta data of an image.
SOURCE = "source"
#: Every so many voxels of an axis are looked at when values are checked.
SAMPLES = 128
#: Deflate makes nothing smaller than by this factor: a larger size is no size.
MOST_COMPRESSED = 1100


@dataclass(frozen=True)
class Stored:
    """A scan as its file holds it.

    Attributes:
        voxels: (X, Y, Z), of the file's own type; a view where that is possible.
        slope: HU are ``slope * voxels + intercept``.
        intercept: see above.
        affine: (4, 4), voxel index to RAS+ in mm.
        codes: qform and sform code of a NIfTI file, for the checks.
    """

    voxels: Array
    slope: float
    intercept: float
    affine: Array
    codes: dict[str, int]

    def hu(self, voxels: Array) -> npt.NDArray[np.float32]:
        """HU of some of the voxels."""
        values = np.asarray(voxels, np.float32)
        if (self.slope, self.intercept) != (1.0, 0.0):
            values = values * np.float32(self.slope) + np.float32(self.intercept)
        return values


class LoadHeadd(MapTransform):
    """Read a scan, and crop it to the volume that the triage network sees.

    Args:
        keys: items that hold a path: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
        spacing: mm, in the order of `axcodes`.
        patch: voxels of the result (D, H, W).
        axcodes: orientation of the result.
        input_check: "error" refuses what is no CT; "warn" notes it; "off" looks at no values.
        head_check: note what is no complete plain head (`ctfm.head_checks`).

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
            result[key], found = head_volume(
                path, self.spacing, self.patch, self.axcodes, self.input_check, self.head_check
            )
            log_warnings(path, found)
            result[WARNINGS], result[SOURCE] = SEPARATOR.join(found), path
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
    stored = _read(path)
    _check_shape(stored, path)
    found = [] if input_check == "off" else _problems(stored, path, input_check)
    voxels, oriented = _oriented(stored, axcodes)
    steps = np.asarray(spacing) / np.linalg.norm(oriented[:3, :3], axis=0)
    whole = _interpolated(stored, voxels, steps)
    if head_check:
        native = np.linalg.norm(oriented[:3, :3], axis=0)
        more = head_warnings(whole, spacing, lambda i: stored.hu(voxels[i]), native)
        found += [one for one in more if not (found and one == MASKED)]  # said already
    cropped, start = _cropped(whole, patch, path)
    affine = oriented @ np.diag([*steps, 1.0])
    affine[:3, 3] += affine[:3, :3] @ start
    meta = {
        "filename_or_obj": path,
        "original_affine": np.asarray(stored.affine, dtype=float),
        "spatial_shape": np.asarray(stored.voxels.shape),
    }
    return MetaTensor(torch.from_numpy(cropped[None]), affine=affine, meta=meta), found


def _read(path: str) -> Stored:
    check_file(path)
    file = Path(path)
    if file.is_file() and path.lower().endswith((".nii", ".nii.gz")):
        try:
            return _read_nifti(file)
        except Exception:
            pass
    scan = read_scan(path)
    if scan.shape[0] != 1:
        check_ct(scan, path, "off")  # it refuses them, with the reason
    codes = {k: int(scan.meta[k]) for k in ("qform_code", "sform_code") if k in scan.meta}
    return Stored(scan[0].numpy(), 1.0, 0.0, np.asarray(scan.affine, dtype=float), codes)


def _read_nifti(file: Path) -> Stored:
    """The file's own integers: a view of the decompressed bytes, or of the file itself."""
    content = _decompressed(file) if file.name.lower().endswith(".gz") else b""
    image: Any = nib.Nifti1Image.from_bytes(content) if content else nib.load(file)
    header, proxy = image.header, image.dataobj
    if len(image.shape) != 3 or header.get_data_dtype().kind not in "iuf":
        raise ValueError("not one volume of numbers")
    codes = {name: int(header[name]) for name in ("qform_code", "sform_code")}
    affine = np.asarray(image.affine, dtype=float)
    raw = _view(content, proxy) if content else np.asanyarray(proxy.get_unscaled())
    return Stored(raw, float(proxy.slope), float(proxy.inter), affine, codes)


def _view(content: bytes, proxy: Any) -> Array:
    """The voxels where they lie in the decompressed file; nibabel would copy them."""
    count = int(np.prod(proxy.shape))
    flat: Array = np.frombuffer(content, proxy.dtype, count, proxy.offset)
    shaped: Array = flat.reshape(proxy.shape, order="F")
    return shaped


def _decompressed(file: Path) -> bytes:
    """The whole file in one go, into memory of the right size from the start."""
    content = file.read_bytes()
    size = int.from_bytes(content[-4:], "little")  # of the last member, usually the only one
    if size < MOST_COMPRESSED * len(content):
        found = zlib.decompress(content, wbits=31, bufsize=max(1, size))
        if len(found) == size:
            return found
    return gzip.decompress(content)


def _problems(stored: Stored, path: str, input_check: str) -> list[str]:
    """What the values say against a CT; with "error" that is refused."""
    step = tuple(slice(None, None, max(1, n // SAMPLES)) for n in stored.voxels.shape)
    sample = torch.from_numpy(stored.hu(stored.voxels[step])[None])
    problem = ct_problem(MetaTensor(sample, meta=dict(stored.codes)))
    if problem and input_check == "error":
        raise UserError(f"{path}: {problem} (--input_check warn goes on all the same)")
    return [problem] if problem else []


def _check_shape(stored: Stored, path: str) -> None:
    """Refuse what nothing could be computed of: too few slices, no orientation, NaN."""
    voxels = stored.voxels
    if voxels.dtype.kind == "f":
        native = np.array(voxels, dtype=voxels.dtype.newbyteorder("="))
        check_ct(MetaTensor(torch.from_numpy(native)[None], affine=stored.affine), path, "off")
    # integers are finite: a sum over all of them would take longer than all the rest
    empty = torch.empty(1).expand(1, *voxels.shape)
    check_grid(MetaTensor(empty, affine=stored.affine), path)


def _oriented(stored: Stored, axcodes: str) -> tuple[Array, Array]:
    """A view with the axes in the order and direction of `axcodes`, and its affine."""
    change = transform_between(io_orientation(stored.affine), axcodes2ornt(axcodes))
    affine = stored.affine @ inv_ornt_aff(change, stored.voxels.shape)
    return apply_orientation(stored.voxels, change), affine


def _interpolated(stored: Stored, voxels: Array, steps: Array) -> npt.NDArray[np.float32]:
    """Linear values on the grid of MONAI's `Spacing`; `steps` are new voxel sizes in old ones."""
    below, above, shares = [], [], []
    for old, step in zip(voxels.shape, steps, strict=True):
        places = np.arange(round((old - 1) / step + 1)) * step
        low = np.floor(places).clip(0, old - 1).astype(np.intp)
        below.append(low)
        above.append(np.minimum(low + 1, old - 1))
        shares.append((places - low).clip(0, 1).astype(np.float32))
    needed = [np.union1d(*pair) for pair in zip(below, above, strict=True)]
    values = stored.hu(voxels[np.ix_(*needed)])
    for axis in range(3):
        shape = [-1 if i == axis else 1 for i in range(3)]
        first = values.take(np.searchsorted(needed[axis], below[axis]), axis)
        second = values.take(np.searchsorted(needed[axis], above[axis]), axis)
        values = first + (second - first) * shares[axis].reshape(shape)
    return values


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
