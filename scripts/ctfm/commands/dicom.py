"""Commands on DICOM; commands that read scans take series folders as they are."""

from __future__ import annotations

from ctfm.commands.calling import report

__all__ = ["convert"]


def convert(root: str, out: str, *, workers: int | None = None, overwrite: bool = False) -> None:
    """Convert every CT series below a folder to NIfTI; a stopped run continues.

    Args:
        root: folder with DICOM files
        out: folder to write; what was not converted is listed there
        overwrite: convert what was converted before, too
    """
    report("ctfm.imaging.dicom.converting:convert", **locals())
