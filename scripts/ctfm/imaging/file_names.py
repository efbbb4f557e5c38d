"""How files of scans and of results end, for what reads them and what only lists them."""

from __future__ import annotations

from os import PathLike, fspath

__all__ = ["FORMATS", "NIFTI", "RESULT_SUFFIX", "SUFFIXES", "is_nifti"]

NIFTI = (".nii", ".nii.gz")
#: What `ctfm.imaging.scans.read_scan` reads, besides folders with a DICOM series.
SUFFIXES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
#: The same, in words.
FORMATS = f"{', '.join(SUFFIXES)}, and folders with a DICOM series"
#: What a segmentation is called, after the name of its scan.
RESULT_SUFFIX = "_seg.nii.gz"


def is_nifti(path: str | PathLike[str]) -> bool:
    """Does the file's name, in capitals or not, end as that of a NIfTI file?"""
    return fspath(path).lower().endswith(NIFTI)
