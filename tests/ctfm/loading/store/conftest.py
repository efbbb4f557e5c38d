"""What tests of the store share: a folder of tiny CTs with labels, and its datalist."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ctfm.loading.store.building import build_store
from store_support import SPACING, row
from support import make_ct, save


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Four CTs of 24 voxels a side, the first two with labels."""
    root = tmp_path / "scans"
    for i in range(4):
        hu, label = make_ct(seed=i, side=24)
        save(hu, root / f"s{i}" / "ct.nii.gz")
        if i < 2:
            save(label, root / f"s{i}" / "labels.nii.gz")
    return root


@pytest.fixture
def datalist(scans: Path) -> Callable[..., str]:
    """Write a datalist beside the scans."""

    def write(content: Mapping[str, Sequence[Any]] | None = None, name: str = "list.json") -> str:
        rows = {"training": [row(0), row(1)], "validation": [row(2), row(3)]}
        (scans / name).write_text(json.dumps(content if content is not None else rows))
        return str(scans / name)

    return write


@pytest.fixture
def store(datalist: Callable[..., str], tmp_path: Path) -> Path:
    """A store of all four."""
    build_store(datalist(), str(tmp_path / "store"), "whole_body", spacing=SPACING, workers=1)
    return tmp_path / "store"
