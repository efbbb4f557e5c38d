"""Label maps as files: grid, names, tables, pictures, and nothing half-written."""

from __future__ import annotations

import csv
import errno
import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.imaging.listing import find_scans
from ctfm.imaging.provenance import Provenance, unfinished
from ctfm.imaging.transforms import LoadScand
from ctfm.inference import saving
from ctfm.inference.saving import SaveSegmentationd
from support import make_ct, save

SIDE = 20
OBLIQUE = np.array([[1.6, 0.3, 0, -4], [-0.25, 1.9, 0, 7], [0, 0, 2.5, 11], [0, 0, 0, 1.0]])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save(make_ct(side=SIDE)[0], tmp_path / "in" / "ct.nii.gz", OBLIQUE)


def row(scan: Path, label: np.ndarray | None = None, **others: Any) -> dict[str, Any]:
    """What postprocessing hands over: the scan as it was read, the inverted label map."""
    image = LoadScand("image")({"image": str(scan)})["image"]
    values = make_ct(side=SIDE)[1] if label is None else label
    pred = MetaTensor(torch.from_numpy(values[None].astype(np.float32)), affine=image.affine)
    return {"image": image, "pred": pred, **others}


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class TestSaveSegmentationd:
    def test_label_map_lies_on_the_grid_of_the_scan(self, scan: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        data = row(scan)
        passed = SaveSegmentationd("pred", str(out), preview=False)(data)
        assert passed.keys() == {*data.keys(), "found", "anatomy"}
        assert passed["pred"] is data["pred"]
        written, source = nib.load(out / "ct_seg.nii.gz"), nib.load(scan)
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(written.dataobj), make_ct(side=SIDE)[1])
        np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
        assert (written.header["sform_code"], written.header["qform_code"]) == (1, 1)
        assert written.header.get_xyzt_units()[0] == "mm"

    def test_names_say_what_was_found_and_how_much(self, scan: Path, tmp_path: Path) -> None:
        label = np.zeros((SIDE,) * 3, np.uint8)
        label[:2, :3, :5], label[10, 10, 10] = 5, 200
        SaveSegmentationd("pred", str(tmp_path), preview=False)(row(scan, label))
        document = json.loads((tmp_path / "ct_seg.json").read_text())
        voxel_ml = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
        liver = {"name": "liver", "voxels": 30, "volume_ml": round(30 * voxel_ml, 3)}
        other = {"name": "class 200", "voxels": 1, "volume_ml": round(voxel_ml, 3)}
        assert document["source"] == "ct.nii.gz"
        assert document["found"] == {"5": liver, "200": other}
        assert document["labels"] == {str(i): name for i, name in TOTALSEGMENTATOR_V2.items()}

    def test_names_can_be_others(self, scan: Path, tmp_path: Path) -> None:
        SaveSegmentationd("pred", str(tmp_path), {5: "tumour"}, preview=False)(row(scan))
        document = json.loads((tmp_path / "ct_seg.json").read_text())
        assert document["labels"] == {"5": "tumour"}
        assert [c["name"] for c in document["found"].values()] == ["class 1", "class 3", "tumour"]

    def test_results_keep_the_name_that_the_row_has(self, scan: Path, tmp_path: Path) -> None:
        SaveSegmentationd("pred", str(tmp_path / "out"))(row(scan, name="s1/ct"))
        expected = ["s1/ct_preview.png", "s1/ct_seg.json", "s1/ct_seg.nii.gz"]
        assert names(tmp_path / "out") == expected

    @pytest.mark.parametrize("change", ["shape", "affine"])
    def test_another_grid_is_a_defect_and_nothing_is_written(
        self, change: str, scan: Path, tmp_path: Path
    ) -> None:
        data = row(scan)
        if change == "shape":
            data["pred"] = data["pred"][:, 1:]
        else:
            data["pred"].affine = data["pred"].affine + torch.eye(4) * 0.01
        with pytest.raises(RuntimeError, match=r"ct\.nii\.gz: the label map came back as .*\(20, "):
            SaveSegmentationd("pred", str(tmp_path / "out"))(data)
        assert not (tmp_path / "out").exists()

    def test_full_disk_leaves_nothing_half_written(
        self, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_image: Any, stream: Any) -> None:
            stream.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

        out = tmp_path / "out"
        SaveSegmentationd("pred", str(out), preview=False)(row(scan))
        before = (out / "ct_seg.nii.gz").read_bytes()
        monkeypatch.setattr(nib.Nifti1Image, "to_stream", full)
        with pytest.raises(UserError, match=r"cannot write .*ct_seg\.nii\.gz: No space left"):
            SaveSegmentationd("pred", str(out), preview=False)(row(scan))
        assert names(out) == ["ct_seg.json", "ct_seg.nii.gz"]
        assert (out / "ct_seg.nii.gz").read_bytes() == before

    @pytest.mark.parametrize("last", ["preview", "write_text"])
    def test_scan_is_done_only_when_all_its_files_are_there(
        self, last: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`unfinished` leaves out scans that have a label map when a stopped run goes on."""

        def stop(*_args: Any, **_kwargs: Any) -> None:
            raise KeyboardInterrupt

        out = str(tmp_path / "out")
        where: Any = saving if last == "preview" else Path
        with monkeypatch.context() as patch:
            patch.setattr(where, last, stop)
            with pytest.raises(KeyboardInterrupt):
                SaveSegmentationd("pred", out)(row(scan))
        rows = find_scans(str(scan.parent))
        assert unfinished(rows, Provenance(), out) == rows
        SaveSegmentationd("pred", out)(row(scan))
        assert unfinished(rows, Provenance(), out) == []

    def test_confidence_stands_beside_the_names(self, scan: Path, tmp_path: Path) -> None:
        data = row(scan, confidence={5: 0.98765})
        SaveSegmentationd("pred", str(tmp_path), preview=False)(data)
        found = json.loads((tmp_path / "ct_seg.json").read_text())["found"]
        assert found["5"]["confidence"] == 0.9877
        assert "confidence" not in found["1"]

    def test_statistics_are_those_of_the_ct(self, scan: Path, tmp_path: Path) -> None:
        data = row(scan, confidence={5: 0.5})
        SaveSegmentationd("pred", str(tmp_path), preview=False, statistics=True)(data)
        with (tmp_path / "ct_statistics.csv").open() as file:
            table = {int(line["class_id"]): line for line in csv.DictReader(file)}
        image, label = make_ct(side=SIDE)
        assert [*table] == [i for i in np.unique(label) if i]
        liver = table[5]
        assert liver["name"] == "liver"
        assert float(liver["mean_hu"]) == pytest.approx(image[label == 5].mean(), rel=1e-5)
        assert float(liver["confidence"]) == 0.5
        assert table[1]["confidence"] == ""
        document = json.loads((tmp_path / "ct_statistics.json").read_text())
        assert document["coordinates"] == "mm, RAS+"
        assert [line["class_id"] for line in document["classes"]] == [*table]

    def test_same_labels_are_the_same_bytes(self, scan: Path, tmp_path: Path) -> None:
        for out in ("a", "b"):
            SaveSegmentationd("pred", str(tmp_path / out), preview=False)(row(scan))
        first, second = ((tmp_path / out / "ct_seg.nii.gz").read_bytes() for out in ("a", "b"))
        assert first == second
        plain = nib.load(tmp_path / "a" / "ct_seg.nii.gz")
        assert gzip.decompress(first) == plain.to_bytes()
