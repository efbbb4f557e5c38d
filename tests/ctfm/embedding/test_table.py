"""The table of embeddings: its rows, going on after a stop, and what does not belong together."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from ctfm.base.errors import UserError
from ctfm.embedding.table import EmbeddingTable, without_embeddings
from ctfm.embedding.windows import WindowGrid
from ctfm.imaging.listing import REFUSED
from ctfm.imaging.provenance import Provenance
from ctfm.weights.audit import fingerprint

RECIPE = {"patch": [16, 16, 16], "spacing": [3.0, 1.0, 1.0], "overlap": 0.5, "pooling": "mean"}
AFFINE = np.array([[0, 0, -1.0, 7], [0, -1.0, 0, 8], [3.0, 0, 0, 9], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 5)


def state(name: str = "a", shape: tuple[int, ...] = (24, 16, 24), seed: int = 0) -> Any:
    """What a handler sees once a scan is done."""
    image = MetaTensor(torch.zeros(1, *shape), affine=torch.from_numpy(AFFINE))
    counts = WindowGrid(shape, (16, 16, 16), 0.5).counts
    pred = torch.rand(5, *counts, generator=torch.Generator().manual_seed(seed))
    engine_state = SimpleNamespace(batch=[{"image": image, "name": name}], output=[{"pred": pred}])
    return SimpleNamespace(state=engine_state)


def write(folder: Path, network: nn.Module, *engines: Any, **recipe: Any) -> EmbeddingTable:
    table = EmbeddingTable(str(folder), network, {**RECIPE, **recipe})
    table.start()
    for engine in engines:
        table._add(engine)
    return table


def read(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "embeddings.parquet")


def test_one_line_of_pandas_reads_rows_of_patches_and_scans(
    tmp_path: Path, network: nn.Module
) -> None:
    first, second = state("a"), state("deep/er/b", seed=1)
    write(tmp_path, network, first, second)
    rows = read(tmp_path)
    assert list(rows.columns) == [
        "scan",
        "kind",
        "x_mm",
        "y_mm",
        "z_mm",
        "spacing",
        "patch",
        "embedding",
    ]
    assert rows.groupby(["scan", "kind"]).size().to_dict() == {
        ("a", "patch"): 4,
        ("a", "scan"): 1,
        ("deep/er/b", "patch"): 4,
        ("deep/er/b", "scan"): 1,
    }
    patches = rows[(rows.scan == "a") & (rows.kind == "patch")]
    expected = first.state.output[0]["pred"].flatten(1).T.numpy()
    embeddings = np.stack(list(patches.embedding))
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, expected)
    # voxel (d, h, w) is at (7 - w, 8 - h, 9 + 3 d) mm, and the first window's centre at 7.5
    places = patches[["x_mm", "y_mm", "z_mm"]].to_numpy()
    np.testing.assert_allclose(places[0], [-0.5, 0.5, 31.5])
    np.testing.assert_allclose(places[1], [-8.5, 0.5, 31.5])
    np.testing.assert_allclose(places[2], [-0.5, 0.5, 55.5])
    assert patches.spacing.iloc[0].tolist() == [3, 1, 1]
    assert patches.patch.iloc[0].tolist() == [16, 16, 16]
    whole = rows[(rows.scan == "a") & (rows.kind == "scan")].iloc[0]
    assert np.isnan([whole.x_mm, whole.y_mm, whole.z_mm]).all()
    np.testing.assert_allclose(whole.embedding, expected.mean(0), rtol=1e-6)


def test_types_and_headers_of_a_file(tmp_path: Path, network: nn.Module) -> None:
    write(tmp_path, network, state())
    file = pq.ParquetFile(tmp_path / "embeddings.parquet" / "a.parquet")
    types = {field.name: str(field.type).replace("element", "item") for field in file.schema_arrow}
    assert types["embedding"] == "fixed_size_list<item: float>[5]"
    assert types["patch"] == "fixed_size_list<item: int32>[3]"
    assert types["x_mm"] == types["z_mm"] == "double"
    assert file.num_row_groups == 1
    header = json.loads(file.schema_arrow.metadata[b"ctfm"])
    fingerprints = {"encoder_sha256": fingerprint(network.state_dict()), "recipe": RECIPE}
    assert header == {**fingerprints, "made_by": None}, "the image came from no file"
    beside = json.loads((tmp_path / "embeddings.parquet" / "_made_with.json").read_text())
    assert beside["recipe"] == RECIPE


def test_minimum_over_patches_is_the_protocol_of_3d_mir(tmp_path: Path, network: nn.Module) -> None:
    engine = state()
    write(tmp_path, network, engine, pooling="min")
    whole = read(tmp_path).query("kind == 'scan'").embedding.iloc[0]
    np.testing.assert_array_equal(whole, engine.state.output[0]["pred"].flatten(1).amin(1).numpy())


def test_windows_that_were_left_out_have_no_row(tmp_path: Path, network: nn.Module) -> None:
    engine = state()
    pred: Tensor = engine.state.output[0]["pred"]
    pred[:, 0, 0, 1] = torch.nan
    write(tmp_path, network, engine)
    rows = read(tmp_path)
    assert len(rows) == 1 + 3
    assert rows.z_mm[1:].tolist() == [31.5, 55.5, 55.5]
    kept = pred.flatten(1).T[[0, 2, 3]].numpy()
    np.testing.assert_allclose(rows.embedding.iloc[0], kept.mean(0), rtol=1e-6)


@pytest.mark.parametrize("name", ["_a", ".hidden/b", "x=1/y", "sub/_c", "50 %", "a/é"])
def test_no_name_is_lost_to_readers(name: str, tmp_path: Path, network: nn.Module) -> None:
    """They skip "_" and ".", and make a column of "="."""
    write(tmp_path, network, state(name))
    rows = read(tmp_path)
    assert set(rows.scan) == {name}
    assert list(rows.columns)[-1] == "embedding"
    (row,) = without_embeddings([{"image": "i", "name": name}], str(tmp_path))
    assert "does not say which scan it was made of" in row[REFUSED], "it was found"


def test_a_stopped_run_goes_on_with_what_is_missing(tmp_path: Path, network: nn.Module) -> None:
    scans = [{"image": str(tmp_path / f"{name}.nii"), "name": name} for name in ("a", "s/a", "b")]
    engines = []
    for row in scans:
        Path(row["image"]).parent.mkdir(exist_ok=True)
        Path(row["image"]).touch()
        engines.append(state(row["name"]))
        engines[-1].state.batch[0]["image"].meta["filename_or_obj"] = row["image"]
    out = tmp_path / "out"
    write(out, network, engines[0])
    left = without_embeddings(scans, str(out))
    assert [row["name"] for row in left] == ["s/a", "b"]
    assert without_embeddings(scans, str(out), overwrite=True) == scans
    other = Provenance(settings={"patch": 16})
    assert len(without_embeddings(scans, str(out), other)) == 3, "of other settings: again"
    write(out, network, *engines[1:])
    assert set(read(out).scan) == {"a", "s/a", "b"}
    assert without_embeddings(scans, str(out)) == []
    elsewhere = [{"image": str(tmp_path / "other.nii"), "name": "a"}]
    Path(elsewhere[0]["image"]).write_bytes(b"another scan")
    assert "was made of another scan" in without_embeddings(elsewhere, str(out))[0][REFUSED]


def test_a_write_that_is_cut_off_leaves_no_file(
    tmp_path: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path, network, state("a"))

    def cut_off(_table: Any, path: Path, **_options: Any) -> None:
        Path(path).write_bytes(b"PAR1 and no more")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "parquet", SimpleNamespace(write_table=cut_off))
    with pytest.raises(UserError, match="No space left on device; no partial file was left"):
        table._add(state("b"))
    assert set(read(tmp_path).scan) == {"a"}


def test_a_scan_that_failed_is_passed_over(tmp_path: Path, network: nn.Module) -> None:
    failed = SimpleNamespace(state=SimpleNamespace(batch=None, output={}))
    write(tmp_path, network, failed, state("b"))
    assert set(read(tmp_path).scan) == {"b"}


class TestWhatDoesNotBelongTogether:
    def test_another_recipe(self, tmp_path: Path, network: nn.Module) -> None:
        write(tmp_path, network, state())
        with pytest.raises(UserError, match=r"made with overlap 0.5, not 0.25: embeddings of two"):
            write(tmp_path, network, overlap=0.25)

    def test_another_encoder(self, tmp_path: Path, network: nn.Module) -> None:
        write(tmp_path, network, state())
        with pytest.raises(UserError, match="made with another encoder"):
            write(tmp_path, nn.Linear(3, 5))

    def test_a_description_that_is_none(self, tmp_path: Path, network: nn.Module) -> None:
        (tmp_path / "embeddings.parquet").mkdir()
        (tmp_path / "embeddings.parquet" / "_made_with.json").write_text("[]")
        with pytest.raises(UserError, match="cannot be read: delete"):
            write(tmp_path, network)

    @pytest.mark.parametrize(
        ("recipe", "message"),
        [
            ({**RECIPE, "pooling": "max"}, "pooling is 'max': choose mean or min"),
            ({"patch": [16, 16, 16]}, "recipe lacks spacing, overlap, pooling"),
        ],
    )
    def test_a_recipe_that_is_none(
        self, recipe: dict[str, Any], message: str, tmp_path: Path, network: nn.Module
    ) -> None:
        with pytest.raises(UserError, match=message):
            EmbeddingTable(str(tmp_path), network, recipe)
        assert list(tmp_path.iterdir()) == []
