"""Whether NRRD, MHA and MHD files say how the patient lies; ITK takes LPS where they do not."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_oriented"]

#: Bytes in which a header ends.
LONGEST_HEADER = 1 << 16


def is_oriented(path: str | Path) -> bool:
    """Whether the header states the directions of the axes, and in which space.

    Args:
        path: .nrrd, .nhdr, .mha or .mhd.
    """
    with open(path, "rb") as file:
        start = file.read(LONGEST_HEADER)
    if Path(path).suffix.lower() in (".nrrd", ".nhdr"):
        header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
        space = re.search(rb"^space:", header, re.MULTILINE)
        return bool(space and re.search(rb"^space directions:", header, re.MULTILINE))
    header = start.split(b"ElementDataFile", 1)[0]
    stated = rb"^\s*(TransformMatrix|Orientation|Rotation)\s*="
    return re.search(stated, header, re.MULTILINE) is not None
