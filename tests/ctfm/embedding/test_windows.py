"""Where windows lie, against MONAI's splitter and against the coordinates of a marker."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowSplitter
from monai.transforms import (
    Compose,
    CropForegroundd,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)

from ctfm.base.errors import UserError
from ctfm.embedding.inputs import soft_tissue
from ctfm.embedding.windows import WindowGrid, cut_window
from ctfm.imaging.grids import voxels_to_mm
from ctfm.imaging.transforms import LoadScand
from support import save


def volume(*shape: int) -> torch.Tensor:
    return torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float32).reshape(1, *shape)


class TestWindowGrid:
    @pytest.mark.parametrize(
        ("shape", "patch", "overlap"),
        [
            ((32, 40, 33), (16, 16, 16), 0.625),
            ((16, 16, 16), (16, 16, 16), 0.625),
            ((17, 31, 47), (16, 16, 16), 0.0),
            ((24, 40, 20), (8, 16, 12), 0.5),
            ((20, 21, 22), (9, 10, 11), 0.3),
        ],
    )
    def test_windows_are_those_of_monai(
        self, shape: tuple[int, ...], patch: tuple[int, ...], overlap: float
    ) -> None:
        whole = volume(*shape)
        expected = list(SlidingWindowSplitter(patch, overlap)(whole[None]))
        grid = WindowGrid(shape, patch, overlap)
        assert [tuple(start) for start in grid.starts()] == [place for _, place in expected]
        assert int(np.prod(grid.counts)) == len(expected)
        for start, (window, _) in zip(grid.starts(), expected, strict=True):
            torch.testing.assert_close(cut_window(whole, start, patch), window[0], rtol=0, atol=0)

    def test_a_volume_smaller_than_the_patch_is_one_window(self) -> None:
        """Of MONAI's splitter, that is a window smaller than the patch."""
        grid = WindowGrid((10, 3, 16), (16, 16, 16), 0.625)
        assert grid.counts == (1, 1, 1)
        window = cut_window(volume(10, 3, 16), grid.starts()[0], grid.patch)
        assert window.shape == (1, 16, 16, 16)
        assert torch.equal(window[:, :10, :3], volume(10, 3, 16))
        assert window.count_nonzero() == 10 * 3 * 16

    @pytest.mark.parametrize("start", list(product((-3, 0, 3, 9), repeat=3))[::7])
    def test_beyond_the_edge_there_is_air(self, start: tuple[int, int, int]) -> None:
        whole, patch = volume(10, 11, 12), (4, 6, 8)
        padded = np.pad(whole.numpy(), [(0, 0), *[(20, 20)] * 3])
        places = tuple(slice(20 + s, 20 + s + p) for s, p in zip(start, patch, strict=True))
        expected = padded[(slice(None), *places)]
        np.testing.assert_array_equal(cut_window(whole, start, patch), expected)

    def test_centres_of_an_oblique_grid(self) -> None:
        affine = np.array(
            [[0, 0.2, -1.1, 5], [0.3, -1.9, 0.1, -7], [2.9, 0.1, 0.2, 100], [0, 0, 0, 1]]
        )
        grid = WindowGrid((20, 20, 20), (8, 8, 9), 0.5)
        found = grid.centres(affine)
        for start, centre in zip(grid.starts(), found, strict=True):
            first = affine @ [*start, 1]
            last = affine @ [*(start + np.array(grid.patch) - 1), 1]
            np.testing.assert_allclose(centre, ((first + last) / 2)[:3], atol=1e-9)

    @pytest.mark.parametrize(
        ("patch", "overlap", "message"),
        [
            ((16, 16), 0.5, "patch is"),
            ((16, 0, 16), 0.5, "patch is"),
            ((16, 16.0, 16), 0.5, "patch is"),
            ((16, 16, 16), 1.0, "overlap is 1.0"),
            ((16, 16, 16), -0.1, "overlap is -0.1"),
            ((4, 16, 16), 0.9, "overlap is 0.9"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, patch: tuple[int, ...], overlap: float, message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            WindowGrid((32, 32, 32), patch, overlap)


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result


AFFINES = {
    "as stored": np.diag([2.0, 2.0, 2.0]),
    "flipped, anisotropic": np.diag([-1.5, 2.5, -4.0]),
    "permuted": np.array([[0, 0, 2.0], [-1.7, 0, 0], [0, 3.1, 0]]),
    "oblique": rotation((17, -12, 24)) @ np.diag([1.8, -2.2, 3.5]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_a_marker_is_in_the_window_whose_centre_is_nearest(name: str, tmp_path: Path) -> None:
    """Through orientation, resampling, cropping and padding, and in no window further away."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = AFFINES[name], (-31, 47, 812)
    hu = np.full((36, 40, 28), -1000, np.int16)
    hu[3:33, 4:37, 2:26] = 40
    marker = np.array([21, 11, 17])
    hu[tuple(slice(m - 1, m + 2) for m in marker)] = 1800
    path = save(hu, tmp_path / "marker.nii.gz", affine)
    point = nib.affines.apply_affine(affine, marker)

    spacing, patch = (3.0, 2.0, 2.0), (8, 16, 16)
    preprocessing = Compose(
        [
            LoadScand("image"),
            Orientationd("image", "SPL", labels=None),
            Spacingd("image", spacing, mode="bilinear"),
            CropForegroundd("image", "image", select_fn=soft_tissue, allow_smaller=True),
            SpatialPadd("image", patch, value=-1024),
            ScaleIntensityRanged("image", -1024, 2048, 0, 1, clip=True),
        ]
    )
    image = preprocessing({"image": str(path)})["image"]
    grid = WindowGrid(tuple(image.shape[1:]), patch, 0.5)
    centres = grid.centres(image.affine.numpy())
    voxel = nib.affines.apply_affine(np.linalg.inv(image.affine.numpy()), point)
    brightest = np.unravel_index(int(image.argmax()), image.shape)[1:]
    assert np.abs(voxel - brightest).max() <= 2, "the marker is where its coordinates say"
    np.testing.assert_allclose(voxels_to_mm(image.affine.numpy(), voxel[None])[0], point, atol=1e-6)

    nearest = int(np.linalg.norm(centres - point, axis=1).argmin())
    bright = [float(cut_window(image, s, patch).max()) > 0.8 for s in grid.starts()]
    assert bright[nearest]
    inside = [((voxel >= s) & (voxel <= s + np.array(patch) - 1)).all() for s in grid.starts()]
    for start, shows, holds in zip(grid.starts(), bright, inside, strict=True):
        far = (np.abs(voxel - start - (np.array(patch) - 1) / 2) > np.array(patch) / 2 + 2).any()
        assert shows or not holds
        assert not (shows and far)


def test_a_scan_without_soft_tissue_is_refused() -> None:
    with pytest.raises(UserError, match="nothing lies above 0 HU"):
        soft_tissue(torch.full((1, 4, 4, 4), -100.0))
