"""Fixtures that tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import ROOT, make_ct, save


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """One tiny CT."""
    return save(make_ct()[0], tmp_path / "scan" / "ct.nii.gz")


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tiny cases and their datalist: three to train on, two to validate and to test on."""
    root = tmp_path_factory.mktemp("data_set")
    rows = []
    for i in range(5):
        hu, label = make_ct(seed=i)
        save(hu, root / f"s{i:04d}" / "ct.nii.gz")
        save(label, root / f"s{i:04d}" / "labels.nii.gz")
        rows.append({"image": f"s{i:04d}/ct.nii.gz", "label": f"s{i:04d}/labels.nii.gz"})
    content = {"training": rows[:3], "validation": rows[3:], "test": rows[3:]}
    (root / "datalist.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks take several times as long on two threads where other work wants the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def real_data() -> Path:
    """Folder with real CT, kept beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real CT kept beside the checkout (../shared/data)")
    return folder


@pytest.fixture
def training(data_set: Path, tmp_path: Path) -> dict[str, Any]:
    """Overrides with which a tiny training runs."""
    return {
        "dataset_dir": str(data_set),
        "class_ids": [1, 3, 5],
        "network_def__out_channels": 4,
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(tmp_path / "models"),
        "epochs": 2,
        "val_interval": 1,
        "batch_size": 1,
        "learning_rate": 0.005,
    }
