"""DICOM series as what a store is built from: folders, rows of datalists, labels, changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ctfm.__main__ import main
from ctfm.loading.store.building import build_store
from ctfm.loading.store.index import Store
from dicom_support import edit, setting, write_ct
from store_support import SPACING, files
from support import make_ct, save

SIDE = 24


def again(source: Path, out: Path) -> list[str]:
    """Build, and name what is stored."""
    build_store(str(source), str(out), "whole_body", spacing=SPACING, workers=1)
    return [entry.name for entry in Store(out).entries]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two series, and a NIfTI file of the first one's CT."""
    for seed in range(2):
        write_ct(tmp_path / "scans" / f"s{seed}" / "1.2.84", seed, SIDE)
    save(make_ct(side=SIDE)[0], tmp_path / "scans" / "ct.nii.gz")
    return tmp_path / "scans"


def test_command_on_a_folder(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    command = f"ctfm store build {scans} --out {out} --task whole_body --spacing 3,3,3 --workers 1"
    monkeypatch.setattr(sys, "argv", command.split())
    main()
    file, first, second = Store(out).scans("training")
    names = [scan.entry.name for scan in (file, first, second)]
    assert names == ["ct", "s0/1.2.84", "s1/1.2.84"]
    assert len(first.entry.sources) == SIDE
    box = (0, 0, 0), file.entry.shape
    np.testing.assert_array_equal(first.image(*box), file.image(*box))
    assert not np.array_equal(second.image(*box), file.image(*box))


def test_the_folder_of_one_series(scans: Path, tmp_path: Path) -> None:
    assert again(scans / "s0" / "1.2.84", tmp_path / "out") == ["1.2.84"]


class TestDatalist:
    @pytest.fixture
    def datalist(self, scans: Path) -> Path:
        """A series with a label file, and one without."""
        save(make_ct(side=SIDE)[1], scans / "labels.nii.gz")
        rows = [{"image": "s0/1.2.84", "label": "labels.nii.gz"}]
        content = {"training": rows, "test": [{"image": "s1/1.2.84"}]}
        (scans / "list.json").write_text(json.dumps(content))
        return scans / "list.json"

    def test_rows_with_and_without_labels(self, datalist: Path, tmp_path: Path) -> None:
        assert again(datalist, tmp_path / "out") == ["s0/1.2.84", "s1/1.2.84"]
        (scan,) = Store(tmp_path / "out").scans("training")
        box = (0, 0, 0), scan.entry.shape
        hu, label = (np.transpose(a[::-1, ::-1], (2, 1, 0)) for a in make_ct(side=SIDE))
        np.testing.assert_array_equal(scan.image(*box), hu.clip(-1024, 2048))
        np.testing.assert_array_equal(scan.label(*box), label)

    def test_a_changed_slice_is_converted_again(self, datalist: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        again(datalist, out)
        before = files(out)
        again(datalist, out)
        assert files(out) == before
        edit(datalist.parent / "s1" / "1.2.84", setting(RescaleIntercept=-924), slice(5, 6))
        (old,) = Store(out).scans("test")
        again(datalist, out)
        (new,) = Store(out).scans("test")
        assert len(files(out).keys() - before.keys()) == 1
        box = (0, 0, 0), old.entry.shape
        changed = (old.image(*box) != new.image(*box)).any(axis=(1, 2))
        assert changed.sum() == 1  # axes SPL: one slice

    def test_a_label_on_another_grid(self, datalist: Path, tmp_path: Path) -> None:
        affine = np.diag([3.0, 3.0, 3.0, 1.0])
        affine[2, 3] = 3
        save(make_ct(side=SIDE)[1], datalist.parent / "labels.nii.gz", affine)
        assert again(datalist, tmp_path / "out") == ["s1/1.2.84"]
        reason = Store(tmp_path / "out").failures["s0/1.2.84"]
        assert "lie up to 3 mm from its image's" in reason

    def test_a_lost_slice_is_a_failure(self, datalist: Path, tmp_path: Path) -> None:
        lost = datalist.parent / "s1" / "1.2.84" / "image 011.dcm"
        lost.unlink()
        assert again(datalist, tmp_path / "out") == ["s0/1.2.84"]
        assert "slices are missing" in Store(tmp_path / "out").failures["s1/1.2.84"]
