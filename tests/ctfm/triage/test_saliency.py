"""Maps find the place that a network looks at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from ctfm.pictures.saliency_map import draw_saliency
from ctfm.triage.saliency import gradient_map, occlusion_map

SHAPE = (8, 32, 32)
PLACE = (slice(2, 4), slice(8, 14), slice(20, 26))


class Looks(nn.Module):
    """A network whose logit is the mean of one place in one window."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        volume = x if self.layout == "channels" else x.reshape(len(x), 4, *SHAPE)
        return volume[:, 1][(slice(None), *PLACE)].mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("layout", ["depth", "channels"])
@pytest.mark.parametrize("make", [gradient_map, occlusion_map])
def test_map_lies_where_the_network_looks(make: object, layout: str) -> None:
    torch.manual_seed(0)
    shape = (1, 4, *SHAPE) if layout == "channels" else (1, 1, 32, *SHAPE[1:])
    options = {"progress": False} if make is occlusion_map else {}
    found = make(Looks(layout), torch.rand(shape), 4, layout, **options)  # type: ignore[operator]
    assert found.shape == SHAPE
    inside = np.zeros(SHAPE, bool)
    inside[PLACE] = True
    centre = ndimage.center_of_mass(found)
    expected = ndimage.center_of_mass(inside)
    assert np.abs(np.subtract(centre, expected)).max() < 1.5
    assert found[PLACE].mean() > 10 * found[~ndimage.binary_dilation(inside, iterations=5)].mean()


def test_picture_is_written(tmp_path: Path) -> None:
    image = np.full((20, 24, 12), 40, np.int16)
    heat = np.zeros(image.shape, np.float32)
    heat[5, 6, 7] = 1
    draw_saliency(
        image, heat, np.diag([2.0, 2, 3, 1]), tmp_path / "a.png", title="$a_b$", text="0.5"
    )
    assert (tmp_path / "a.png").stat().st_size > 5000
