"""An encoder with its recipe: the same scans and the same embeddings as a bundle's inference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import make_recipe
from ctfm.embedding.windows import cut_window
from ctfm.imaging.grids import voxels_to_mm
from ctfm.networks.encoders import PooledEncoder
from support import EXTRACTOR, make_ct, run_here, save

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"patch": [16, 32, 32], "spacing": [3.0, 3.0, 3.0], "amp": False}
OBLIQUE = np.array([[-2.9, 0.3, 0, 40], [0.3, 2.9, 0.2, -9], [0, -0.2, 3.1, 800], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
    path = tmp_path_factory.mktemp("weights") / "encoder.pt"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def embedder(checkpoint: str) -> Embedder:
    return Embedder.load(checkpoint, make_recipe(**SMALL), device="cpu")


@pytest.fixture(scope="module")
def oblique(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thinner than a patch along one axis, on axes that are nobody's."""
    return save(make_ct()[0][:, :, 14:26], tmp_path_factory.mktemp("scan") / "a.nii.gz", OBLIQUE)


def test_a_scan_is_read_as_the_config_reads_it(embedder: Embedder, oblique: Path) -> None:
    """The transforms stand in the config too, where users change them: twice, hence compared."""
    parser = ConfigParser()
    parser.read_config(str(EXTRACTOR / "configs" / "inference.json"))
    parser.update({"patch": [16, 32, 32], "spacing": [3.0, 3.0, 3.0]})
    steps = parser.get_parsed_content("preprocessing")
    expected = steps({"image": str(oblique)})["image"]
    found = embedder.read(str(oblique))
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, expected.affine)


@pytest.mark.parametrize("pooling", ["mean", "min"])
def test_embeddings_are_those_of_the_table(
    pooling: str, checkpoint: str, oblique: Path, tmp_path: Path
) -> None:
    run_here(
        "inference",
        bundle=EXTRACTOR,
        input=str(oblique),
        output_dir=str(tmp_path),
        amp=False,
        checkpoint=checkpoint,
        pooling=pooling,
        progress=False,
    )
    table = pd.read_parquet(tmp_path / "embeddings.parquet")
    made = json.loads((tmp_path / "embeddings.parquet" / "_made_with.json").read_text())
    recipe = make_recipe(pooling=pooling, **SMALL)
    embedder = Embedder.load(checkpoint, recipe, device="cpu")
    assert made["recipe"] == recipe == embedder.recipe
    assert made["encoder_sha256"] == embedder.fingerprint
    embeddings, centres = embedder.windows(embedder.read(str(oblique)))
    assert embeddings.dtype == np.float32
    rows = np.stack(list(table.embedding))
    np.testing.assert_array_equal(rows[1:], embeddings)
    np.testing.assert_array_equal(rows[0], embedder.pooled(embeddings))
    np.testing.assert_allclose(table[["x_mm", "y_mm", "z_mm"]].to_numpy()[1:], centres)


def test_centres_of_windows_are_places_with_the_same_embeddings(
    embedder: Embedder, oblique: Path
) -> None:
    image = embedder.read(str(oblique))
    embeddings, centres = embedder.windows(image)
    np.testing.assert_allclose(embedder.at(image, centres), embeddings, rtol=1e-4, atol=1e-6)
    starts = embedder.starts_at(image, centres)
    assert starts.tolist() == embedder.grid(image).starts().tolist()


def test_a_place_near_the_edge_has_air_beyond_it(embedder: Embedder, oblique: Path) -> None:
    image = embedder.read(str(oblique))
    corner = voxels_to_mm(image.affine.numpy(), np.array([[1.0, 2.0, 3.0]]))
    start = np.array([1, 2, 3]) - np.array([8, 16, 16])
    assert embedder.starts_at(image, corner).tolist() == [start.tolist()]
    window = cut_window(image.as_tensor(), start, (16, 32, 32))
    assert float(window[:, :7].max()) == 0, "air"
    with torch.inference_mode():
        expected = embedder.network(window[None]).numpy()
    np.testing.assert_allclose(embedder.at(image, corner), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0.0, 0.0, -5000.0]], "the place 0.0, 0.0, -5000.0 mm lies outside of the body"),
        ([0.0, 0.0, 0.0], r"points have shape \(3,\)"),
        ([[np.nan, 0.0, 0.0]], r"points have shape \(1, 3\)"),
    ],
)
def test_what_is_no_place_is_refused(
    points: Any, message: str, embedder: Embedder, oblique: Path
) -> None:
    with pytest.raises(UserError, match=message):
        embedder.at(embedder.read(str(oblique)), points)


def test_air_is_left_out_where_the_recipe_says_so(checkpoint: str) -> None:
    recipe = make_recipe(**{**SMALL, "patch": [16, 16, 16]}, skip_air=True, overlap=0.0)
    embedder = Embedder.load(checkpoint, recipe, device="cpu", sw_batch_size=2)
    image = MetaTensor(torch.zeros(1, 48, 16, 16), affine=torch.eye(4))
    image[:, 35:38] = 0.3
    embeddings, centres = embedder.windows(image)
    assert embeddings.shape == (1, 64)
    assert centres.tolist() == [[39.5, 7.5, 7.5]]


def test_a_scan_that_is_none_is_named(embedder: Embedder, tmp_path: Path) -> None:
    path = save(np.full((40, 40, 40), -1000, np.int16), tmp_path / "empty.nii.gz")
    with pytest.raises(UserError, match=r"empty\.nii\.gz.*(is constant|nothing lies above 0 HU)"):
        embedder.read(str(path))
    with pytest.raises(UserError, match="no such file"):
        embedder.read(str(tmp_path / "none.nii.gz"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": [30, 32]}, "give three sizes in voxels"),
        ({"patch": 64}, "patch is 64"),
        ({"spacing": [1.0, 1.0]}, "spacing is"),
        ({"overlap": 1.0}, "overlap is"),
        ({"pooling": "max"}, "choose mean or min"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(
    changes: dict[str, Any], message: str, checkpoint: str
) -> None:
    with pytest.raises(UserError, match=message):
        Embedder.load(checkpoint, make_recipe(**{**SMALL, **changes}))


def test_uses_have_names() -> None:
    assert make_recipe("mir")["pooling"] == "min"
    assert make_recipe("semantic_search")["patch"] == [64, 64, 64]
    assert make_recipe("stability")["overlap"] == make_recipe()["overlap"] == 0.625
    with pytest.raises(UserError, match="choose from scan, mir"):
        make_recipe("lesions")
    with pytest.raises(UserError, match="a recipe has no colour"):
        make_recipe(colour="red")


def test_amp_is_the_recipes_unless_it_is_said(checkpoint: str) -> None:
    assert Embedder.load(checkpoint, make_recipe()).recipe["amp"] is True
    assert Embedder.load(checkpoint, make_recipe(), amp=False).recipe["amp"] is False


def test_the_recipe_of_3d_mir_whose_side_cannot_be_halved_four_times(checkpoint: str) -> None:
    embedder = Embedder.load(checkpoint, make_recipe("mir"), device="cpu")
    image = MetaTensor(torch.rand(1, 24, 128, 128), affine=torch.eye(4))
    embeddings, _ = embedder.windows(image)
    assert embeddings.shape == (1, 64)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_told(device: str, checkpoint: str) -> None:
    with pytest.raises(UserError, match=rf"device is {device}: it cannot be used here"):
        Embedder.load(checkpoint, make_recipe(), device=device)
