"""CT series as folders of DICOM files: found, checked by their headers, read as one volume.

Here stands what needs headers alone; `reading` reads volumes, by torch and MONAI.
"""

__all__ = ()
