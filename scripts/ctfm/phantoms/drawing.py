"""CT phantoms: torsos and heads drawn from analytic shapes, for demos, tests and documentation.

Shapes are evaluated on the voxel grid through its affine, so every spacing, orientation and tilt
shows the same anatomy. A seed is a patient: it bends and scales the space, moves organs, and lays
out bowel, vessels and lesions anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.imaging.file_names import NIFTI
from ctfm.imaging.nifti import write_nifti
from ctfm.phantoms.head import head_parts
from ctfm.phantoms.shapes import Canvas, Part, blob
from ctfm.phantoms.torso import BLOOD, torso_parts
from ctfm.phantoms.tumors import HOSTS, tumor

__all__ = [
    "REGIONS",
    "Phantom",
    "draw_head",
    "draw_torso",
    "save_phantom",
    "write_dataset",
    "write_volume",
]

Triple = tuple[float, float, float]

#: Part of the torso -> lowest and highest z in mm.
REGIONS = {"torso": (-155, 465), "thorax": (140, 465), "abdomen": (-15, 265), "pelvis": (-155, 30)}
#: HU that contrast medium adds in the portal venous phase, by the beginning of the class.
CONTRAST = {
    "liver": 50,
    "spleen": 70,
    "kidney_left": 130,
    "kidney_right": 130,
    "pancreas": 50,
    "heart": 50,
}
CONTRAST_IN_BLOOD, CONTRAST_IN_TUMORS = 115, 45


@dataclass(frozen=True)
class Phantom:
    """A drawn scan.

    Attributes:
        image: HU, int16, shape (X, Y, Z) in the axis order that `affine` says.
        label: TotalSegmentator v2 ids, uint8, same shape; 0 is what has no class.
        lesion: 1 in tumours (torso) or in the bleed (head), uint8, same shape.
        affine: (4, 4), voxel index to RAS+ mm.
    """

    image: Array
    label: Array
    lesion: Array
    affine: Array


def draw_torso(
    seed: int = 0,
    spacing: Triple = (3.0, 3.0, 3.0),
    axcodes: str = "RAS",
    *,
    region: str = "torso",
    oblique_degrees: float = 0.0,
    noise_hu: float = 10.0,
    tumors: int = 0,
    hosts: str = HOSTS,
    contrast: bool = False,
    table: bool = True,
) -> Phantom:
    """A torso with 109 of the 117 classes: not the brain, the skull, nor C1 to C6 for certain.

    Args:
        seed: the patient; everything but the grid follows from it.
        spacing: mm between voxels along the stored axes, in the order of `axcodes`.
        axcodes: directions of the stored axes, for example "RAS", "LPS" or "SPL".
        region: field of view, one of `REGIONS`.
        oblique_degrees: tilt of the grid against the patient, below 40.
        noise_hu: standard deviation of the noise.
        tumors: number of tumours.
        hosts: organs that may have them, a regular expression of class names; as it stands liver,
            kidneys, spleen, pancreas and lungs.
        contrast: portal venous phase instead of no contrast medium.
        table: draw the table under the patient.

    Raises:
        UserError: an argument is out of its range.
    """
    if region not in REGIONS:
        raise UserError(f"no region is called {region!r}: choose one of {', '.join(REGIONS)}")
    if tumors < 0:
        raise UserError(f"tumors is {tumors}: give the number of tumours, 0 or more")
    low, high = REGIONS[region]
    field = np.array([[-210.0, -172, low], [210, 138, high]])
    canvas = _canvas(field, spacing, axcodes, oblique_degrees, noise_hu)
    rng = _generator(seed)
    if table:
        canvas.paint(Part("", -300, blob((0, -158, 0), (205, 9, 2000), 6), core=-900, rind=3))
    canvas.bend(rng, mm=5)
    parts = torso_parts(rng)
    for _ in range(tumors):
        ends = (low + 15) / canvas.size[2], (high - 15) / canvas.size[2]
        parts.append(tumor(parts, rng, *ends, hosts))
    for part in parts:
        canvas.paint(_enhanced(part) if contrast else part)
    return _finished(canvas, seed, noise_hu)


def draw_head(
    seed: int = 0,
    spacing: Triple = (1.5, 1.5, 2.5),
    axcodes: str = "RAS",
    *,
    oblique_degrees: float = 0.0,
    noise_hu: float = 5.0,
    bleed: bool = False,
) -> Phantom:
    """A head with brain, skull, neck and face; `bleed` adds a subdural or intracerebral bleed.

    The other arguments are those of `torso`.

    Raises:
        UserError: an argument is out of its range.
    """
    field = np.array([[-96.0, -122, -132], [96, 128, 116]])
    canvas = _canvas(field, spacing, axcodes, oblique_degrees, noise_hu)
    rng = _generator(seed)
    canvas.bend(rng, mm=2)
    for part in head_parts(rng, bleed):
        canvas.paint(part)
    return _finished(canvas, seed, noise_hu)


def save_phantom(
    phantom: Phantom,
    image_path: str | PathLike[str],
    label_path: str | PathLike[str] | None = None,
    lesion_path: str | PathLike[str] | None = None,
) -> None:
    """Write NIfTI files; labels and lesion only where a path is given.

    Raises:
        UserError: a file cannot be written.
    """
    write_volume(phantom.image, phantom.affine, image_path)
    if label_path is not None:
        write_volume(phantom.label, phantom.affine, label_path)
    if lesion_path is not None:
        write_volume(phantom.lesion, phantom.affine, lesion_path)


def write_dataset(
    root: str | PathLike[str],
    subjects: int = 6,
    seed: int = 0,
    spacing: Triple = (3.0, 3.0, 3.0),
    region: str = "torso",
) -> Path:
    """Write phantoms laid out as TotalSegmentator's release of its data set, version 2.

    That is ``meta.csv`` (semicolons), and per subject ``sNNNN/ct.nii.gz`` with a binary mask of
    each of the 117 classes in ``sNNNN/segmentations``, empty ones too. The last fifth of the
    subjects are the test split, the fifth before it validation. ``meta.csv`` is written last.

    Returns:
        The folder.

    Raises:
        UserError: an argument is out of its range, or a file cannot be written.
    """
    if subjects < 3:
        raise UserError(f"subjects is {subjects}: three splits need at least 3 subjects")
    folder, held_out, rng = Path(root), max(1, subjects // 5), _generator(seed)
    rows = ["image_id;age;gender;institute;study_type;split"]
    for index in range(subjects):
        name, left = f"s{index:04d}", (subjects - 1 - index) // held_out
        phantom = draw_torso(seed + index, spacing, region=region)
        write_volume(phantom.image, phantom.affine, folder / name / "ct.nii.gz")
        for number, label in TOTALSEGMENTATOR_V2.items():
            mask = (phantom.label == number).astype(np.uint8)
            write_volume(mask, phantom.affine, folder / name / "segmentations" / f"{label}.nii.gz")
        split = ("test", "val", "train")[min(left, 2)]
        rows.append(f"{name};{rng.integers(30, 85)};m;phantom;ct {region};{split}")
    with atomic_path(folder / "meta.csv") as path:
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise UserError(f"seed is {seed}: give a whole number, 0 or more")
    return np.random.default_rng(seed)


def _finished(canvas: Canvas, seed: int, noise_hu: float) -> Phantom:
    image = canvas.scanned(np.random.default_rng([seed, 1]), noise_hu)
    return Phantom(image, canvas.label, canvas.lesion, canvas.affine)


def _canvas(
    field: Array, spacing: Triple, axcodes: str, oblique_degrees: float, noise_hu: float
) -> Canvas:
    """An empty grid that covers `field`, corners (2, 3) in mm; the arguments are checked."""
    codes = axcodes.upper()
    world = ["RLAPSI".find(code) // 2 for code in codes]
    if sorted(world) != [0, 1, 2]:
        raise UserError(f"axcodes are {axcodes!r}: give one each of R/L, A/P and S/I, e.g. RAS")
    if len(spacing) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise UserError(f"spacing is {spacing}: give three positive numbers in mm")
    if not abs(oblique_degrees) < 40:
        raise UserError(f"oblique_degrees is {oblique_degrees}: give less than 40 either way")
    if not 0 <= noise_hu < math.inf:
        raise UserError(f"noise_hu is {noise_hu}: give a standard deviation in HU, 0 or more")
    axes = np.zeros((3, 3))
    axes[world, range(3)] = [1 if code in "RAS" else -1 for code in codes]
    tilt = Rotation.from_rotvec(np.array([2, 1, -2]) / 3 * np.radians(oblique_degrees))
    shape = np.ceil(np.ptp(field, axis=0)[world] / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = tilt.as_matrix() @ axes * np.asarray(spacing)
    affine[:3, 3] = field.mean(0) - affine[:3, :3] @ ((shape - 1) / 2)
    return Canvas(shape, affine)


def _enhanced(part: Part) -> Part:
    """The part after injection of contrast medium."""
    name = part.name or part.over or ""
    more = next((hu for start, hu in CONTRAST.items() if name.startswith(start)), 0)
    more = CONTRAST_IN_TUMORS if part.lesion else more

    def bright(hu: float) -> float:
        return hu + (CONTRAST_IN_BLOOD if hu == BLOOD else more)

    return replace(part, hu=bright(part.hu), core=None if part.core is None else bright(part.core))


def write_volume(data: Array, affine: Array, path: str | PathLike[str]) -> None:
    """Write NIfTI in mm, with its orientation stated.

    Raises:
        UserError: the name does not end in .nii or .nii.gz, or it cannot be written.
    """
    if not str(path).endswith(NIFTI):
        raise UserError(f"{path} is no NIfTI file name: end it in .nii.gz or .nii")
    write_nifti(data, affine, path)
