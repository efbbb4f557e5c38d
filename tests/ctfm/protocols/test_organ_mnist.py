"""OrganMNIST3D on a miniature of its file: axes, splits, metrics, and a table that is the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.networks.encoders import PooledEncoder
from ctfm.protocols import run_organ_mnist
from ctfm.protocols.ranking import average_precision_at, hit_at, precision_at, rank


def test_metrics_by_hand() -> None:
    relevant = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]], bool)
    expected = [(1 + 1 + 3 / 4) / 3, 0, 1 / 3]
    np.testing.assert_allclose(average_precision_at(relevant, 5), expected)
    np.testing.assert_allclose(precision_at(relevant, 3), [2 / 3, 0, 1 / 3])
    np.testing.assert_array_equal(hit_at(relevant, 2), [1, 0, 0])


def test_ranking_is_by_cosine() -> None:
    generator = np.random.default_rng(0)
    queries, references = generator.normal(size=(5, 8)), generator.normal(size=(40, 8))
    references *= generator.uniform(0.1, 10, (40, 1))
    cosines = (queries @ references.T) / np.linalg.norm(references, axis=1)
    np.testing.assert_array_equal(rank(queries, references, 7), np.argsort(-cosines)[:, :7])


def write(path: Path, side: int = 16) -> Path:
    """Three organs: stripes along one of the stored axes each, so that axes matter, and noise."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 18), ("val", 6), ("test", 6)):
        labels = np.arange(count) % 3
        images = np.zeros((count, side, side, side), np.uint8)
        for image, label in zip(images, labels, strict=True):
            np.moveaxis(image, label, 0)[:: 2 + label] = 200
            image += generator.integers(0, 20, image.shape, dtype=np.uint8)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None].astype(np.uint8)}
    np.savez(path, **arrays)
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), tmp_path / "encoder.pt")
    return str(tmp_path / "encoder.pt")


def test_the_same_organ_is_found(encoder: str, tmp_path: Path) -> None:
    data = write(tmp_path / "organmnist3d_64.npz")
    out = tmp_path / "out"
    told = call(
        run_organ_mnist, [encoder], str(data), str(out), random_seeds=2, device="cpu", resamples=50
    )
    assert "published for CT-FM: AP@3 0.932" in told
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["encoder"] for row in rows} == {"encoder.pt", "random, seed 0", "random, seed 1"}
    found = {(row["encoder"], row["metric"]): row for row in rows}
    best = found["encoder.pt", "AP@3"]
    assert best["count"] == "12"
    assert float(best["mean"]) > 0.9, "stripes are told apart even by random weights"
    assert float(best["low"]) <= float(best["mean"]) <= float(best["high"])
    document = json.loads((out / "metrics.json").read_text())
    organs = {row["organ"] for row in document["AP@3 by organ"]}
    assert organs == {"liver", "kidney-right", "kidney-left"}
    first = (out / "metrics.csv").read_bytes()
    call(
        run_organ_mnist, [encoder], str(data), str(out), random_seeds=2, device="cpu", resamples=50
    )
    assert (out / "metrics.csv").read_bytes() == first


def test_axes_are_those_of_the_published_script(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    forward = PooledEncoder.forward

    def note(self: PooledEncoder, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return forward(self, x)

    monkeypatch.setattr(PooledEncoder, "forward", note)
    data = write(tmp_path / "o.npz")
    call(
        run_organ_mnist,
        [encoder],
        str(data),
        str(tmp_path / "out"),
        batch_size=18,
        device="cpu",
        resamples=10,
        amp=False,
    )
    stored = np.load(data)["train_images"][:1].astype(np.float32) / 255
    published = stored[0][None].transpose(0, 3, 2, 1)  # item (1, 64, 64, 64) of medmnist
    np.testing.assert_allclose(seen[0][0].numpy(), published, atol=1e-6)


def test_files_that_are_none(encoder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file: give organmnist3d_64"):
        call(run_organ_mnist, [encoder], str(tmp_path / "none.npz"))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="not a data set of MedMNIST"):
        call(run_organ_mnist, [encoder], str(tmp_path / "other.npz"))
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UserError, match="not a data set of MedMNIST"):
        call(run_organ_mnist, [encoder], str(tmp_path / "text.npz"))
