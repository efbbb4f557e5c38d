"""From network output to what a user opens: label maps on the input's grid, names, pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ctfm.classes import TOTALSEGMENTATOR_V2
from ctfm.errors import UserError
from ctfm.files import atomic_path
from ctfm.lesions import LesionScore, format_lesions, lesion_score, write_lesions
from ctfm.metrics import ClassScore, format_table, segmentation_scores, summarise, write_report
from ctfm.preview import preview
from ctfm.scans import RESULT_SUFFIX, read_scan, result_name

__all__ = ["LesionReport", "SaveSegmentationd", "SegmentationReport"]

logger = logging.getLogger(__name__)

NO_CASE = "no case could be evaluated: see the messages above"


class SaveSegmentationd(MapTransform):
    """Write a label map as ``NAME_seg.nii.gz`` on the input's grid, with names and a picture.

    ``NAME_seg.json`` lists the classes found with their volume in ml, ``NAME_preview.png`` shows
    three planes. NAME is the input's, with its subfolders.

    Args:
        keys: the inverted label map (1, X, Y, Z) of class ids up to 255.
        output_dir: made where it does not exist.
        names: id -> name; None: the TotalSegmentator v2 classes.
        preview: write the picture; it reads the CT again, in full resolution.
        image_key: the image whose grid the label map must have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        names: Mapping[int, str] | None = None,
        preview: bool = True,
        image_key: str = "image",
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.names = TOTALSEGMENTATOR_V2 if names is None else dict(names)
        self.preview = preview
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the item ``found`` says which classes there are."""
        result = dict(data)
        for key in self.key_iterator(data):
            meta = data[self.image_key].meta
            source = str(meta["filename_or_obj"])
            base = self.output_dir / result_name(data, self.image_key)
            affine = np.asarray(meta["original_affine"], dtype=float)
            label = _on_grid(data[key], affine, meta["spatial_shape"], source)
            result["found"] = self._save_names(label, affine, base, source)
            if self.preview:
                picture = base.with_name(f"{base.name}_preview.png")
                image = read_scan(source)[0].numpy()
                preview(image, label, affine, self.names, picture, title=base.name)
            # last, because a result that is there counts as finished
            path = base.with_name(f"{base.name}{RESULT_SUFFIX}")
            _save_label_map(label, affine, path)
            logger.info("%s: %d classes -> %s", source, len(result["found"]), path)
        return result

    def _save_names(
        self, label: Any, affine: Any, base: Path, source: str
    ) -> dict[str, dict[str, Any]]:
        voxels = np.bincount(label.ravel(), minlength=256)
        voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
        found = {
            str(i): {
                "name": self.names.get(i, f"class {i}"),
                "voxels": int(voxels[i]),
                "volume_ml": round(float(voxels[i]) * voxel_ml, 3),
            }
            for i in range(1, 256)
            if voxels[i]
        }
        document = {
            "source": Path(source).name,
            "found": found,
            "labels": {str(i): name for i, name in self.names.items()},
        }
        with atomic_path(base.with_name(f"{base.name}_seg.json")) as temporary:
            temporary.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")
        return found


def _on_grid(label: Any, affine: Any, shape: Sequence[int], source: str) -> Any:
    """The label map as uint8, once it is certain that it lies on the input's grid."""
    expected = tuple(int(n) for n in shape)
    same_affine = np.allclose(np.asarray(label.affine, dtype=float), affine, atol=1e-3)
    if tuple(label.shape[1:]) != expected or not same_affine:
        raise RuntimeError(
            f"{source}: the label map came back as {tuple(label.shape[1:])}, not on the input's "
            f"grid {expected}"
        )
    return label[0].as_tensor().to(torch.uint8).cpu().numpy()


def _save_label_map(label: Any, affine: Any, path: Path) -> None:
    image = nib.Nifti1Image(label, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


class SegmentationReport:
    """Handler: score each case on its own grid, and write tables when all are done.

    Args:
        output_dir: folder of ``metrics_cases.csv``, ``metrics_summary.csv``, ``metrics.json``.
        class_ids: ids that are scored.
        label_key: reference label map (1, X, Y, Z) as it is stored.
        nsd_tolerance_mm: surfaces closer than this count as equal (TotalSegmentator's 3 mm).
        names: id -> name; None: the TotalSegmentator v2 classes.
    """

    def __init__(
        self,
        output_dir: str,
        class_ids: Sequence[int],
        label_key: str = "reference",
        nsd_tolerance_mm: float = 3.0,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self.output_dir = output_dir
        known = TOTALSEGMENTATOR_V2 if names is None else names
        self.classes = {i: known.get(i, f"class {i}") for i in class_ids}
        self.label_key = label_key
        self.nsd_tolerance_mm = nsd_tolerance_mm
        self.cases: dict[str, list[ClassScore]] = {}

    def attach(self, engine: Engine) -> None:
        """Score after each case, report at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _score(self, engine: Any) -> None:
        for name, predicted, reference, spacing in _pairs(engine, self.label_key, self.cases):
            self.cases[name] = segmentation_scores(
                predicted, reference, spacing, self.classes, self.nsd_tolerance_mm
            )

    def _report(self, _engine: Any) -> None:
        if not self.cases:
            raise UserError(NO_CASE)
        summary = summarise(self.cases, nsd_tolerance_mm=self.nsd_tolerance_mm)
        write_report(self.cases, self.output_dir, summary)
        print(format_table(summary))
        logger.info("tables: %s", Path(self.output_dir).resolve())


class LesionReport:
    """Handler: find the tumours of each case on its own grid, and write tables when all are done.

    Args:
        output_dir: folder of ``lesions.csv``, ``lesions_cases.csv`` and ``lesions.json``.
        class_id: the id of tumour.
        label_key: reference label map (1, X, Y, Z) as it is stored.
        min_overlap: share of its voxels that the other mask must have, from 0 to 1, for a tumour to
            be found; 0: any voxel.
    """

    def __init__(
        self,
        output_dir: str,
        class_id: int,
        label_key: str = "reference",
        min_overlap: float = 0.0,
    ) -> None:
        self.output_dir = output_dir
        self.class_id = class_id
        self.label_key = label_key
        self.min_overlap = min_overlap
        self.cases: dict[str, LesionScore] = {}

    def attach(self, engine: Engine) -> None:
        """Count after each case, report at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _count(self, engine: Any) -> None:
        for name, predicted, reference, spacing in _pairs(engine, self.label_key, self.cases):
            self.cases[name] = lesion_score(
                predicted, reference, spacing, self.class_id, self.min_overlap
            )

    def _report(self, _engine: Any) -> None:
        if not self.cases:
            raise UserError(NO_CASE)
        settings = {"class_id": self.class_id, "min_overlap": self.min_overlap}
        print(format_lesions(write_lesions(self.cases, self.output_dir, settings=settings)))


def _pairs(
    engine: Any, label_key: str, taken: Collection[str]
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, prediction, reference (X, Y, Z) and voxel size in mm of the cases of an iteration."""
    for row, output in zip(engine.state.batch, engine.state.output, strict=True):
        reference = row[label_key]
        spacing = np.linalg.norm(np.asarray(reference.affine)[:3, :3], axis=0)
        name = result_name(row, "image")
        if name in taken:
            name = f"{name} ({len(taken)})"
        yield name, output["pred"][0], reference[0], spacing
