"""A label map as DICOM Segmentation, beside the CT series that it was made of."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.optional import require
from ctfm.base.types import Array
from ctfm.contract.snomed import Code, coded
from ctfm.imaging.dicom.geometry import correction, sort_slices
from ctfm.imaging.dicom.headers import check_series, is_series, read_headers
from ctfm.imaging.label_maps import count_voxels, present_ids

__all__ = ["KINDS", "check_segmentation", "write_segmentation"]

#: DICOM's types of segmentation: one array of ids, or one mask a segment, which older viewers read.
KINDS = ("labelmap", "binary")
PURPOSE = "write DICOM Segmentation"
#: Attributes of patient and study that a Segmentation repeats, which anonymous series may lack.
REPEATED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
SERIES_NUMBER = 9000


def check_segmentation(series: str | os.PathLike[str], kind: str = "labelmap") -> None:
    """Can a Segmentation of this series be written? Looks at the headers alone.

    Raises:
        UserError: it is no DICOM series, its volume lies on a corrected grid, the kind does not
            exist, or highdicom is missing.
    """
    _highdicom()
    _sources(Path(series), kind)


def write_segmentation(
    label: Array,
    series: str | os.PathLike[str],
    path: Path,
    names: Mapping[int, str],
    kind: str = "labelmap",
    colors: Mapping[int, Sequence[float]] | None = None,
    voxels: Array | None = None,
) -> None:
    """Write the classes that are there as segments, numbered from 1 by ascending id.

    Args:
        label: ids (X, Y, Z), uint8, on the grid that `read_series` gives.
        series: folder of the CT series.
        path: of the Segmentation.
        names: id -> name, which the codes follow from (`ctfm.contract.snomed`).
        kind: one of `KINDS`.
        colors: id -> red, green and blue, 0..1.
        voxels: of each id, where they are counted already; None: they are counted here.

    Raises:
        UserError: nothing was found, as for `check_segmentation`, or the file cannot be written.
    """
    highdicom = _highdicom()
    folder = Path(series)
    sources = _sources(folder, kind)
    ids = present_ids(count_voxels(label) if voxels is None else voxels)
    if not ids:
        raise UserError(f"{folder}: nothing was found, and DICOM knows no empty Segmentation")
    numbers = np.zeros(256, np.uint8)
    numbers[ids] = np.arange(1, len(ids) + 1)
    pixels = np.ascontiguousarray(numbers[label.transpose(2, 1, 0)])  # slices, rows, columns
    made = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind.upper(),
        segment_descriptions=[
            _describe(highdicom, number, i, names, colors) for number, i in enumerate(ids, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="ct-fm-bundles",
        manufacturer_model_name="ctfm segment",
        software_versions=__version__,
        device_serial_number="0",
        content_label="SEGMENTATION",
        series_description="Segmentation, for research",
        transfer_syntax_uid=_transfer_syntax(kind),
    )
    with atomic_path(path) as temporary:
        made.save_as(temporary)


def _describe(
    highdicom: Any,
    number: int,
    class_id: int,
    names: Mapping[int, str],
    colors: Mapping[int, Sequence[float]] | None,
) -> Any:
    name = names.get(class_id, f"class {class_id}")
    codes = coded(name)
    color = None
    if colors is not None:
        rgb = (round(255 * channel) for channel in colors[class_id][:3])
        color = highdicom.color.CIELabColor.from_rgb(*rgb)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="ct-fm-bundles",
        version=__version__,
        family=highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
    )
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=_concept(highdicom, codes.category),
        segmented_property_type=_concept(highdicom, codes.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        anatomic_regions=None if codes.region is None else [_concept(highdicom, codes.region)],
        display_color=color,
    )
    if codes.side is not None:  # highdicom has no argument for it
        side = [_concept(highdicom, codes.side)]
        if codes.region is None:
            kind = described.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = side
        else:  # of a cyst in the left kidney, the kidney is the left one
            described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = side
    return described


def _concept(highdicom: Any, code: Code) -> Any:
    return highdicom.sr.CodedConcept(code.value, "SCT", code.meaning)


def _sources(folder: Path, kind: str) -> list[Any]:
    """The headers of the images, as the volume's slices follow each other."""
    if kind not in KINDS:
        raise UserError(f"dicom_seg is {kind}: choose {' or '.join(KINDS)}")
    if not (folder.is_dir() and is_series(folder)):
        raise UserError(
            f"{folder}: no DICOM series, of which DICOM Segmentation repeats patient and frame: "
            "give the folder of one, or leave --dicom_seg out"
        )
    headers = read_headers(folder)
    check_series(folder, headers)
    slices, grid = sort_slices(folder, headers)
    if (why := correction(grid)) is not None:
        raise UserError(
            f"{folder}: {why}, so that labels lie between its images: leave --dicom_seg out"
        )
    pydicom = require("pydicom", purpose=PURPOSE, extra="dicom-seg")
    sources = [pydicom.dcmread(one.path, stop_before_pixels=True) for one in slices]
    for source in sources:
        for keyword in REPEATED:
            if keyword not in source:
                setattr(source, keyword, None)
        if "FrameOfReferenceUID" not in source:
            # one for the series, the same on each run
            entropy = [str(source.SeriesInstanceUID), "frame of reference"]
            source.FrameOfReferenceUID = pydicom.uid.generate_uid(entropy_srcs=entropy)
    return sources


def _transfer_syntax(kind: str) -> str:
    uid = require("pydicom.uid", purpose=PURPOSE, extra="dicom-seg")
    return str(uid.JPEGLSLossless if kind == "labelmap" else uid.ExplicitVRLittleEndian)


def _highdicom() -> Any:
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells each module it copies
    return require("highdicom", purpose=PURPOSE, extra="dicom-seg")
