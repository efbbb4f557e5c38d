"""Embeddings by a checkpoint of a pretraining: against a loop by hand, and past bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from monai.transforms import Compose, CropForeground, Orientation, Spacing

from ctfm.base.errors import one_line
from ctfm.embedding.windows import WindowGrid
from ctfm.imaging.scans import read_scan
from ctfm.networks.encoders import PooledEncoder
from dicom_support import write_ct
from support import EXTRACTOR, make_ct, run_apart, run_here, save

pytestmark = pytest.mark.usefixtures("one_thread")

PATCH = (16, 32, 32)


@pytest.fixture
def encoder() -> PooledEncoder:
    torch.manual_seed(0)
    return PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1)).eval()


@pytest.fixture
def inference(tmp_path: Path, encoder: PooledEncoder) -> dict[str, Any]:
    """Overrides of a tiny encoder, out of a checkpoint as training writes it."""
    model = {f"encoder.{name}": t for name, t in encoder.state_dict().items()}
    model["projection.0.weight"] = torch.zeros(8, 64)
    torch.save({"model": model, "optimizer": {}, "epoch": 3}, tmp_path / "epoch_0003.pt")
    return {
        "bundle": EXTRACTOR,
        "checkpoint": str(tmp_path / "epoch_0003.pt"),
        "output_dir": str(tmp_path / "out"),
        "progress": False,
        "amp": False,
    }


def table(tmp_path: Path) -> pd.DataFrame:
    rows = pd.read_parquet(tmp_path / "out" / "embeddings.parquet")
    return rows.sort_values("scan", kind="stable", ignore_index=True)


@torch.no_grad()
def by_hand(path: Path, encoder: PooledEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and centres, one window after the other."""
    steps = [Orientation("SPL", labels=None), Spacing((3, 3, 3)), CropForeground()]
    image = Compose(steps)(read_scan(str(path)))
    shape = tuple(image.shape[1:])
    scaled = np.clip((image.numpy() + 1024) / 3072, 0, 1)
    short = [max(0, p - n) for n, p in zip(shape, PATCH, strict=True)]
    padded = np.pad(scaled, [(0, 0), *((n // 2, n - n // 2) for n in short)])
    padded = np.pad(padded, [(0, 0), *[(0, 64)] * 3])
    grid = WindowGrid(tuple(n + m for n, m in zip(shape, short, strict=True)), PATCH, 0.625)
    embeddings, centres = [], []
    for start in grid.starts():
        place = (slice(None), *(slice(s, s + p) for s, p in zip(start, PATCH, strict=True)))
        embeddings.append(encoder(torch.from_numpy(padded[place])[None])[0].numpy())
        middle = start - np.array([n // 2 for n in short]) + (np.array(PATCH) - 1) / 2
        centres.append((image.affine.numpy() @ [*middle, 1])[:3])
    return np.stack(embeddings), np.stack(centres)


def test_rows_are_those_of_a_loop_over_windows(
    inference: dict[str, Any], encoder: PooledEncoder, tmp_path: Path
) -> None:
    """One scan as tests have it, one thinner than the patch and oblique."""
    affine = np.array([[-2.9, 0.3, 0, 40], [0.3, 2.9, 0.2, -9], [0, -0.2, 3.1, 800], [0, 0, 0, 1]])
    wide = save(make_ct()[0], tmp_path / "in" / "wide.nii.gz")
    thin = save(make_ct()[0][:, :, 14:26], tmp_path / "in" / "sub" / "thin.nii.gz", affine)
    workflow = run_here("inference", **inference, input=str(tmp_path / "in"))
    assert not workflow.check_properties()
    rows = table(tmp_path)
    assert list(rows.scan.unique()) == ["sub/thin", "wide"]
    for name, path in (("wide", wide), ("sub/thin", thin)):
        mine = rows[rows.scan == name]
        assert mine.kind.tolist() == ["scan"] + ["patch"] * (len(mine) - 1)
        embeddings, centres = by_hand(path, encoder)
        found = np.stack(list(mine.embedding))
        np.testing.assert_allclose(found[1:], embeddings, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(mine[["x_mm", "y_mm", "z_mm"]].to_numpy()[1:], centres)
        np.testing.assert_allclose(found[0], embeddings.mean(0), rtol=1e-3, atol=1e-5)


def test_bad_files_are_listed_and_a_second_run_does_what_is_missing(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    broken = ct.parent / "broken.nii.gz"
    broken.write_bytes(ct.read_bytes()[:3000])
    save(np.full((40, 40, 40), -1000, np.int16), ct.parent / "empty.nii.gz")
    inference |= {"input": str(ct.parent), "overwrite": False}
    done = run_apart(tmp_path, "inference", **inference)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last == "error: 2 of 3 scans failed, as listed above; 1 are done"
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert "cannot be read" in failed[0]
    assert "nothing lies above 0 HU" in failed[1] or "is constant" in failed[1]
    file = tmp_path / "out" / "embeddings.parquet" / "ct.parquet"
    written = file.stat().st_mtime_ns

    (ct.parent / "empty.nii.gz").unlink()
    save(make_ct(seed=1)[0], broken)
    run_here("inference", **inference)
    assert set(table(tmp_path).scan) == {"broken", "ct"}
    assert file.stat().st_mtime_ns == written, "what was there is not done again"

    with pytest.raises(RuntimeError) as caught:  # MONAI's parser wraps what a step raises
        run_here("inference", **inference, pooling="min")
    assert "made with pooling mean, not min" in str(one_line(caught.value))


def test_a_dicom_series_has_the_embeddings_of_the_same_ct(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    series = write_ct(tmp_path / "dicom" / "1.2.840.7")
    run_here("inference", **inference, input=[str(ct), str(series.parent)], overlap=0.25)
    rows = table(tmp_path)
    file, folder = (rows[rows.scan == name] for name in ("ct", "1.2.840.7"))
    assert len(file) == len(folder) > 1
    for column in ("x_mm", "y_mm", "z_mm"):
        np.testing.assert_allclose(file[column], folder[column], atol=1e-3)
    first, second = (np.stack(list(part.embedding)) for part in (file, folder))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)
