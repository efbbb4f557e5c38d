"""Commands that write CT phantoms with labels, for trying things out."""

from __future__ import annotations

from typing import Any

from ctfm.commands.calling import call

__all__ = ["dataset", "head", "msd", "torso"]

Numbers = tuple[float, ...]
HOSTS = r"liver|kidney_(left|right)|spleen|pancreas|lung_\w+"


def torso(
    out: str,
    *,
    label: str | None = None,
    seed: int = 0,
    spacing: Numbers = (3.0, 3.0, 3.0),
    axcodes: str = "RAS",
    region: str = "torso",
    oblique_degrees: float = 0.0,
    noise_hu: float = 10.0,
    tumors: int = 0,
    hosts: str = HOSTS,
    contrast: bool = False,
    table: bool = True,
) -> None:
    """Write a torso.

    Args:
        out: NIfTI file of the CT
        label: NIfTI file of the labels; default: none is written
        seed: the patient; everything but the grid follows from it
        spacing: mm between voxels along the stored axes, in the order of axcodes
        axcodes: directions of the stored axes, for example RAS, LPS or SPL
        region: field of view: torso, chest, abdomen, …
        oblique_degrees: tilt of the grid against the patient, below 40
        noise_hu: standard deviation of the noise
        tumors: number of tumours
        hosts: organs that may have them, a regular expression of class names
        contrast: portal venous phase instead of no contrast medium
        table: draw the table under the patient
    """
    _save("draw_torso", **locals())


def head(
    out: str,
    *,
    label: str | None = None,
    seed: int = 0,
    spacing: Numbers = (1.5, 1.5, 2.5),
    axcodes: str = "RAS",
    oblique_degrees: float = 0.0,
    noise_hu: float = 5.0,
    bleed: bool = False,
) -> None:
    """Write a head.

    Args:
        out: NIfTI file of the CT
        label: NIfTI file of the labels; default: none is written
        seed: the patient; everything but the grid follows from it
        spacing: mm between voxels along the stored axes, in the order of axcodes
        axcodes: directions of the stored axes, for example RAS, LPS or SPL
        oblique_degrees: tilt of the grid against the patient, below 40
        noise_hu: standard deviation of the noise
        bleed: draw a bleeding
    """
    _save("draw_head", **locals())


def dataset(
    root: str,
    *,
    subjects: int = 6,
    seed: int = 0,
    spacing: Numbers = (3.0, 3.0, 3.0),
    region: str = "torso",
) -> None:
    """Write phantoms in the layout of a TotalSegmentator v2 release.

    Args:
        root: folder to make
        subjects: number of phantoms
        seed: the first patient; each scan is another
        spacing: mm along x, y and z
        region: field of view: torso, chest, abdomen, …
    """
    call("ctfm.phantoms.drawing:write_dataset", **locals())


def msd(
    root: str,
    *,
    task: str = "Task06_Lung",
    subjects: int = 8,
    tests: int = 2,
    spacing: Numbers = (3.0, 3.0, 3.0),
    seed: int = 0,
    margin: float | None = 15.0,
) -> None:
    """Write phantoms with tumours in the layout of the Medical Segmentation Decathlon.

    Args:
        root: folder in which the task's folder is made, or the task's folder
        task: name of the task's folder: which organ has tumours, and which labels there are
        subjects: number of scans with labels
        tests: number of scans without
        spacing: mm along x, y and z
        seed: the first patient; each scan is another
        margin: mm of surroundings that are kept about the organ; none: the whole region
    """
    call("ctfm.phantoms.decathlon:write_dataset", **locals())


def _save(draw: str, out: str, label: str | None, **options: Any) -> None:
    phantom = call(f"ctfm.phantoms:{draw}", **options)
    call("ctfm.phantoms:save_phantom", phantom=phantom, image_path=out, label_path=label)
