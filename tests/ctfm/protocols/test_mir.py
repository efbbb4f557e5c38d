"""3D-MIR on a miniature of its tables and of the decathlon's folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.networks.encoders import PooledEncoder
from ctfm.protocols import run_mir
from ctfm.protocols.mir_cohorts import find_files, read_cohorts
from support import save

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = {
    "liver": "Task03_Liver",
    "lung": "Task06_Lung",
    "pancreas": "Task07_Pancreas",
    "colon": "Task10_Colon",
}
QUICK: dict[str, Any] = {"device": "cpu", "amp": False, "input_check": "off", "resamples": 50}


def write_csv(path: Path, rows: list[dict[str, Any]], mark: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def body(kind: int, number: int) -> np.ndarray:
    """A block of soft tissue; with a lesion (kind 1) it is full of bright stripes."""
    hu = np.full((40, 40, 12), -1000, np.int16)
    hu[4:36, 4:36, 1:11] = 40 + number
    if kind:
        hu[4:36:2, 4:36, 1:11] = 900
    return hu


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each cohort has its own organ's scans, and normals that are scans of the next organ."""
    root = tmp_path_factory.mktemp("mir")
    organs = list(TASKS)
    for organ, task in TASKS.items():
        for number in range(4):
            name = f"{organ}_{number:03d}.nii.gz"
            kind = number % 2
            save(body(kind, number), root / "msd" / task / "imagesTr" / name)
            save(np.zeros((40, 40, 12), np.uint8), root / "msd" / task / "labelsTr" / name)
        other = organs[(organs.index(organ) + 1) % len(organs)]
        mine = [f"{organ}_{i:03d}.nii.gz" for i in (1, 3)]
        normal = [f"{other}_{i:03d}.nii.gz" for i in (0, 2)]
        labels = [
            {
                "name": name,
                "organ": organ,
                "lesion_group": 2 if name in mine else -1,
                "cancer_flag": int(name in mine),
                "CaptionV1": "a caption, quoted",
            }
            for name in (*mine, *normal)
        ]
        data = root / "3D-MIR" / "Data"
        mark = "\ufeff" if organ in ("lung", "pancreas") else ""
        write_csv(data / "3DMIR_labels" / f"{organ}_labels_and_captions.csv", labels, mark)
        for split, column, i in (("test", "testing", 0), ("train", "training", 1)):
            rows = [{"": n, column: names[i]} for n, names in enumerate((mine, normal))]
            write_csv(data / "Data_Splits" / f"{organ}_full_{split}_split.csv", rows)
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "encoder.pt"
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), path)
    return str(path)


def test_tables_are_read_as_published(tables: Path) -> None:
    cohorts = read_cohorts(tables / "3D-MIR")
    assert [one.name for one in cohorts] == ["liver", "colon", "pancreas", "lung"]
    lung = cohorts[3]
    assert lung.queries == ["lung_001.nii.gz", "pancreas_000.nii.gz"]
    assert lung.references == ["lung_003.nii.gz", "pancreas_002.nii.gz"]
    assert lung.flags["lesion flag"]["lung_001.nii.gz"] == "1"
    assert lung.flags["lesion group"]["pancreas_000.nii.gz"] == "-1"
    files = find_files(tables / "msd", {"liver_001.nii.gz"})
    assert Path(files["liver_001.nii.gz"]).parent.name == "imagesTr"


def test_scans_of_the_same_kind_are_found(
    tables: Path, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments: Any = ([encoder], str(tables / "3D-MIR"), str(tables / "msd"), str(out))
    told = call(run_mir, *arguments, **QUICK)
    assert "published for CT-FM" in told
    assert "lesion group" in told
    with (out / "queries.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["encoder"] == "encoder.pt"]
    assert len(rows) == 4 * 2 * 2, "cohorts, flags, queries"
    kinds = {row["scan"]: row["first"] for row in rows}
    assert all(int(a[-8]) % 2 == int(b[-8]) % 2 for a, b in kinds.items())
    document = json.loads((out / "metrics.json").read_text())
    found = {
        (row["encoder"], row["flag"], row["cohort"], row["metric"]): row
        for row in document["metrics"]
    }
    best = found["encoder.pt", "lesion flag", "all cohorts", "AP"]
    assert (best["mean"], best["count"]) == (1, 8)
    assert found["encoder.pt", "lesion flag", "liver", "P@3"]["mean"] == 0.5, "one of two is right"
    assert ("random, seed 0", "lesion group", "lung", "P@10") in found
    assert document["encoders"]["encoder.pt"]["sha256"]
    assert (out / "precision.png").stat().st_size > 10_000

    first = (out / "metrics.csv").read_bytes()
    monkeypatch.setattr(PooledEncoder, "forward", None)  # nothing is computed again
    assert call(run_mir, *arguments, **QUICK) == told
    assert (out / "metrics.csv").read_bytes() == first


def test_a_scan_is_the_minimum_over_its_patches(tables: Path, encoder: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra embeddings")
    out = tmp_path / "out"
    call(run_mir, [encoder], str(tables / "3D-MIR"), str(tables / "msd"), str(out), **QUICK)
    (path,) = (out / "embeddings" / "encoder.pt").rglob("liver_001*.parquet")
    rows = parquet.ParquetFile(path).read().to_pylist()
    whole = next(row["embedding"] for row in rows if row["kind"] == "scan")
    patches = np.array([row["embedding"] for row in rows if row["kind"] == "patch"])
    np.testing.assert_allclose(whole, patches.min(axis=0), rtol=1e-6)
    assert rows[0]["patch"] == [24, 128, 128]


def test_what_is_missing_is_one_line(tables: Path, encoder: str, tmp_path: Path) -> None:
    data, msd = str(tables / "3D-MIR"), str(tables / "msd")
    with pytest.raises(UserError, match=r"0 files liver_full_test_split\.csv below it"):
        call(run_mir, [encoder], msd, msd, str(tmp_path))
    with pytest.raises(UserError, match=r"16 of 16 scans are not below it \(first: colon_000"):
        call(run_mir, [encoder], data, str(tmp_path), str(tmp_path))
    copy = tmp_path / "twice" / "imagesTr"
    copy.mkdir(parents=True)
    for folder in ("a", "b"):
        save(body(0, 0), copy / folder / "liver_000.nii.gz")
    with pytest.raises(UserError, match=r"liver_000\.nii\.gz is there 2 times"):
        find_files(tmp_path / "twice", {"liver_000.nii.gz"})


def test_a_bad_scan_is_told_when_the_others_are_done(
    tables: Path, encoder: str, tmp_path: Path
) -> None:
    msd = tmp_path / "msd"
    for path in (tables / "msd").rglob("imagesTr/*.nii.gz"):
        target = msd / path.relative_to(tables / "msd")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    broken = msd / "Task03_Liver" / "imagesTr" / "liver_003.nii.gz"
    broken.unlink()
    broken.write_bytes(b"no scan")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"1 of 16 scans failed .first: .*liver_003.*kept") as told:
        call(run_mir, [encoder], str(tables / "3D-MIR"), str(msd), str(out), **QUICK)
    assert "\n" not in str(told.value)
    assert len([*out.rglob("*.parquet")]) == 2 + 2 * 15, "two tables, two encoders"
