"""What tests of the store share, apart from fixtures."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

#: The voxels of `make_ct` are 3 mm wide.
SPACING = (3.0, 3.0, 3.0)


def row(i: int, **extra: Any) -> dict[str, Any]:
    """Row of a datalist; the first two scans have labels."""
    label = {"label": f"s{i}/labels.nii.gz"} if i < 2 else {}
    return {"image": f"s{i}/ct.nii.gz", **label, **extra}


def files(folder: Path) -> dict[str, int]:
    """Every file of a store but its index, with the time of its last change."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a temporary file that has its name by now
            if path.is_file() and path.name != "store.json":
                found[str(path.relative_to(folder))] = path.stat().st_mtime_ns
    return found
