"""What tests of the store share, apart from fixtures."""

from __future__ import annotations

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
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != "store.json"]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}
