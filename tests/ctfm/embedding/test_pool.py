"""Ray Data: the table of one process, failures told at the end, a second run that is short."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.pool import RayPool
from ctfm.embedding.recipes import make_recipe
from ctfm.embedding.table import EmbeddingTable, without_embeddings
from ctfm.networks.encoders import PooledEncoder
from support import make_ct, save

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None,
    reason="needs the extra ray: pip install 'ct-fm-bundles[ray]'",
)


@pytest.fixture
def scans(tmp_path: Path) -> list[dict[str, str]]:
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), tmp_path / "encoder.pt")
    rows = []
    for number in range(4):
        path = tmp_path / "scans" / f"p{number}.nii.gz"
        save(make_ct(number)[0].astype(np.int16), path)
        rows.append({"image": str(path), "name": f"p{number}"})
    return rows


def recipe() -> dict[str, Any]:
    return make_recipe("scan", spacing=[3, 3, 3], patch=[16, 16, 16], overlap=0.25, amp=False)


def table(folder: Path) -> pd.DataFrame:
    rows = pd.read_parquet(folder / "embeddings.parquet")
    return rows.sort_values(["scan", "x_mm", "y_mm", "z_mm"], ignore_index=True)


@pytest.mark.doors
@needs_ray
def test_the_table_is_that_of_one_process(
    scans: list[dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = str(tmp_path / "encoder.pt")
    embedder = Embedder.load(encoder, recipe(), "cpu")
    one = EmbeddingTable(str(tmp_path / "one"), embedder.network, recipe())
    one.start()
    for row in scans:
        image = embedder.read(row["image"])
        pred = embedder.window_map(image)
        one.write({"image": image, "pred": pred, "name": row["name"]})
    # the first is there already, one is no scan
    broken = {"image": str(tmp_path / "broken.nii.gz"), "name": "broken"}
    Path(broken["image"]).write_bytes(b"no scan")
    out = str(tmp_path / "many")
    pool = RayPool(scans[:1], encoder, recipe(), out, workers=1, progress=False)
    pool.run()
    left = without_embeddings([*scans, broken], out, overwrite=False)
    assert [row["name"] for row in left] == ["p1", "p2", "p3", "broken"]
    with pytest.raises(UserError, match=r"1 of 4 scans failed .first: .*broken.*others are writt"):
        RayPool(left, encoder, recipe(), out, workers=2, progress=False).run()
    found, expected = table(tmp_path / "many"), table(tmp_path / "one")
    assert found["scan"].tolist() == expected["scan"].tolist()
    np.testing.assert_allclose(
        np.stack(found["embedding"]), np.stack(expected["embedding"]), rtol=1e-4, atol=1e-5
    )
    with caplog.at_level(logging.INFO):
        RayPool([], encoder, recipe(), out).run()
    assert "nothing is left" in caplog.text
    import ray

    ray.shutdown()


@pytest.mark.doors
@needs_ray
def test_workers_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workers is 0: give a number"):
        RayPool([], "x", recipe(), str(tmp_path), workers=0)


def test_without_ray_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"ray is needed .*\[ray\]"):
        RayPool([], "x", recipe(), str(tmp_path))
