"""DICOM series for tests: small, of any geometry, with names that do not tell the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import make_ct

REASON = "needs the extra dicom: pip install 'ct-fm-bundles[dicom]'"

Change = Callable[[Any, int], None]

COLUMNS, ROWS, SLICES = 20, 16, 10
SPACING = (0.8, 0.7)  # mm between rows, between columns
ORIGIN = (-10.0, -20.0, 30.0)
#: Directions of a row and of a column, and the step in mm from slice to slice; LPS.
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 2.0))


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, (SLICES, ROWS, COLUMNS))


def no_change(data: Any, number: int) -> None:
    pass


def write_series(
    folder: Path,
    hu: np.ndarray | None = None,
    *,
    plane: Any = AXIAL,
    at: Any = range(SLICES),
    spacing: tuple[float, float] = SPACING,
    origin: tuple[float, float, float] = ORIGIN,
    signed: bool = True,
    change: Change = no_change,
    name: str = "image {:03d}.dcm",
) -> Path:
    """Write HU (slices, rows, columns); names and instance numbers are in another order.

    Skips the test where the packages are missing that it takes to write and to read DICOM.
    """
    pydicom = pytest.importorskip("pydicom", reason=REASON)
    pytest.importorskip("dcm2niix", reason=REASON)
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    hu = noise() if hu is None else hu
    row, column, step = np.asarray(plane)
    series = generate_uid()
    shuffled = np.random.default_rng(1).permutation(len(hu))
    for number, (pixels, position) in enumerate(zip(hu, at, strict=True)):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.StudyInstanceUID = data.SeriesInstanceUID = series
        data.SeriesNumber, data.InstanceNumber = 4, int(shuffled[number]) + 1
        data.ImagePositionPatient = [round(v, 6) for v in np.array(origin) + position * step]
        data.ImageOrientationPatient = [round(v, 8) for v in (*row, *column)]
        data.PixelSpacing, data.SliceThickness = list(spacing), 2
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.PixelRepresentation = 16, int(signed)
        data.BitsStored, data.HighBit = (16, 15) if signed else (12, 11)
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = (pixels + 1024).astype(np.int16 if signed else np.uint16).tobytes()
        change(data, number)
        path = folder / name.format(shuffled[number])
        data.save_as(path, enforce_file_format=True)
    return folder


def write_ct(folder: Path, seed: int = 0, side: int = 40) -> Path:
    """Write the CT of `make_ct` on the grid that `save` gives it: axes RAS, voxels of 3 mm."""
    hu = make_ct(seed, side)[0]
    plane = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 3.0))
    return write_series(
        folder, hu.T, plane=plane, at=range(side), spacing=(3.0, 3.0), origin=(0.0, 0.0, 0.0)
    )


def edit(folder: Path, change: Change, which: slice = slice(None)) -> None:
    pydicom = pytest.importorskip("pydicom", reason=REASON)
    for number, path in list(enumerate(sorted(folder.iterdir())))[which]:
        data = pydicom.dcmread(path)
        change(data, number)
        data.save_as(path)


def setting(**values: Any) -> Change:
    def change(data: Any, number: int) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return change


def fake_series(folder: Path) -> Path:
    """What is taken for a series until its headers are read."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (folder / f"image{number}").write_bytes(b"\0" * 128 + b"DICM")
    return folder
