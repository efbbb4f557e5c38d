"""DICOM Segmentation: read back voxel by voxel, with its codes, beside the images it came from."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.contract.snomed import CODES, Code, coded
from ctfm.imaging.dicom.reading import read_series
from ctfm.imaging.dicom.segments import check_segmentation, write_segmentation
from dicom_support import AXIAL, COLUMNS, ROWS, SLICES, write_series

highdicom = pytest.importorskip(
    "highdicom", reason="needs the extra dicom-seg: pip install 'ct-fm-bundles[dicom-seg]'"
)

#: A rotated patient; 30 degrees about the long axis.
OBLIQUE = ((0.8660254, 0.5, 0.0), (-0.5, 0.8660254, 0.0), (0.0, 0.0, 2.0))
FEET_FIRST = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -2.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (2.0, 0.0, 0.0))


def labels(shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of five classes, among them a side and something ill, and a single voxel."""
    label = np.zeros(shape, np.uint8)
    label[2:9, 3:7, 1:5] = 5  # liver
    label[10:15, 3:9, 4:9] = 3  # kidney_left
    label[11:13, 4:6, 5:7] = 23  # kidney_cyst_left
    label[0, 0, 0] = 117
    return label


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
@pytest.mark.parametrize("plane", [AXIAL, OBLIQUE, FEET_FIRST, SAGITTAL])
def test_read_back_voxel_by_voxel(kind: str, plane: Any, tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", plane=plane)
    scan = read_series(series)
    label = labels(tuple(scan.shape[1:]))
    path = tmp_path / "ct_seg.dcm"
    write_segmentation(label, series, path, TOTALSEGMENTATOR_V2, kind)
    made = highdicom.seg.segread(path)
    assert made.segmentation_type.value == kind.upper()
    volume = made.get_volume(combine_segments=True)
    ids = {n: _class_id(made.get_segment_description(n).segment_label) for n in range(1, 5)}
    # highdicom's volume: its own order of axes, by an affine to LPS+
    affine = np.diag([-1, -1, 1, 1]) @ volume.affine
    voxels = np.argwhere(label)
    world = voxels @ np.asarray(scan.affine)[:3, :3].T + np.asarray(scan.affine)[:3, 3]
    inverse = np.linalg.inv(affine)
    places = np.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    found = np.array([ids[int(volume.array[tuple(place)])] for place in places])
    np.testing.assert_array_equal(found, label[tuple(voxels.T)])
    assert (volume.array > 0).sum() == (label > 0).sum()


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
@pytest.mark.parametrize("plane", [AXIAL, OBLIQUE, FEET_FIRST, SAGITTAL])
def test_each_frame_lies_on_the_image_that_it_names(kind: str, plane: Any, tmp_path: Path) -> None:
    """By pydicom alone: the image's place, and the labels where its own pixels are bright."""
    pydicom = pytest.importorskip("pydicom")
    hu = np.full((SLICES, ROWS, COLUMNS), -1000)
    hu[2:6, 3:9, 4:12] = 300
    hu[4, 3, 4] = -1000
    series = write_series(tmp_path / "series", hu, plane=plane)
    label = (read_series(series)[0].numpy() > 0).astype(np.uint8) * 5
    path = tmp_path / "ct_seg.dcm"
    write_segmentation(label, series, path, TOTALSEGMENTATOR_V2, kind)
    made = pydicom.dcmread(path)
    images = {data.SOPInstanceUID: data for data in map(pydicom.dcmread, series.iterdir())}
    frames = made.pixel_array.reshape(-1, ROWS, COLUMNS)
    shared = made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    seen = set()
    for frame, groups in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        (derived,) = groups.DerivationImageSequence
        (source,) = derived.SourceImageSequence
        image = images[source.ReferencedSOPInstanceUID]
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, image.ImagePositionPatient, atol=1e-4)
        np.testing.assert_allclose(
            shared.ImageOrientationPatient, image.ImageOrientationPatient, atol=1e-4
        )
        np.testing.assert_array_equal(frame > 0, image.pixel_array - 1024 > 0)
        seen.add(image.SOPInstanceUID)
    bright = {uid for uid, image in images.items() if (image.pixel_array - 1024 > 0).any()}
    assert len(bright) == 4
    assert bright <= seen


def _class_id(name: str) -> int:
    return next(i for i, known in TOTALSEGMENTATOR_V2.items() if known == name)


def test_says_what_it_shows_and_where_from(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    series = write_series(tmp_path / "series")
    label = labels(tuple(read_series(series).shape[1:]))
    path = tmp_path / "ct_seg.dcm"
    colors = dict.fromkeys(range(256), (1.0, 0.5, 0.0))
    write_segmentation(label, series, path, TOTALSEGMENTATOR_V2, colors=colors)
    made = pydicom.dcmread(path)
    source = pydicom.dcmread(next(series.iterdir()))
    assert made.Modality == "SEG"
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    referenced = made.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    uids = {pydicom.dcmread(one).SOPInstanceUID for one in series.iterdir()}
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == uids
    # background is the first one of a label map
    segments = {s.SegmentLabel: s for s in made.SegmentSequence}
    left = segments["kidney_left"].SegmentedPropertyTypeCodeSequence[0]
    assert (left.CodeValue, left.CodingSchemeDesignator) == ("64033007", "SCT")
    assert left.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    cyst = segments["kidney_cyst_left"]
    assert cyst.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    (kidney,) = cyst.AnatomicRegionSequence
    assert kidney.CodeMeaning == "Kidney"
    assert kidney.AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
    kind = cyst.SegmentedPropertyTypeCodeSequence[0]
    assert "SegmentedPropertyTypeModifierCodeSequence" not in kind
    assert segments["liver"].SegmentAlgorithmType == "AUTOMATIC"
    assert len(segments["liver"].RecommendedDisplayCIELabValue) == 3


def test_every_class_has_a_code() -> None:
    for name in TOTALSEGMENTATOR_V2.values():
        codes = coded(name)
        assert codes.kind in CODES.values(), name
        sided = {"left", "right"} & set(name.split("_")) and name != "lung_middle_lobe_right"
        assert (codes.side is not None) == bool(sided), name
    assert len({(coded(n).kind, coded(n).side) for n in TOTALSEGMENTATOR_V2.values()}) == 117


def test_codes_are_those_of_pydicom() -> None:
    """Its dictionary of SNOMED CT, which knows three quarters of them, as FirstRib."""
    known = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    names: dict[str, set[str]] = {}
    for name, entry in known.items():
        words = re.findall(r"[A-Z][a-z]*|[A-Z]?\d+", name)
        for value in entry:
            names.setdefault(value, set()).update(word.lower() for word in words)
    common = [code for code in CODES.values() if code.value in names]
    assert len(common) > 60
    for code in common:
        assert {*code.meaning.lower().split()} & names[code.value], code
    for name in TOTALSEGMENTATOR_V2.values():  # Left with the code of a right one is neither
        codes = coded(name)
        if codes.side is not None:
            assert not {"left", "right"} & names.get(codes.kind.value, set()), name


def test_codes_are_numbers_of_concepts() -> None:
    """SNOMED CT's check digit finds any wrong digit and any two that changed places."""
    kinds = {code for name in TOTALSEGMENTATOR_V2.values() for code in _parts(name)}
    for code in {*CODES.values(), *kinds, *_parts("tumour"), *_parts("unknown")}:
        assert code.value[-3:-1] == "00", code  # a concept, not a description or relationship
        assert _verhoeff(code.value) == 0, code
    assert _verhoeff("206008") != 0


def _parts(name: str) -> list[Code]:
    codes = coded(name)
    return [c for c in (codes.category, codes.kind, codes.side, codes.region) if c is not None]


def _verhoeff(digits: str) -> int:
    """The check of Verhoeff (1969), in the dihedral group of ten elements; 0: sound."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        turned = check + value if check < 5 else check - value
        check = turned % 5 + 5 * ((check < 5) != (value < 5))
    return check


def test_missing_highdicom_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = write_series(tmp_path / "series")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=r"highdicom is needed .*\[dicom-seg\]") as caught:
        check_segmentation(series)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("cancer", "Neoplasm"),
        ("liver", "Liver"),
        ("Tumour", "Neoplasm"),
        ("x", "Anatomical structure"),
    ],
)
def test_names_of_other_tasks(name: str, meaning: str) -> None:
    assert coded(name).kind.meaning == meaning


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"ct\.nii\.gz: no DICOM series"):
        check_segmentation(tmp_path / "ct.nii.gz")
    tilted = write_series(tmp_path / "tilted", plane=(*AXIAL[:2], (0.0, 0.6, 2.0)))
    with pytest.raises(UserError, match="its gantry was tilted, so that labels lie between"):
        check_segmentation(tilted)
    uneven = write_series(tmp_path / "uneven", at=[0, 1, 2, 3, 4.3, 5, 6, 7, 8, 9])
    with pytest.raises(UserError, match="its slices lie at uneven distances"):
        check_segmentation(uneven)
    sound = write_series(tmp_path / "sound")
    check_segmentation(sound)
    with pytest.raises(UserError, match="dicom_seg is fractional: choose labelmap or binary"):
        check_segmentation(sound, "fractional")
    empty = np.zeros(tuple(read_series(sound).shape[1:]), np.uint8)
    with pytest.raises(UserError, match="DICOM knows no empty Segmentation"):
        write_segmentation(empty, sound, tmp_path / "s.dcm", {})
    assert not (tmp_path / "s.dcm").exists()
