"""Planes are chosen well and stand the right way up, whatever the order of the stored axes."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from nibabel.orientations import apply_orientation, inv_ornt_aff

from ctfm.pictures.planes import Plane, best_slices, extract_planes

SPACING = (1.0, 2.0, 5.0)
SHAPE = (12, 10, 8)
ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]


def phantom() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right-anterior-superior axes; class 1 lies right, 2 anterior, 3 superior of the middle."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[9:11, 4:6, 3:5] = 1
    label[5:7, 8:10, 3:5] = 2
    label[5:7, 4:6, 6:8] = 3
    image = np.arange(label.size, dtype=np.int16).reshape(SHAPE)
    return image, label, from_matvec(np.diag(SPACING), (-5, 3, 11))


def centre(plane: Plane, class_id: int) -> tuple[float, float]:
    """Row and column of a class in a plane, as shares of its height and width."""
    row, column = (np.argwhere(plane.label == class_id) + 0.5).mean(axis=0) / plane.label.shape
    return float(row), float(column)


def test_radiological_convention():
    axial, coronal, sagittal = extract_planes(*phantom())
    for plane in (axial, coronal):
        row, column = centre(plane, 1)
        assert (plane.marks[:2], column < 0.4) == ("RL", True), "the right is shown on the left"
        assert 0.3 < row < 0.7
    assert (axial.marks[2:], centre(axial, 2)[0] < 0.3) == ("AP", True)
    assert (sagittal.marks[:2], centre(sagittal, 2)[1] < 0.3) == ("AP", True)
    for plane in (coronal, sagittal):
        assert (plane.marks[2:], centre(plane, 3)[0] < 0.3) == ("SI", True)


def test_size_is_in_mm_and_slices_are_counted_from_left_posterior_inferior():
    planes = {plane.name: plane for plane in extract_planes(*phantom())}
    assert {name: plane.size_mm for name, plane in planes.items()} == {
        "axial": (20.0, 12.0),
        "coronal": (40.0, 12.0),
        "sagittal": (40.0, 20.0),
    }
    assert {name: plane.count for name, plane in planes.items()} == {
        "axial": 8,
        "coronal": 10,
        "sagittal": 12,
    }
    image, label, _ = phantom()
    axial = planes["axial"]
    assert axial.index in (3, 4)
    np.testing.assert_array_equal(axial.image, image[::-1, ::-1, axial.index].T)
    np.testing.assert_array_equal(axial.label, label[::-1, ::-1, axial.index].T)
    assert axial.image.dtype == np.float32


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_stored_order_of_axes_does_not_matter(orientation):
    image, label, affine = phantom()
    stored = [apply_orientation(array, orientation) for array in (image, label)]
    stored_affine = affine @ inv_ornt_aff(orientation, SHAPE)
    for expected, found in zip(
        extract_planes(image, label, affine), extract_planes(*stored, stored_affine), strict=True
    ):
        assert (found.name, found.marks, found.index) == (
            expected.name,
            expected.marks,
            expected.index,
        )
        assert found.pixel_mm == pytest.approx(expected.pixel_mm)
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.label, expected.label)


def test_oblique_volume_is_shown_along_its_own_axes():
    image, label, affine = phantom()
    tilted = from_matvec(euler2mat(0.1, 0.2, 0.3) @ affine[:3, :3], affine[:3, 3])
    for expected, found in zip(
        extract_planes(image, label, affine), extract_planes(image, label, tilted), strict=True
    ):
        assert found.pixel_mm == pytest.approx(expected.pixel_mm)
        np.testing.assert_array_equal(found.label, expected.label)


def test_slices_show_a_class_where_it_is_largest():
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[4:15, 9, 9] = 1
    label[6, 7:12, 7:12] = 1
    assert best_slices(label)[0] == 6


def test_many_classes_outweigh_one_large_one():
    label = np.zeros((20, 30, 30), dtype=np.uint8)
    label[2:8] = 1
    for class_id in range(2, 6):
        label[15, class_id, 3:6] = class_id
    assert best_slices(label)[0] == 15


def test_slices_go_through_a_lesion_smaller_than_a_step_of_the_search():
    label = np.zeros((400, 400, 2), dtype=np.uint8)
    label[301, 77, 1] = 1
    assert best_slices(label) == (301, 77, 1)


def test_slices_of_two_distant_lesions_go_through_one():
    label = np.zeros((300, 8, 8), dtype=np.uint8)
    label[10:14, 2:4, 2:4] = label[250:254, 5:7, 5:7] = 1
    for axis, index in enumerate(best_slices(label)):
        assert label.take(index, axis=axis).any()


def test_slices_without_labels_are_the_middle_ones():
    assert best_slices(np.zeros((11, 20, 301), dtype=np.uint8)) == (5, 10, 150)
