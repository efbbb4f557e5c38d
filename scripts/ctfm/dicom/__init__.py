"""CT series as folders of DICOM files: found, checked by their headers, read as one volume."""

from __future__ import annotations

from ctfm.dicom.headers import find_series, is_series, series_files
from ctfm.dicom.reading import read_series

__all__ = ["find_series", "is_series", "read_series", "series_files"]
