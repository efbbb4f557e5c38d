"""Scores as tables, and scans that fail alone."""

from __future__ import annotations

import csv
import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, MetaTensor
from monai.transforms import AsDiscreted, Compose, Invertd, Orientationd, Spacingd

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.evaluation.handlers import SegmentationReport
from ctfm.evaluation.metrics import segmentation_scores, summarise
from ctfm.imaging.listing import find_scans
from ctfm.imaging.scans import Failure, ScanDataset, collate_scans
from ctfm.imaging.transforms import LoadScand
from ctfm.inference.evaluators import ScanEvaluator
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


class Threshold(torch.nn.Module):
    """Two channels: bone where the intensity is above 250 HU."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(image, 250.0), image], dim=1)


def evaluator(
    folder: Path, out: Path, check: Callable[[dict[str, Any]], Any] = dict
) -> ScanEvaluator:
    """As in a bundle's inference.json; `check` sees each scan before its result is written."""
    preprocessing = Compose(
        [LoadScand("image"), Orientationd("image", "SPL", labels=None), Spacingd("image", (3,) * 3)]
    )
    postprocessing = [
        AsDiscreted("pred", argmax=True),
        Invertd("pred", preprocessing, "image", nearest_interp=True, to_tensor=True),
        check,
        SaveSegmentationd("pred", str(out), preview=False),
    ]
    dataset = ScanDataset(find_scans(str(folder)), preprocessing)
    return ScanEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=1, collate_fn=collate_scans),
        network=Threshold(),
        postprocessing=Compose(postprocessing),
    )


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name in "abc":
        save(make_ct(side=SIDE)[0], tmp_path / "in" / f"{name}.nii.gz")
    return tmp_path / "in"


class TestScanEvaluator:
    def failing(self, error: BaseException) -> Callable[[dict[str, Any]], Any]:
        def check(data: dict[str, Any]) -> dict[str, Any]:
            if "b.nii" in data["image"].meta["filename_or_obj"]:
                raise error
            return data

        return check

    def test_all_scans(self, three: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, logger="ctfm.inference.evaluators"):
            evaluator(three, tmp_path / "out").run()
        assert [n for n in names(tmp_path / "out") if n.endswith(".gz")] == [
            "a_seg.nii.gz",
            "b_seg.nii.gz",
            "c_seg.nii.gz",
        ]
        assert caplog.messages[-1] == "all 3 scans are done"
        found = np.asarray(nib.load(tmp_path / "out" / "a_seg.nii.gz").dataobj)
        np.testing.assert_array_equal(found, make_ct(side=SIDE)[0] > 250)

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ValueError("no bone\nin it"), "ValueError: no bone in it"),
            (UserError("choose another scan"), "choose another scan"),
            (MemoryError(), "out of memory: lower --sw_batch_size"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory: lower"),
            (KeyError(), "KeyError: no message"),
        ],
        ids=["defect", "user", "memory", "memory as torch says it", "silent"],
    )
    def test_one_scan_that_fails_does_not_stop_the_others(
        self,
        error: Exception,
        reason: str,
        three: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        run = evaluator(three, tmp_path / "out", self.failing(error))
        with pytest.raises(UserError, match=r"^1 of 3 scans failed, as listed above; 2 are done$"):
            run.run()
        assert [n for n in names(tmp_path / "out") if n.endswith(".gz")] == [
            "a_seg.nii.gz",
            "c_seg.nii.gz",
        ]
        assert [failure.path for failure in run.failures] == [str(three / "b.nii.gz")]
        assert run.failures[0].reason.startswith(reason)
        listed = capsys.readouterr().out.splitlines()
        assert f"failed: {three / 'b.nii.gz'}: {run.failures[0].reason}" in listed

    def test_scan_that_cannot_be_read(self, three: Path, tmp_path: Path) -> None:
        (three / "b.nii.gz").write_bytes(b"")
        run = evaluator(three, tmp_path / "out")
        with pytest.raises(UserError, match="1 of 3 scans failed"):
            run.run()
        reason = "the file is empty: export or download it again"
        assert run.failures == [Failure(str(three / "b.nii.gz"), reason)]

    def test_full_disk_fails_each_scan(
        self, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(nib.Nifti1Image, "to_stream", full)
        run = evaluator(three, tmp_path / "out")
        with pytest.raises(UserError, match="3 of 3 scans failed, as listed above; 0 are done"):
            run.run()
        assert all(
            "No space left on device; no partial file was left" in f.reason for f in run.failures
        )

    def test_failures_of_an_earlier_run_are_forgotten(self, three: Path, tmp_path: Path) -> None:
        (three / "b.nii.gz").write_bytes(b"")
        run = evaluator(three, tmp_path / "out")
        with pytest.raises(UserError, match="1 of 3"):
            run.run()
        save(make_ct(side=SIDE)[0], three / "b.nii.gz")
        run.run()
        assert run.failures == []

    def test_nothing_left_to_do(
        self, three: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = evaluator(three, tmp_path / "out")
        run.data_loader = DataLoader(ScanDataset([]), batch_size=1)
        run.state.epoch_length = 0
        with caplog.at_level(logging.INFO, logger="ctfm.inference.evaluators"):
            run.run()
        assert caplog.messages == ["nothing is left to do"]

    def test_interruption_ends_the_run(self, three: Path, tmp_path: Path) -> None:
        run = evaluator(three, tmp_path / "out", self.failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run.run()
        assert names(tmp_path / "out") == ["a_seg.json", "a_seg.nii.gz"]


class TestSegmentationReport:
    IDS = (1, 3, 5)

    def case(self, seed: int, name: str | None = None, file: str = "x/ct.nii.gz") -> dict[str, Any]:
        """A reference and a prediction that differ by a voxel's shift, on an oblique grid."""
        reference = make_ct(seed, SIDE)[1]
        prediction = np.roll(reference, 1, axis=seed % 3)
        if seed == 1:
            prediction[prediction == 3] = 0
        image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": file})
        return {
            "image": image,
            "reference": MetaTensor(torch.from_numpy(reference[None]), affine=OBLIQUE),
            "pred": torch.from_numpy(prediction[None]),
            **({"name": name} if name else {}),
        }

    def run(self, cases: list[dict[str, Any]], out: Path, **options: Any) -> SegmentationReport:
        engine = Engine(lambda _, batch: [{"pred": case["pred"]} for case in batch])
        report = SegmentationReport(str(out), self.IDS, **options)
        report.attach(engine)
        engine.run([[case] for case in cases])
        return report

    @pytest.mark.parametrize("tolerance", [3.0, 1.0])
    def test_agrees_with_the_metrics(
        self, tolerance: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run([self.case(i, f"s{i}") for i in range(3)], tmp_path, nsd_tolerance_mm=tolerance)
        names = {i: TOTALSEGMENTATOR_V2[i] for i in self.IDS}
        spacing = np.sqrt((OBLIQUE[:3, :3] ** 2).sum(axis=0))
        expected = {
            f"s{i}": segmentation_scores(
                self.case(i)["pred"][0], self.case(i)["reference"][0], spacing, names, tolerance
            )
            for i in range(3)
        }
        summary = summarise(expected, nsd_tolerance_mm=tolerance)
        with (tmp_path / "metrics_cases.csv").open() as file:
            table = [(r["case"], r["class"], r["dice"], r["nsd"]) for r in csv.DictReader(file)]

        def cell(value: float) -> str:
            return "" if np.isnan(value) else f"{value:.6g}"

        assert table == [
            (case, score.name, cell(score.dice), cell(score.nsd))
            for case, scores in expected.items()
            for score in scores
        ]
        document = json.loads((tmp_path / "metrics.json").read_text())
        assert document["cases"] == 3
        assert document["nsd_tolerance_mm"] == tolerance
        assert document["overall"]["missed"] == summary.overall.missed == 1
        found = {m: e["mean"] for m, e in document["overall"]["estimates"].items()}
        assert found == pytest.approx({m: e.mean for m, e in summary.overall.estimates.items()})
        shown = capsys.readouterr().out
        assert f"NSD {tolerance:g} mm" in shown
        assert "kidney_left" in shown

    def test_batches_may_hold_several_cases(self, tmp_path: Path) -> None:
        engine = Engine(lambda _, batch: [{"pred": case["pred"]} for case in batch])
        report = SegmentationReport(str(tmp_path), self.IDS)
        report.attach(engine)
        engine.run([[self.case(0, "a"), self.case(1, "b")]])
        assert list(report.cases) == ["a", "b"]

    def test_cases_of_the_same_name_are_all_kept(self, tmp_path: Path) -> None:
        report = self.run([self.case(i, file=f"s{i}/ct.nii.gz") for i in range(3)], tmp_path)
        assert list(report.cases) == ["ct", "ct (1)", "ct (2)"]
        assert json.loads((tmp_path / "metrics.json").read_text())["cases"] == 3

    def test_reference_under_another_key_and_class_without_a_name(self, tmp_path: Path) -> None:
        case = self.case(0)
        case["truth"] = case.pop("reference")
        engine = Engine(lambda _, batch: [{"pred": row["pred"]} for row in batch])
        report = SegmentationReport(str(tmp_path), [5, 200], label_key="truth")
        report.attach(engine)
        engine.run([[case]])
        assert [score.name for score in report.cases["ct"]] == ["liver", "class 200"]

    def test_no_case_is_an_error(self, tmp_path: Path) -> None:
        report = SegmentationReport(str(tmp_path), self.IDS)
        engine = Engine(lambda *_: [])
        report.attach(engine)
        with pytest.raises(UserError, match="no case could be evaluated"):
            engine.run([[]])
        assert names(tmp_path) == []
