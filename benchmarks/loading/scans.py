"""The scans that the benchmark of data loading reads: a real CT brought to clinical size.

One 3 mm CT is interpolated to the grids that training meets, and seeded noise is added, so that
the files compress as scanner images do. What has been written is kept; a file appears whole or not
at all.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from ctfm.base import atomic_path
from ctfm.contract import AXCODES, HU_WINDOW
from ctfm.imaging import on_grid

IMAGE, LABEL = "ct_torso_3mm.nii.gz", "ct_torso_3mm_labels_fast.nii.gz"
AIR_HU = -1024
NOISE_HU = 12.0
SEED = 0

#: Voxels and mm, in the axes of the source (RAS): a torso as a clinical scanner stores it. The
#: field of view is wider than the patient, as usual, and as long.
CLINICAL_SHAPE, CLINICAL_SPACING = (512, 512, 256), (0.8, 0.8, 1.3)
#: Voxels and mm: a scan of the whole-body data set.
TRAINING_SHAPE, TRAINING_SPACING = (240, 200, 220), (1.5, 1.5, 1.5)
#: Zoom, shift (of the extent) and shape of a training scan differ by up to this.
VARIATION = 0.1


def missing(data: Path) -> str | None:
    """The source file that `data` lacks; None if it has both."""
    return next((name for name in (IMAGE, LABEL) if not (data / name).exists()), None)


def make_pretraining_scan(folder: Path, data: Path) -> Path:
    """One CT of 512x512x256 voxels, int16 HU, compressed as dcm2niix does (gzip level 6).

    Args:
        folder: receives the file.
        data: holds `IMAGE`.

    Raises:
        FileNotFoundError: `data` has no such file.
    """
    target = folder / "pretraining_ct.nii.gz"
    if not target.exists():
        source = nib.load(data / IMAGE)
        random = np.random.default_rng(SEED)
        grid = _grid(source, CLINICAL_SHAPE, CLINICAL_SPACING, np.zeros(3))
        _write(_noisy(_sample(source, grid, CLINICAL_SHAPE, 1), random), grid, target, level=6)
    return target


def make_training_set(folder: Path, data: Path, scans: int = 32) -> list[dict[str, str]]:
    """CTs at 1.5 mm with TotalSegmentator v2 labels, each another part and size of the source.

    Args:
        folder: receives the files: int16 HU and uint8 labels, gzip level 1.
        data: holds `IMAGE` and `LABEL`.
        scans: number of scans; the first ones are the same whatever the number.

    Returns:
        A datalist: the paths of image and label of each scan.

    Raises:
        FileNotFoundError: `data` lacks one of the files.
    """
    return [_training_scan(folder, data, index) for index in range(scans)]


def oriented(row: dict[str, str]) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Image and label of a scan as networks take them: axes SPL, HU window scaled to 0..1.

    The image is float32, the label uint8; both are in memory.
    """
    image, label = (_reoriented(Path(row[key])) for key in ("image", "label"))
    low, high = HU_WINDOW
    scaled = (np.asanyarray(image.dataobj, dtype=np.float32) - low) / (high - low)
    return nib.Nifti1Image(np.clip(scaled, 0, 1), image.affine), label


def uncompressed(rows: list[dict[str, str]], folder: Path) -> list[tuple[Path, Path]]:
    """Copies of `oriented` scans that are read fastest: .nii, float32 image and uint8 label."""
    pairs = []
    for row in rows:
        names = [Path(row[key]).name.removesuffix(".gz") for key in ("image", "label")]
        image, label = (folder / name for name in names)
        if not (image.exists() and label.exists()):
            for volume, path in zip(oriented(row), (image, label), strict=True):
                with atomic_path(path) as temporary:
                    nib.save(volume, temporary)
        pairs.append((image, label))
    return pairs


def _reoriented(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(AXCODES)))
    return nib.Nifti1Image(np.ascontiguousarray(image.dataobj), image.affine)


def _training_scan(folder: Path, data: Path, index: int) -> dict[str, str]:
    image, label = (folder / f"scan_{index:02d}_{kind}.nii.gz" for kind in ("ct", "label"))
    if not (image.exists() and label.exists()):
        random = np.random.default_rng((SEED, index))
        source, labels = nib.load(data / IMAGE), nib.load(data / LABEL)
        zoom = random.uniform(1 - VARIATION, 1 + VARIATION, 3)
        shift = random.uniform(-VARIATION / 2, VARIATION / 2, 3)
        shares = random.uniform(1 - VARIATION, 1 + VARIATION, 3)
        shape = tuple(np.round(shares * TRAINING_SHAPE).astype(int).tolist())
        grid = _grid(source, shape, np.array(TRAINING_SPACING) * zoom, shift)
        array = _noisy(_sample(source, grid, shape, 1), random)
        # the file calls the stretched grid 1.5 mm: patients differ in size
        stored = _grid(source, shape, TRAINING_SPACING, shift)
        _write(array, stored, image, level=1)
        _write(_sample(labels, grid, shape, 0).astype(np.uint8), stored, label, level=1)
    return {"image": str(image), "label": str(label)}


def _grid(
    source: nib.Nifti1Image,
    shape: tuple[int, ...],
    spacing: tuple[float, ...] | NDArray[np.float64],
    shift: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Affine of a grid around the centre of the source, moved by a share of its extent."""
    old_spacing = np.array(source.header.get_zooms())
    directions = source.affine[:3, :3] / old_spacing
    centre = (np.array(source.shape) - 1) / 2 + shift * source.shape
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = (source.affine @ [*centre, 1])[:3] - middle
    return affine


def _sample(
    source: nib.Nifti1Image, affine: NDArray[np.float64], shape: tuple[int, ...], order: int
) -> NDArray[np.float32]:
    """The source on another grid, linear (order 1) or nearest (0); outside is air or background."""
    outside = AIR_HU if order else 0
    return on_grid(np.asanyarray(source.dataobj), source.affine, affine, shape, order, fill=outside)


def _noisy(array: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.int16]:
    noise = random.standard_normal(array.shape, dtype=np.float32) * np.float32(NOISE_HU)
    return np.maximum(np.rint(array + noise), AIR_HU).astype(np.int16)


def _write(
    array: NDArray[np.int16] | NDArray[np.uint8],
    affine: NDArray[np.float64],
    target: Path,
    *,
    level: int,
) -> None:
    content = nib.Nifti1Image(array, affine).to_bytes()
    with atomic_path(target) as temporary:
        # no time stamp: the same scan is the same file
        temporary.write_bytes(gzip.compress(content, compresslevel=level, mtime=0))
