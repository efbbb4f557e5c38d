"""A scan comes out the same however it is stored, and each voxel where it was."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from ctfm.base.errors import UserError
from ctfm.loading.store.conversion import POSITIONS_PER_CLASS, Volume, convert_scan
from ctfm.loading.store.recipe import RECIPES, store_recipe
from support import save

#: A scan in RAS: shape (L-R, P-A, I-S), voxels of 1.2 x 0.9 x 2.5 mm, somewhere in the room.
AFFINE = np.array([[1.2, 0, 0, -40], [0, 0.9, 0, 17], [0, 0, 2.5, -900], [0, 0, 0, 1.0]])
WHOLE_BODY = store_recipe("whole_body", (2.0, 1.0, 1.0))


def scan(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A lopsided body in air, and its labels."""
    rng = np.random.default_rng(seed)
    hu = np.full((26, 31, 14), -1024, np.int16)
    hu[4:21, 3:25, 2:12] = rng.integers(-100, 900, (17, 22, 10))
    label = np.zeros(hu.shape, np.uint8)
    label[5:9, 4:20, 3:6], label[12:18, 5:9, 7:11], label[20, 24, 11] = 1, 52, 117
    return hu, label


def stored_as(array: np.ndarray, axcodes: str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.Nifti1Image(array, AFFINE)
    change = ornt_transform(io_orientation(AFFINE), axcodes2ornt(axcodes))
    turned = image.as_reoriented(change)
    return np.asarray(turned.dataobj), turned.affine


def convert_array(
    folder: Path,
    hu: np.ndarray,
    label: np.ndarray | None = None,
    affine: np.ndarray = AFFINE,
    made_by: object = WHOLE_BODY,
) -> Volume:
    image = save(hu, folder / "ct.nii.gz", affine)
    labels = None if label is None else str(save(label, folder / "labels.nii.gz", affine))
    return convert_scan(str(image), labels, made_by)


def oblique(degrees: float = 12) -> np.ndarray:
    """A rotation about an axis that is none of the scanner's, as a gantry's tilt is not."""
    axis, angle = np.array([1.0, 2.0, 0.5]), np.deg2rad(degrees)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(4)
    turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


class TestAxes:
    @pytest.mark.parametrize("axcodes", ["LPS", "SPL", "PIR", "ILA"])
    def test_storage_does_not_matter(self, axcodes: str, tmp_path: Path) -> None:
        hu, label = scan()
        first = convert_array(tmp_path / "a", hu, label)
        turned, affine = stored_as(hu, axcodes)
        second = convert_array(tmp_path / "b", turned, stored_as(label, axcodes)[0], affine)
        assert_alike(first, second)
        np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)

    def test_oblique_is_taken_by_its_nearest_axes(self, tmp_path: Path) -> None:
        """Not rotated: a rotation would blur, and CT-FM was trained without one."""
        hu, label = scan()
        first = convert_array(tmp_path / "a", hu, label)
        turned = convert_array(tmp_path / "b", hu, label, oblique() @ AFFINE)
        assert_alike(first, turned)
        np.testing.assert_allclose(turned.affine, oblique() @ first.affine, atol=1e-4)

    def test_axes_and_spacing_are_the_recipe_s(self, tmp_path: Path) -> None:
        volume = convert_array(tmp_path, scan()[0])
        assert nib.aff2axcodes(volume.affine) == tuple("SPL")
        np.testing.assert_allclose(
            np.linalg.norm(volume.affine[:3, :3], axis=0), (2.0, 1.0, 1.0), atol=1e-5
        )

    @pytest.mark.parametrize("affine", [AFFINE, oblique(17) @ AFFINE])
    @pytest.mark.parametrize("spacing", [(1.25, 0.45, 0.6), (2.5, 0.9, 1.2), (5.0, 0.9, 2.4)])
    def test_a_marked_voxel_stays_where_it_was(
        self, spacing: tuple[float, ...], affine: np.ndarray, tmp_path: Path
    ) -> None:
        """Spacings at which every second voxel or every voxel is hit exactly."""
        hu, label = scan()
        marked = (9, 14, 7)  # counted from the far ends in SPL
        hu[hu > -1024] = -100
        hu[marked] = 2000
        label[:], label[marked] = 0, 117
        volume = convert_array(tmp_path, hu, label, affine, store_recipe("whole_body", spacing))
        where = volume.affine @ [*np.unravel_index(volume.image.argmax(), volume.image.shape), 1]
        place = affine @ [*marked, 1]
        coarser = np.array(spacing) > (2.5, 0.9, 1.2)
        reach = np.linalg.norm(coarser * spacing) / 2
        assert np.linalg.norm(where - place) <= reach + 1e-3
        shown = np.argwhere(volume.label == 117)
        if len(shown):
            center = volume.affine @ [*shown.mean(0), 1]
            assert np.linalg.norm(center - place) <= np.linalg.norm(spacing) / 2 + 1e-3

    def test_where_it_refines_it_is_monai(self, tmp_path: Path) -> None:
        hu, label = scan()
        fine = (1.7, 0.8, 1.13)  # no place lies midway between two voxels
        volume = convert_array(tmp_path, hu, label, made_by=store_recipe("whole_body", fine))
        spacing = {"padding_mode": "border", "dtype": np.float64}
        for array, mode, found, tolerance in (
            (hu, "bilinear", volume.image, 1),
            (label, "nearest", volume.label, 0),
        ):
            image = MetaTensor(torch.from_numpy(array[None].astype(np.float64)), affine=AFFINE)
            image = Spacing(fine, mode=mode, **spacing)(Orientation("SPL", labels=None)(image))
            inside = tuple(slice(a, b) for a, b in zip(*volume.box, strict=True))
            np.testing.assert_allclose(image.numpy()[0][inside], found, atol=tolerance)


def assert_alike(first: Volume, second: Volume) -> None:
    """Up to 1 HU: a header's float32 decides at halves."""
    assert first.box == second.box
    assert np.abs(first.image.astype(int) - second.image).max() <= 1
    np.testing.assert_array_equal(first.label, second.label)
    assert first.positions.keys() == second.positions.keys()


class TestForeground:
    @pytest.mark.parametrize(
        ("task", "air", "body"),
        [
            ("pretraining", -1024, 1),  # above 0 HU
            ("pretraining", 0, 1),
            ("whole_body", -1024, -1023),  # above the window's lower end, 10 voxels around it
            ("head_ct_triage", -1024, 1),
            ("head_ct_triage", 0, 1),
        ],
    )
    def test_box(self, task: str, air: int, body: int, tmp_path: Path) -> None:
        made_by = RECIPES[task]
        affine = np.diag([*made_by.spacing[::-1], 1.0])  # RAS at the recipe's own spacing
        hu = np.full((40, 36, 30), air, np.int16)
        hu[13:20, 15:27, 11:17] = body
        hu[13, 15, 11] = -1024  # within the box: no part of the decision
        path = save(hu, tmp_path / "ct.nii.gz", affine)
        volume = convert_scan(str(path), None, made_by, input_check="off")
        margin = 10 if task == "whole_body" else 0
        # SPL: superior as stored, the other two counted from the other end
        start = (11 - margin, 36 - 27 - margin, 40 - 20 - margin)
        stop = (17 + margin, 36 - 15 + margin, 40 - 13 + margin)
        start = tuple(max(0, n) for n in start)
        stop = tuple(min(n, a) for n, a in zip((30, 36, 40), stop, strict=True))
        assert volume.box == (start, stop)
        assert volume.image.shape == tuple(b - a for a, b in zip(start, stop, strict=True))

    def test_margin_ends_with_the_scan(self, tmp_path: Path) -> None:
        hu, _ = scan()
        hu[0, 0, 0] = 50
        volume = convert_array(tmp_path, hu)
        assert volume.box[0][0] == 0
        assert volume.image.shape == tuple(np.subtract(volume.box[1], volume.box[0]))

    def test_no_body(self, tmp_path: Path) -> None:
        """A scan of air alone, with an 8-bit rest of noise below 0 HU."""
        hu = np.full((10, 10, 10), -1000, np.int16)
        hu[5] = -900
        with pytest.raises(UserError, match="nothing lies above 0 HU"):
            convert_array(tmp_path, hu, made_by=RECIPES["pretraining"])


class TestValues:
    def test_window_and_type(self, tmp_path: Path) -> None:
        hu, _ = scan()
        hu[5, 5, 5:7], hu[6, 6, 6] = 30000, -8000
        volume = convert_array(tmp_path, hu, affine=np.diag([1.0, 1.0, 2.0, 1.0]))
        assert volume.image.dtype == np.int16
        assert (volume.image.min(), volume.image.max()) == (-1024, 2048)

    def test_four_windows_of_the_head_are_within_reach(self) -> None:
        assert RECIPES["head_ct_triage"].hu_window == (-900, 2100)

    def test_float_hu_are_rounded(self, tmp_path: Path) -> None:
        hu, _ = scan()
        volume = convert_array(
            tmp_path, (hu + 0.4).astype(np.float32), affine=np.diag([1.0, 1.0, 2.0, 1.0])
        )
        whole = convert_array(tmp_path / "b", hu, affine=np.diag([1.0, 1.0, 2.0, 1.0]))
        np.testing.assert_array_equal(volume.image, whole.image)

    def test_statistics(self, tmp_path: Path) -> None:
        volume = convert_array(tmp_path, scan()[0])
        assert volume.hu["mean"] == pytest.approx(volume.image.mean(), abs=0.01)
        assert volume.hu["std"] == pytest.approx(volume.image.std(), abs=0.01)
        assert volume.hu["p50"] == np.median(volume.image)
        assert volume.hu["p00_5"] <= volume.hu["p50"] <= volume.hu["p99_5"]

    def test_smallest_scan(self, tmp_path: Path) -> None:
        """Eight slices along each axis, 8 cm at 50 mm: one voxel is left of some axes."""
        hu = np.full((8, 8, 8), -1000, np.int16)
        hu[1:6, 1:6, 1:6] = 400
        label = (hu > 0).astype(np.uint8)
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        volume = convert_array(
            tmp_path, hu, label, affine, store_recipe("pretraining", (2.0, 2.0, 2.0))
        )
        assert volume.image.shape == volume.label.shape
        with pytest.raises(UserError, match="nothing lies above"):
            convert_array(tmp_path, hu, label, affine, store_recipe("pretraining", (50.0,) * 3))
        volume = convert_array(tmp_path, hu, label, affine, store_recipe("whole_body", (50.0,) * 3))
        assert volume.image.shape == (1, 1, 1)


class TestLabels:
    def test_in_step_with_the_image(self, tmp_path: Path) -> None:
        """Each class marked by its own HU; nearest and linear agree inside."""
        hu, label = scan()
        hu[label > 0] = 1000 + label[label > 0].astype(np.int16)
        volume = convert_array(
            tmp_path, hu, label, made_by=store_recipe("whole_body", (2.5, 0.9, 1.2))
        )
        assert volume.label.shape == volume.image.shape
        assert volume.label.dtype == np.uint8
        np.testing.assert_array_equal(volume.label > 0, volume.image > 1000)
        shown = volume.label > 0
        np.testing.assert_array_equal(volume.image[shown] - 1000, volume.label[shown])

    def test_positions(self, tmp_path: Path) -> None:
        hu, label = scan()
        label[10:20, 4:22, 3:11] = 7  # 1440 voxels
        volume = convert_array(tmp_path, hu, label, affine=np.diag([1.0, 1.0, 2.0, 1.0]))
        flat = volume.label.reshape(-1)
        assert set(volume.positions) == {1, 7, 117}
        for i, at in volume.positions.items():
            assert at.dtype == np.int32
            assert len(np.unique(at)) == len(at) == min((flat == i).sum(), POSITIONS_PER_CLASS)
            assert (flat[at] == i).all()

    def test_ids_above_255(self, tmp_path: Path) -> None:
        hu, label = scan()
        label = label.astype(np.uint16)
        label[label == 117], label[13, 6, 8] = 40000, 300
        volume = convert_array(tmp_path, hu, label, affine=np.diag([1.0, 1.0, 2.0, 1.0]))
        assert volume.label.dtype == np.uint16
        assert set(volume.positions) == {1, 52, 300, 40000}

    def test_background_alone(self, tmp_path: Path) -> None:
        hu, label = scan()
        volume = convert_array(tmp_path, hu, label * 0)
        assert volume.positions == {}
        assert not volume.label.any()

    def test_whole_numbers_stored_as_floats(self, tmp_path: Path) -> None:
        hu, label = scan()
        first = convert_array(tmp_path / "a", hu, label.astype(np.float32))
        np.testing.assert_array_equal(first.label, convert_array(tmp_path / "b", hu, label).label)

    @pytest.mark.parametrize("shift", [0.2, 1.0])
    def test_affine_that_headers_round(self, shift: float, tmp_path: Path) -> None:
        hu, label = scan()
        image = save(hu, tmp_path / "ct.nii.gz", AFFINE)
        moved = AFFINE.copy()
        moved[0, 3] += shift
        labels = save(label, tmp_path / "labels.nii.gz", moved)
        if shift < 0.5:
            convert_scan(str(image), str(labels), WHOLE_BODY)
        else:
            with pytest.raises(UserError, match=r"labels.nii.gz: its voxels lie up to 1 mm from"):
                convert_scan(str(image), str(labels), WHOLE_BODY)

    def test_spacing_that_adds_up(self, tmp_path: Path) -> None:
        """0.08 mm a voxel is little; at the far corner it is 2.4 mm."""
        hu, label = scan()
        image = save(hu, tmp_path / "ct.nii.gz", AFFINE)
        labels = save(label, tmp_path / "labels.nii.gz", AFFINE + np.diag([0, 0.08, 0, 0]))
        with pytest.raises(UserError, match=r"its voxels lie up to 2\.4 mm from"):
            convert_scan(str(image), str(labels), WHOLE_BODY)


class TestRefused:
    def labels(self, folder: Path, label: np.ndarray, affine: np.ndarray = AFFINE) -> str:
        image = str(save(scan()[0], folder / "ct.nii.gz", AFFINE))
        with pytest.raises(UserError) as caught:
            convert_scan(image, str(save(label, folder / "labels.nii.gz", affine)), WHOLE_BODY)
        return str(caught.value)

    def test_label_on_another_grid(self, tmp_path: Path) -> None:
        label = scan()[1]
        assert "26, 31, 13" in self.labels(tmp_path, label[..., :-1])
        assert "mm from" in self.labels(tmp_path, label, AFFINE @ np.diag([-1, 1, 1, 1]))

    def test_label_with_channels(self, tmp_path: Path) -> None:
        """One channel a class: the first would be taken for all."""
        label = scan()[1]
        message = self.labels(tmp_path, np.stack([label, label > 1, label > 2], axis=-1))
        assert "(3, 26, 31, 14)" in message

    @pytest.mark.parametrize("value", [0.5, -1, 70000, np.nan])
    def test_label_that_is_none(self, value: float, tmp_path: Path) -> None:
        label = scan()[1].astype(np.float32)
        label[3, 3, 3] = value
        assert "not class ids" in self.labels(tmp_path, label)

    def test_not_a_ct(self, tmp_path: Path) -> None:
        hu = np.random.default_rng(0).integers(0, 255, (20, 20, 20)).astype(np.uint8)
        with pytest.raises(UserError, match="8-bit picture"):
            convert_array(tmp_path, hu)

    def test_four_dimensions_and_slices(self, tmp_path: Path) -> None:
        hu, _ = scan()
        with pytest.raises(UserError, match="channels or time points"):
            convert_array(tmp_path, np.stack([hu, hu], axis=-1))
        with pytest.raises(UserError, match="slices along one axis"):
            convert_array(tmp_path, hu[..., :5])

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file"):
            convert_scan(str(tmp_path / "ct.nii.gz"), None, WHOLE_BODY)
        image = save(scan()[0], tmp_path / "ct.nii.gz", AFFINE)
        with pytest.raises(UserError, match=r"labels.nii.gz: no such file"):
            convert_scan(str(image), str(tmp_path / "labels.nii.gz"), WHOLE_BODY)

    def test_task_and_spacing(self) -> None:
        with pytest.raises(UserError, match="no task is called 'liver': choose one of pretrain"):
            store_recipe("liver")
        for bad in ((1, 1), 3, "abc", (1, float("nan"), 1), (0, 1, 1), (1, -1, 1), (1, 1, 1e999)):
            with pytest.raises(UserError, match="give three sizes in mm"):
                store_recipe("whole_body", bad)


def test_digest_of_a_recipe_tells_its_values() -> None:
    assert store_recipe("whole_body").digest == store_recipe("whole_body", [1.5, 1.5, 1.5]).digest
    digests = {store_recipe(task).digest for task in RECIPES} | {WHOLE_BODY.digest}
    assert len(digests) == len(RECIPES) + 1
