"""What the page may show: a list made before it opens, and nothing that a request could name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ctfm.classes import TOTALSEGMENTATOR_V2
from ctfm.errors import UserError
from ctfm.preview import class_color
from ctfm.scan_checks import check_label
from ctfm.scans import NIFTI, find_scans, read_scan

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
        """Address of a volume on the page; its suffix says whether it is compressed."""
        if number is None:
            return None
        compressed = self.files[number].name.lower().endswith(".nii.gz")
        compressed &= not self._is_labels(number)
        return f"volume/{number}/volume{'.nii.gz' if compressed else '.nii'}"

    def content(self, number: int) -> bytes:
        """A volume as NIfTI.

        Raises:
            UserError: it cannot be read.
        """
        path, labels = self.files[number], self._is_labels(number)
        if path.name.lower().endswith(NIFTI) and not labels:
            return path.read_bytes()
        scan = read_scan(str(path))
        values = np.clip(np.rint(scan[0].numpy()), -32768, 32767).astype(np.int16)
        image = nib.Nifti1Image(values, scan.affine.numpy())
        if labels:  # NiiVue colours what the header calls labels
            image.header.set_intent("label")
        content: bytes = image.to_bytes()
        return content

    def _is_labels(self, number: int) -> bool:
        return number == self.overlay and self.classes is not None

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
            "name": self.names[0], "url": self.url(0), "overlay": overlay, "search": search,
        }  # fmt: skip


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
    image = read_scan(scan)
    files, names = [Path(scan).expanduser()], [Path(scan).name]
    overlay = labels or heat
    classes = None
    if overlay is not None:
        volume = read_scan(overlay)
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


def _classes(labels: np.ndarray, path: Path) -> dict[int, tuple[str, tuple[int, int, int]]]:
    """Names of the classes that are there: those that `ctfm segment` wrote beside the labels."""
    names: Mapping[int, str] = TOTALSEGMENTATOR_V2
    beside = path.with_name(f"{path.name.split('.nii')[0]}.json")
    if beside.is_file():
        try:
            written = json.loads(beside.read_text(encoding="utf-8"))["labels"]
            names = {int(i): str(name) for i, name in written.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{beside}: no names of classes in it: move it away") from error
    found = [int(i) for i in np.unique(labels) if i > 0]
    return {i: (names.get(i, f"class {i}"), _color(i)) for i in found}


def _color(class_id: int) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in class_color(class_id))
    return red, green, blue
