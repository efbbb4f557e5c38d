"""CT series as folders of DICOM files: found, checked by their headers, read as one volume.

Here stands what needs headers alone; `ctfm.dicom.reading` reads volumes, by torch and MONAI.
"""

from __future__ import annotations

from ctfm.dicom.headers import find_series, is_series, series_files

__all__ = ["find_series", "is_series", "series_files"]
