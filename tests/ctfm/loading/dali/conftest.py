"""A store that the tests of loading read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctfm.loading.store.building import build_store
from support import make_ct, save


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five scans of five sizes, the last two of which validate too."""
    root = tmp_path_factory.mktemp("loading")
    rows = []
    for i in range(5):
        hu, label = make_ct(seed=i, side=24 + 2 * i)
        save(hu, root / f"s{i}" / "ct.nii.gz")
        save(label, root / f"s{i}" / "labels.nii.gz")
        rows.append({"image": f"s{i}/ct.nii.gz", "label": f"s{i}/labels.nii.gz"})
    listed: Path = root / "list.json"
    listed.write_text(json.dumps({"training": rows, "validation": rows[3:]}))
    build_store(str(listed), str(root / "store"), "whole_body", spacing=(3.0, 3.0, 3.0), workers=1)
    return str(root / "store")
