"""What a user opens after segmentation: label maps on the scan's grid, names, tables, pictures."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.imaging.dicom.segments import check_segmentation, write_segmentation
from ctfm.imaging.file_names import RESULT_SUFFIX
from ctfm.imaging.label_maps import count_voxels, present_ids
from ctfm.imaging.listing import result_name
from ctfm.imaging.nifti import write_nifti
from ctfm.imaging.provenance import MADE_BY, Provenance
from ctfm.imaging.scans import read_scan
from ctfm.inference.anatomy import anatomy_warnings
from ctfm.inference.label_statistics import ClassStatistics, label_statistics, write_statistics
from ctfm.pictures.label_map import Color, class_color, preview

__all__ = ["CheckDicomSegd", "SaveSegmentationd"]

logger = logging.getLogger(__name__)

#: What may lie beside a label map, after the name of its scan.
OTHER_RESULTS = (
    "_seg.json",
    "_seg.dcm",
    "_preview.png",
    "_statistics.csv",
    "_statistics.json",
)


class SaveSegmentationd(MapTransform):
    """Write a label map as ``NAME_seg.nii.gz`` on the input's grid, with names and a picture.

    ``NAME_seg.json`` lists the classes found with their volume in ml, ``NAME_preview.png`` shows
    three planes, ``NAME_statistics.csv`` and ``.json`` hold volumes and HU. NAME is the
    input's, with its subfolders.

    Args:
        keys: the inverted label map (1, X, Y, Z) of class ids up to 255.
        output_dir: made where it does not exist.
        names: id -> name; None: the TotalSegmentator v2 classes.
        preview: write the picture; it reads the CT again, in full resolution.
        image_key: the image whose grid the label map must have.
        statistics: write the table; it reads the CT again.
        dicom_seg: write ``NAME_seg.dcm``, as "labelmap" (or True) or as "binary".
        provenance: what makes the results; ``NAME_seg.json`` records it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        names: Mapping[int, str] | None = None,
        preview: bool = True,
        image_key: str = "image",
        statistics: bool = False,
        dicom_seg: bool | str = False,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__(keys)
        self.provenance = Provenance() if provenance is None else provenance
        self.output_dir = Path(output_dir)
        self.names = TOTALSEGMENTATOR_V2 if names is None else dict(names)
        self.preview = preview
        self.image_key = image_key
        self.statistics = statistics
        self.dicom_seg = _kind(dicom_seg)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the item ``found`` says which classes there are.

        The item ``anatomy`` says what in their places speaks against the scan's header.
        An item ``confidence``, ``{class id: value}``, goes into names and table.
        """
        result = dict(data)
        for key in self.key_iterator(data):
            meta = data[self.image_key].meta
            source = str(meta["filename_or_obj"])
            base = self.output_dir / result_name(data, self.image_key)
            affine = np.asarray(meta["original_affine"], dtype=float)
            label = _on_grid(data[key], affine, meta["spatial_shape"], source)
            # last, because a result that is there counts as finished; what an earlier run made
            # is kept until the new label map is on disk
            path = base.with_name(f"{base.name}{RESULT_SUFFIX}")
            beside = partial(self._save_beside, result, label, affine, base, source)
            write_nifti(label, affine, path, ready=beside)
            logger.info("%s: %d classes -> %s", source, len(result["found"]), path)
        return result

    def _save_beside(
        self, result: dict[Hashable, Any], label: Array, affine: Array, base: Path, source: str
    ) -> None:
        """Write all files but the label map, in place of those of an earlier run."""
        _remove_results(base)
        confidence = result.get("confidence", {})
        voxels = count_voxels(label)
        result["anatomy"] = anatomy_warnings(label, affine, self.names)
        for warning in result["anatomy"]:
            logger.warning("%s: %s", source, warning)
        result["found"] = self._save_names(voxels, affine, base, source, confidence)
        if self.preview or self.statistics:
            self._save_more(label, voxels, affine, base, source, confidence)
        if self.dicom_seg is not None and result["found"]:
            path, colors = base.with_name(f"{base.name}_seg.dcm"), _Colors()
            write_segmentation(label, source, path, self.names, self.dicom_seg, colors, voxels)

    def _save_names(
        self, voxels: Array, affine: Array, base: Path, source: str, confidence: Mapping[int, float]
    ) -> dict[str, dict[str, Any]]:
        """Write ``NAME_seg.json``, of the voxels of each id."""
        voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
        found = {
            str(i): {
                "name": self.names.get(i, f"class {i}"),
                "voxels": int(voxels[i]),
                "volume_ml": round(float(voxels[i]) * voxel_ml, 3),
                **({"confidence": round(confidence[i], 4)} if i in confidence else {}),
            }
            for i in present_ids(voxels)
        }
        document = {
            "source": Path(source).name,
            MADE_BY: self.provenance.of(source),
            "found": found,
            "labels": {str(i): name for i, name in self.names.items()},
        }
        with atomic_path(base.with_name(f"{base.name}_seg.json")) as temporary:
            temporary.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")
        return found

    def _save_more(
        self,
        label: Array,
        voxels: Array,
        affine: Array,
        base: Path,
        source: str,
        confidence: Mapping[int, float],
    ) -> None:
        """What takes the CT in its own resolution, which is read once."""
        image = read_scan(source)[0].numpy()
        if self.statistics:
            found = label_statistics(label, image, affine, self.names, voxels)
            sure = {row.class_id: confidence.get(row.class_id, math.nan) for row in found}
            rows = [ClassStatistics(**{**vars(r), "confidence": sure[r.class_id]}) for r in found]
            write_statistics(rows, base.with_name(f"{base.name}_statistics"))
        if self.preview:
            picture = base.with_name(f"{base.name}_preview.png")
            preview(image, label, affine, self.names, picture, title=base.name, voxels=voxels)


def _remove_results(base: Path) -> None:
    """Remove what an earlier run made of this scan, the label map first: it says what is done."""
    for suffix in (RESULT_SUFFIX, *OTHER_RESULTS):
        base.with_name(f"{base.name}{suffix}").unlink(missing_ok=True)


class CheckDicomSegd(MapTransform):
    """Refuse, before anything is computed, what no DICOM Segmentation can be written of.

    Args:
        keys: items that hold a path.
        dicom_seg: as for `SaveSegmentationd`; False: nothing is refused.
    """

    def __init__(self, keys: KeysCollection, dicom_seg: bool | str = False) -> None:
        super().__init__(keys)
        self.dicom_seg = _kind(dicom_seg)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data.

        Raises:
            UserError: see `ctfm.imaging.dicom.segments.check_segmentation`.
        """
        if self.dicom_seg is not None:
            for key in self.key_iterator(data):
                check_segmentation(str(data[key]), self.dicom_seg)
        return dict(data)


def _kind(dicom_seg: bool | str) -> str | None:
    if isinstance(dicom_seg, str):
        return dicom_seg
    return "labelmap" if dicom_seg else None


class _Colors(dict[int, Color]):
    """Those of the picture, by id."""

    def __missing__(self, class_id: int) -> Color:
        return class_color(class_id)


def _on_grid(label: Any, affine: Array, shape: Sequence[int], source: str) -> Array:
    """The label map as uint8, once it is certain that it lies on the input's grid."""
    expected = tuple(int(n) for n in shape)
    same_affine = np.allclose(np.asarray(label.affine, dtype=float), affine, atol=1e-3)
    if tuple(label.shape[1:]) != expected or not same_affine:
        raise RuntimeError(
            f"{source}: the label map came back as {tuple(label.shape[1:])}, not on the input's "
            f"grid {expected}"
        )
    plain: Array = label[0].as_tensor().to(torch.uint8).cpu().numpy()
    return plain
