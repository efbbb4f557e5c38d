"""The picture: written whole, the same on every run, right on the left, legend and colours."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from ctfm.base.errors import UserError
from ctfm.pictures import label_map as module
from ctfm.pictures.label_map import ALPHA, WIDTH, class_color, preview
from ctfm.pictures.planes import Plane

NAMES = {1: "liver", 2: "spleen"}
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """A body with class 1 in the patient's right and class 2 in the left half; axes RAS."""
    image = np.full((40, 36, 20), -1000, dtype=np.int16)
    image[4:36, 4:32] = 40
    label = np.zeros(image.shape, dtype=np.uint8)
    label[26:34, 12:26, 5:15] = 1
    label[7:13, 14:22, 6:14] = 2
    return image, label


def columns_of(picture: np.ndarray, color: tuple[float, float, float]) -> np.ndarray:
    """Columns of the pixels above the legend that are near the colour of an outline."""
    planes = picture[: int(0.85 * len(picture)), :, :3]
    return np.nonzero(np.abs(planes - color).max(axis=2) < 0.08)[1]


def test_png_of_plausible_size(tmp_path):
    path = tmp_path / "new" / "case.png"
    preview(*phantom(), AFFINE, NAMES, path, title="a case")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width == WIDTH
    assert 400 < height < 1600
    assert 10_000 < len(data) < 1_000_000
    assert [p.name for p in path.parent.iterdir()] == ["case.png"]


def test_pixels_are_the_same_on_every_run_and_for_tensors(tmp_path):
    image, label = phantom()
    preview(image, label, AFFINE, NAMES, tmp_path / "a.png", title="t")
    preview(image, label, AFFINE, NAMES, tmp_path / "b.png", title="t")
    tensors = [torch.as_tensor(array) for array in (image, label, AFFINE)]
    preview(*tensors, NAMES, tmp_path / "c.png", title="t")
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    preview(image, label > 0, AFFINE, NAMES, tmp_path / "d.png", title="t")
    assert first != (tmp_path / "d.png").read_bytes()


@pytest.mark.parametrize("flip", [False, True])
def test_patients_right_is_on_the_left_of_the_axial_panel(tmp_path, flip):
    image, label = phantom()
    affine = AFFINE
    if flip:  # the same body, stored from right to left
        image, label = image[::-1], label[::-1]
        affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    preview(image, label, affine, NAMES, tmp_path / "case.png")
    picture = imread(tmp_path / "case.png")
    right, left = (columns_of(picture, class_color(class_id)) for class_id in (1, 2))
    # the axial panel is the leftmost; its middle lies between both classes
    assert len(right) > 50
    assert len(left) > 50
    assert right.min() < left.min()
    assert np.median(right[right < left.min()]) < left.min() < WIDTH / 3


def test_input_is_left_alone(tmp_path):
    image, label = phantom()
    before = image.copy(), label.copy()
    preview(image, label, AFFINE, NAMES, tmp_path / "case.png")
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def texts(label: np.ndarray, names, tmp_path, monkeypatch) -> list[str]:
    """All that is written in the picture of a label map over air."""
    drawn = []
    draw = module._draw

    def remember(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(module, "_draw", remember)
    preview(np.full(label.shape, -1000.0), label, AFFINE, names, tmp_path / "case.png")
    return [text.get_text() for axes in drawn[0].axes for text in axes.texts]


def test_legend_lists_structures_by_volume(tmp_path, monkeypatch):
    _, label = phantom()
    label[0, 0, 0] = 5
    found = texts(label, NAMES, tmp_path, monkeypatch)
    legend = found[found.index("liver") : found.index("class 5") + 2]
    voxel_ml = 2 * 2 * 3 / 1000
    assert legend == [
        "liver",
        f"{8 * 14 * 10 * voxel_ml:.1f} ml",
        "spleen",
        f"{6 * 8 * 8 * voxel_ml:.1f} ml",
        "class 5",
        "0.012 ml",
    ]
    assert {"R", "L", "A", "P", "S", "I"} <= set(found)
    assert any(text.startswith("3 structures") for text in found)


def test_legend_says_how_many_it_leaves_out(tmp_path, monkeypatch):
    label = np.arange(4 * 4 * 4, dtype=np.uint8).reshape(4, 4, 4)
    found = texts(label, {}, tmp_path, monkeypatch)
    assert "+ 33 more" in found
    assert sum(text.startswith("class ") for text in found) == 30


def test_nothing_found(tmp_path, monkeypatch):
    found = texts(np.zeros((6, 7, 8), dtype=np.int64), NAMES, tmp_path, monkeypatch)
    assert "nothing found" in found
    assert not any("structure" in text for text in found)


def test_names_are_not_read_as_formulas(tmp_path, monkeypatch):
    label = np.ones((4, 4, 4), dtype=np.uint8)
    assert "$\\frac$" in texts(label, {1: "$\\frac$"}, tmp_path, monkeypatch)


@pytest.mark.parametrize("shape", [(1, 1, 1), (30, 30, 1), (4, 4, 300), (1, 40, 40)])
def test_odd_shapes(tmp_path, shape):
    preview(np.zeros(shape), np.ones(shape, dtype=np.uint8), AFFINE, NAMES, tmp_path / "case.png")
    assert imread(tmp_path / "case.png").shape[1] == WIDTH


def test_outline_surrounds_its_voxels_in_mm():
    label = np.zeros((6, 9), dtype=np.uint8)
    label[1:4, 2:8] = 4
    label[5, 0] = 7
    plane = Plane("axial", label.astype(np.float32), label, (3.0, 2.0), "RLAP", 0, 1)
    outlines = module._outlines(plane)
    assert sorted(outlines) == [4, 7]
    inside = [
        outlines[4].contains_point(((c + 0.5) * 2, (r + 0.5) * 3)) for r, c in np.ndindex(6, 9)
    ]
    np.testing.assert_array_equal(np.reshape(inside, (6, 9)), label == 4)
    box = outlines[7].get_extents()
    assert (box.x0 + box.x1) / 2 == pytest.approx(1.0)
    assert (box.y0 + box.y1) / 2 == pytest.approx(16.5)
    assert 0 <= box.x0 < box.x1 <= 2


def test_outline_keeps_holes():
    label = np.ones((9, 9), dtype=np.uint8)
    label[3:6, 3:6] = 0
    plane = Plane("axial", label.astype(np.float32), label, (1.0, 1.0), "RLAP", 0, 1)
    outline = module._outlines(plane)[1]
    vertices = outline.vertices
    assert np.hypot(*(vertices - 4.5).T).min() < 2, "the ring around the hole is drawn"


def test_colors_are_fixed_and_told_apart():
    assert class_color(5) == class_color(5)
    colors = np.array([class_color(i) for i in range(1, 118)])
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert colors.max(axis=1).min() > 0.8, "bright enough for a dark background"
    apart = np.abs(colors[:, None] - colors[None]).max(axis=2) + np.eye(len(colors))
    assert apart.min() > 0.01
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 0.3, "neighbouring ids"
    assert 0 < ALPHA < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.zeros((4, 4, 5), np.uint8)}, "same grid"),
        ({"image": np.zeros((1, 4, 4, 4)), "label": np.zeros((1, 4, 4, 4))}, "label map has"),
        ({"affine": np.zeros((4, 4))}, "invertible"),
        ({"affine": np.eye(3)}, "invertible"),
        ({"affine": np.full((4, 4), np.nan)}, "invertible"),
        ({"label": np.full((4, 4, 4), -1)}, "negative"),
        ({"label": np.full((4, 4, 4), 0.5)}, "not whole"),
        ({"image": np.zeros((0, 4, 4)), "label": np.zeros((0, 4, 4))}, "empty"),
    ],
)
def test_refuses_what_it_cannot_show(tmp_path, change, message):
    volume = np.zeros((4, 4, 4), dtype=np.uint8)
    good = {"image": volume, "label": volume, "affine": AFFINE, "names": NAMES}
    with pytest.raises(UserError, match=message):
        preview(**{**good, **change}, path=tmp_path / "case.png")
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_when_drawing_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(module, "_draw", fail)
    with pytest.raises(MemoryError):
        preview(*phantom(), AFFINE, NAMES, Path(tmp_path, "case.png"))
    assert not any(tmp_path.iterdir())
