"""What the page may show: a list made before it opens, and nothing that a request could name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.imaging.checks.ct import check_label
from ctfm.imaging.class_names import class_names, spelled
from ctfm.imaging.file_names import is_nifti
from ctfm.imaging.label_maps import count_voxels, present_ids
from ctfm.imaging.listing import find_scans
from ctfm.imaging.nifti import open_stream
from ctfm.imaging.scans import describe, read_scan
from ctfm.pictures.label_map import class_color

__all__ = ["Scene", "make_scene"]


@dataclass(frozen=True)
class Scene:
    """Volumes by their numbers.

    Attributes:
        files: scan, overlay if there is one, scans of the index.
        names: of the volumes, as the page calls them.
        overlay: number of the labels or of the map; None: there are none.
        classes: class id -> name and colour (0 to 255) of what the labels hold; None: no labels.
        by_scan: name of a scan in the index -> its number.
    """

    files: list[Path]
    names: list[str]
    overlay: int | None = None
    classes: Mapping[int, tuple[str, tuple[int, int, int]]] | None = None
    by_scan: Mapping[str, int] = field(default_factory=dict)

    def url(self, number: int | None) -> str | None:
        """Address of a volume on the page."""
        return None if number is None else f"volume/{number}/volume.nii"

    def content(self, number: int) -> bytes | bytearray:
        """A volume as NIfTI, not compressed, with the affine that all of this package goes by.

        Raises:
            UserError: it cannot be read.
        """
        path, is_overlay = self.files[number], number == self.overlay
        labels = is_overlay and self.classes is not None
        if is_nifti(path) and not labels:
            return _stored(path)
        scan = read_scan(str(path))
        values = scan[0].numpy()
        if not is_overlay or labels:  # a map has fractions
            values = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
        image = nib.Nifti1Image(values, scan.affine.numpy())
        if labels:  # NiiVue colours what the header calls labels
            image.header.set_intent("label")
        content: bytes = image.to_bytes()
        return content

    def describe(self, search: bool) -> dict[str, Any]:
        """What the page has to know, as JSON has it."""
        overlay = None
        if self.overlay is not None:
            classes = {
                str(i): {"name": name, "color": color}
                for i, (name, color) in (self.classes or {}).items()
            }
            kind = "heat" if self.classes is None else "labels"
            overlay = {"url": self.url(self.overlay), "kind": kind, "classes": classes}
        return {
            "name": self.names[0],
            "url": self.url(0),
            "overlay": overlay,
            "search": search,
        }


def make_scene(
    scan: str, labels: str | None = None, heat: str | None = None, scans: str | None = None
) -> Scene:
    """List what may be shown.

    Args:
        scan: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
        labels: label map of it.
        heat: map on any grid, such as ``similarity.nii.gz`` of `ctfm locate`.
        scans: folder of the scans in the index.

    Raises:
        UserError: a file is missing or does not fit.
    """
    if labels is not None and heat is not None:
        raise UserError("labels and heat are given: choose one to lie over the scan")
    image = _one_volume(scan)
    files, names = [Path(scan).expanduser()], [Path(scan).name]
    overlay = labels or heat
    classes = None
    if overlay is not None:
        volume = _one_volume(overlay)
        if labels is not None:
            check_label(volume, labels, tuple(image.shape[1:]), image.affine)
            classes = _classes(volume[0].numpy(), Path(labels).expanduser())
        files.append(Path(overlay).expanduser())
        names.append(Path(overlay).name)
    by_scan = {}
    for row in find_scans(scans) if scans is not None else ():
        by_scan[row["name"]] = len(files)
        files.append(Path(row["image"]))
        names.append(row["name"])
    return Scene(files, names, None if overlay is None else 1, classes, by_scan)


def _one_volume(path: str) -> MetaTensor:
    image = read_scan(path)
    if image.ndim != 4 or image.shape[0] != 1:
        raise UserError(
            f"{path}: {image.shape[0]} volumes or colours in one file: give a file with one volume"
        )
    return image


def _stored(path: Path) -> bytearray:
    """A NIfTI file as it is, but for its header's affine.

    Where its two forms are absent, or say different things, NiiVue goes by other rules than
    nibabel: what is clicked would lie elsewhere than what is searched for. Decompressed here, for
    a browser reads neither files of several gzip members nor any of them as fast.
    """
    try:
        image: Any = nib.load(path)
        with open_stream(path) as file:
            content = bytearray(file.read())
        kind = type(image.header)
        header = kind(bytes(content[: kind.sizeof_hdr]), check=False)
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({describe(error)})") from error
    header.set_sform(image.affine, code=2)
    header["qform_code"] = 0
    content[: kind.sizeof_hdr] = header.binaryblock
    return content


def _classes(labels: np.ndarray, path: Path) -> dict[int, tuple[str, tuple[int, int, int]]]:
    """Names of the classes that are there: those that `ctfm segment` wrote beside the labels."""
    names = class_names(path)
    ids = present_ids(count_voxels(labels))
    return {i: (spelled(i, names), _color(i)) for i in ids}


def _color(class_id: int) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in class_color(class_id))
    return red, green, blue
