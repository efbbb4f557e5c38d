"""Stability: ICC against an analysis of variance by loops, changes of scans, a miniature study."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.networks.encoders import PooledEncoder
from ctfm.protocols import run_stability
from ctfm.protocols.changes import CHANGES
from ctfm.protocols.reliability import intraclass_correlation
from support import make_ct, save

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: dict[str, Any] = {
    "spacing": (6, 4, 4),
    "patch": (16, 16, 16),
    "overlap": 0.25,
    "amp": False,
    "device": "cpu",
    "input_check": "off",
    "progress": False,
    "resamples": 60,
}


def by_loops(table: np.ndarray) -> float:
    """Two-way analysis of variance of subjects (rows) and scans (columns), as in the article."""
    n, k = table.shape
    grand = table.mean()
    rows = sum(k * (row.mean() - grand) ** 2 for row in table) / (n - 1)
    columns = sum(n * (column.mean() - grand) ** 2 for column in table.T) / (k - 1)
    error = sum(
        (table[i, j] - table[i].mean() - table[:, j].mean() + grand) ** 2
        for i in range(n)
        for j in range(k)
    ) / ((n - 1) * (k - 1))
    return float((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n))


class TestIntraclassCorrelation:
    def test_is_the_analysis_of_variance(self) -> None:
        generator = np.random.default_rng(0)
        subjects = generator.normal(size=(9, 5))
        first = subjects + generator.normal(0, 0.4, subjects.shape)
        second = subjects + generator.normal(0, 0.4, subjects.shape) + 0.3
        expected = [by_loops(np.stack([first[:, f], second[:, f]], axis=1)) for f in range(5)]
        np.testing.assert_allclose(intraclass_correlation(first, second), expected)

    def test_two_raters_of_shrout_and_fleiss(self) -> None:
        """Judges 1 and 4 of the article's table 2."""
        first, second = np.array([[9.0], [6], [8], [7], [10], [6]]), np.array(
            [[8.0], [2], [8], [6], [9], [7]]
        )  # fmt: skip
        expected = by_loops(np.hstack([first, second]))
        assert intraclass_correlation(first, second)[0] == pytest.approx(expected)

    def test_a_subject_that_counts_twice_is_there_twice(self) -> None:
        generator = np.random.default_rng(1)
        first, second = generator.normal(size=(2, 6, 3))
        weights = np.array([[1.0, 2, 0, 1, 1, 1]])
        drawn = [0, 1, 1, 3, 4, 5]
        np.testing.assert_allclose(
            intraclass_correlation(first, second, weights)[0],
            intraclass_correlation(first[drawn], second[drawn]),
        )

    def test_ends(self) -> None:
        values = np.random.default_rng(2).normal(size=(8, 1))
        assert intraclass_correlation(values, values)[0] == pytest.approx(1)
        assert np.isnan(intraclass_correlation(np.ones((4, 1)), np.ones((4, 1)))[0])


class TestChanges:
    @pytest.fixture
    def scan(self) -> MetaTensor:
        values = torch.from_numpy(np.random.default_rng(0).normal(0, 100, (1, 9, 8, 7)))
        affine = np.array([[0, 0, 2.0, 5], [1.0, 0, 0, 6], [0, -3.0, 0, 7], [0, 0, 0, 1]])
        return MetaTensor(values.float(), affine=affine, meta={"filename_or_obj": "a.nii"})

    def test_noise_has_its_size_and_repeats(self, scan: MetaTensor) -> None:
        noisy = CHANGES["noise of 20 HU"](scan, 0)
        assert float((noisy - scan).std()) == pytest.approx(20, rel=0.1)
        assert torch.equal(noisy, CHANGES["noise of 20 HU"](scan, 0))
        assert not torch.equal(noisy, CHANGES["noise of 20 HU"](scan, 1))

    def test_noise_is_that_of_the_scan_wherever_its_file_lies(self, scan: MetaTensor) -> None:
        moved, other = scan.clone(), scan + 1
        moved.meta["filename_or_obj"] = "elsewhere/b.nii"
        change = CHANGES["noise of 20 HU"]
        assert torch.equal(change(scan, 0), change(moved, 0))
        assert not torch.allclose(change(scan, 0) - scan, change(other, 0) - other, atol=1)

    def test_slices_are_averaged_in_pairs_where_they_lie(self, scan: MetaTensor) -> None:
        thick = CHANGES["slices twice as thick"](scan, 0)
        assert tuple(thick.shape) == (1, 9, 4, 7), "the second axis is the patient's"
        expected = (scan[:, :, 2] + scan[:, :, 3]) / 2
        np.testing.assert_allclose(thick[:, :, 1].numpy(), expected.numpy(), rtol=1e-5)
        middle = scan.affine.numpy() @ [4, 2.5, 3, 1]
        np.testing.assert_allclose(thick.affine.numpy() @ [4, 1, 3, 1], middle)

    def test_kernels_work_in_the_plane_of_slices(self, scan: MetaTensor) -> None:
        flat = scan.clone()
        flat[:] = flat[:, :1, :, :1]  # varies along the patient alone
        for name in ("softer kernel", "sharper kernel"):
            np.testing.assert_allclose(CHANGES[name](flat, 0).numpy(), flat.numpy(), atol=1e-3)
        assert CHANGES["softer kernel"](scan, 0).std() < scan.std()
        assert CHANGES["sharper kernel"](scan, 0).std() > scan.std()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects of different fatness; the second scan of each has some noise."""
    folder = tmp_path_factory.mktemp("study")
    lines = ["first,second,subject"]
    for number in range(4):
        hu, _ = make_ct(number)
        hu = np.where(hu > -500, hu + 60 * number, hu)
        again = hu + np.random.default_rng(number).normal(0, 5, hu.shape)
        save(hu.astype(np.int16), folder / f"{number}.nii.gz")
        save(again.astype(np.int16), folder / f"{number}_again.nii.gz")
        lines.append(f"{number}.nii.gz,{number}_again.nii.gz,s{number}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), folder / "encoder.pt")
    return folder


def test_pairs_lie_closer_than_subjects(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments: Any = ([str(study / "encoder.pt")], str(study / "pairs.csv"))
    told = call(run_stability, *arguments, out=str(out), **QUICK)
    assert "within pairs / between subjects" in told
    with (out / "metrics.csv").open() as file:
        found = {(row["encoder"], row["metric"]): row for row in csv.DictReader(file)}
    mine = {
        metric: float(row["mean"]) for (name, metric), row in found.items() if name == "encoder.pt"
    }
    assert mine["within pairs"] < mine["between subjects"]
    assert mine["within pairs / between subjects"] < 1
    assert 0 <= mine["partner is nearest"] <= 1
    assert mine["noise of 10 HU"] < mine["noise of 40 HU"]
    assert ("random, seed 0", "ICC, median") in found
    with (out / "distances.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["encoder"] == "encoder.pt"]
    kinds = [row["kind"] for row in rows]
    assert kinds.count("within pairs") == 4
    assert kinds.count("between subjects") == 12
    assert kinds.count("softer kernel") == 4
    within = [float(row["distance"]) for row in rows if row["kind"] == "within pairs"]
    assert np.mean(within) == pytest.approx(mine["within pairs"], rel=1e-4)
    assert (out / "distances.png").stat().st_size > 10_000
    document = json.loads((out / "metrics.json").read_text())
    assert document["settings"]["recipe"]["patch"] == [16, 16, 16]
    # a second run computes nothing, and says the same
    monkeypatch.setattr(PooledEncoder, "forward", None)
    assert call(run_stability, *arguments, out=str(out), **QUICK) == told


def test_without_second_scans(study: Path, tmp_path: Path) -> None:
    (tmp_path / "scans.csv").write_text("first\n0.nii.gz\n1.nii.gz\n2.nii.gz\n")
    told = call(
        run_stability,
        [str(study / "encoder.pt")],
        str(tmp_path / "scans.csv"),
        base_dir=str(study),
        out=str(tmp_path / "out"),
        **QUICK,
    )
    assert "within pairs" not in told
    assert "sharper kernel / between subjects" in told


def test_tables_that_make_no_sense(study: Path, tmp_path: Path) -> None:
    encoder, path = str(study / "encoder.pt"), tmp_path / "pairs.csv"
    for text, told in (
        ("a,b\n1,2\n", "no column first"),
        ("first,second\n0.nii.gz,\n1.nii.gz,2.nii.gz\n", "has no second"),
        ("first,second\n0.nii.gz,1.nii.gz\n", "1 subject: two or more"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            call(run_stability, [encoder], str(path), out=str(tmp_path / "out"), **QUICK)
    path.write_text("first,second\n0.nii.gz,none.nii.gz\n1.nii.gz,1_again.nii.gz\n")
    with pytest.raises(UserError, match="1 of 4 scans failed"):
        call(
            run_stability,
            [encoder],
            str(path),
            base_dir=str(study),
            out=str(tmp_path / "o"),
            changes=False,
            **QUICK,
        )
