"""Sound scans pass without a word; what is wrong with others is said with its value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ctfm.imaging.checks.ct import ct_problem
from ctfm.imaging.checks.findings import InputCheck, inspect_scan
from ctfm.imaging.scans import read_scan
from ctfm.phantoms.drawing import Phantom, draw_head, draw_torso


def scan(image: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.as_tensor(image.astype(np.float32))[None], affine=affine)


def inspect(image: MetaTensor) -> InputCheck:
    return inspect_scan(image, ct_problem(image))


def said(image: np.ndarray, affine: np.ndarray) -> str:
    return " | ".join(inspect(scan(image, affine)).warnings)


@pytest.fixture(scope="module")
def body() -> Phantom:
    return draw_torso(0, (5.0, 5.0, 5.0))


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SPL", "ILA"])
def test_sound_scans_in_any_orientation(axcodes: str) -> None:
    for phantom in (
        draw_torso(1, (5.0, 5.0, 5.0), axcodes),
        draw_head(0, (3.0, 3.0, 4.0), axcodes),
    ):
        found = inspect(scan(phantom.image, phantom.affine))
        assert (found.problem, found.warnings, found.axcodes) == (None, (), axcodes)


def test_what_is_reported(body: Phantom) -> None:
    found = inspect(scan(body.image, body.affine))
    assert found.shape == body.image.shape
    assert found.spacing_mm == (5.0, 5.0, 5.0)
    assert found.extent_mm == tuple(5.0 * n for n in body.image.shape)
    assert found.hu[0] <= -1000 < found.hu[1] < found.hu[2]
    assert 0.3 < found.air_share < 0.8


def test_front_and_back_exchanged(body: Phantom) -> None:
    turned = body.affine.copy()
    turned[1] *= -1
    assert "front and back may be exchanged" in said(body.image, turned)
    assert "bone lies in front of its middle" in said(body.image, turned)


@pytest.mark.parametrize(("low", "high"), [(-1024, 240), (-600, 3000)])
def test_windowed(low: int, high: int, body: Phantom) -> None:
    assert "that was windowed" in said(body.image.clip(low, high), body.affine)


def test_grids(body: Phantom) -> None:
    assert "slices lie 7.5 mm apart" in said(body.image, body.affine @ np.diag([1, 1, 1.5, 1]))
    assert "longer than a person" in said(body.image, body.affine @ np.diag([1, 1, 4.5, 1]))
    small = body.image[34:54, 24:44, 10:32]
    warned = said(small, body.affine)
    assert "less than a body's cross-section" in warned
    assert "the field of view cuts it" in warned


def test_problem_is_told_not_raised(body: Phantom) -> None:
    found = inspect(scan(body.image.clip(0, 255), body.affine))
    assert isinstance(found, InputCheck)
    assert "8-bit picture" in str(found.problem)


def test_real_scans(real_data: Path) -> None:
    for name in ("ct_torso_3mm.nii.gz", "ct_abdomen_3mm.nii.gz"):
        image = read_scan(str(real_data / name))
        assert inspect(image).warnings == ()
        turned = image.affine.numpy().copy()
        turned[1] *= -1
        assert "front and back" in " ".join(
            inspect(MetaTensor(image.as_tensor(), affine=turned)).warnings
        )
