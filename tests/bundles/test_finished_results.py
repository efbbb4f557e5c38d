"""A second run into the folder of a first: finished scans, scans done again, refused ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctfm.base.errors import one_line
from support import EXTRACTOR, TRIAGE, TUMORS, WHOLE_BODY, make_ct, run_here, save

#: The file of a scan called "ct" that is written last.
RESULT = {
    WHOLE_BODY: "ct_seg.nii.gz",
    TUMORS: "ct_seg.nii.gz",
    TRIAGE: "ct_triage.json",
    EXTRACTOR: "embeddings.parquet/ct.parquet",
}


def infer(bundle: Path, source: Path, out: Path, **overrides: Any) -> None:
    """Run with random weights; the same seed gives the same ones."""
    options: dict[str, Any] = {"load_pretrain": False, "amp": False, "progress": False}
    options |= {"input_check": "off", "input": str(source), "output_dir": str(out)}
    if bundle in (WHOLE_BODY, TUMORS):
        options |= {"network_def__out_channels": 3, "preview": False, "overlap": 0.0}
    if bundle == WHOLE_BODY:
        options["class_ids"] = [1, 2]
    if bundle == TRIAGE:
        options["ckpt_dir"] = str(out.parent)
    run_here("inference", bundle=bundle, **{**options, **overrides})


@pytest.fixture
def patients(tmp_path: Path) -> list[Path]:
    """Two, whose scans have one name."""
    return [save(make_ct(i)[0], tmp_path / f"p{i}" / "ct.nii.gz") for i in (1, 2)]


@pytest.mark.parametrize("bundle", RESULT, ids=lambda bundle: bundle.name)
def test_another_patient_of_the_same_name_is_refused(
    bundle: Path, patients: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    infer(bundle, patients[0], out)
    result = out / RESULT[bundle]
    before, written = result.read_bytes(), result.stat().st_mtime_ns
    infer(bundle, patients[0], out)
    assert result.stat().st_mtime_ns == written, "it was finished"
    with pytest.raises(RuntimeError) as caught:
        infer(bundle, patients[1], out)
    assert str(one_line(caught.value)).startswith("1 of 1 scans failed")
    said = capsys.readouterr().out
    assert f"failed: {patients[1]}: {result} was made of another scan, {patients[0]}" in said
    assert result.read_bytes() == before
    infer(bundle, patients[1], out, overwrite="true")
    assert result.read_bytes() != before


@pytest.mark.parametrize("bundle", [WHOLE_BODY, TUMORS, TRIAGE], ids=lambda bundle: bundle.name)
def test_other_settings_make_it_again(bundle: Path, patients: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    infer(bundle, patients[0], out)
    result = out / RESULT[bundle]
    written = result.stat().st_mtime_ns
    infer(bundle, patients[0], out, spacing=[9.0, 9.0, 9.0])
    assert result.stat().st_mtime_ns > written


def test_a_table_does_not_mix_settings(patients: list[Path], tmp_path: Path) -> None:
    infer(EXTRACTOR, patients[0], tmp_path / "out")
    with pytest.raises(RuntimeError) as caught:
        infer(EXTRACTOR, patients[0], tmp_path / "out", spacing=[9.0, 9.0, 9.0])
    assert "was made with spacing" in str(one_line(caught.value))


def test_the_report_says_what_speaks_against_the_header(
    patients: list[Path], tmp_path: Path
) -> None:
    infer(WHOLE_BODY, patients[0], tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert isinstance(report["scans"]["ct"]["anatomy"], list)


@pytest.mark.parametrize("option", ["statistics", "preview"])
def test_what_is_asked_for_later_is_written(
    option: str, patients: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    file = {"statistics": "ct_statistics.csv", "preview": "ct_preview.png"}[option]
    infer(WHOLE_BODY, patients[0], out)
    assert not (out / file).exists()
    infer(WHOLE_BODY, patients[0], out, **{option: "true"})
    assert (out / file).exists()
    infer(WHOLE_BODY, patients[0], out, spacing=[9.0, 9.0, 9.0])
    assert not (out / file).exists(), "it is of a label map that is no more"
