"""The volume that triage sees is MONAI's, value by value; what is no plain head is noted."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    Spacingd,
)
from scipy import ndimage

from ctfm.base.errors import UserError
from ctfm.phantoms.drawing import Phantom, draw_head, draw_torso, save_phantom, write_volume
from ctfm.triage.head_checks import MASKED
from ctfm.triage.head_scans import WARNINGS, LoadHeadd, head_volume

SPACING, PATCH = (5.0, 2.0, 2.0), (48, 128, 128)


def published(patch: tuple[int, ...] = PATCH) -> Compose:
    """The chain as MONAI's transforms, one after the other."""
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="SPL", labels=None),
            Spacingd("image", pixdim=SPACING, mode="bilinear"),
            CropForegroundd("image", source_key="image", allow_smaller=True),
            ResizeWithPadOrCropd("image", patch, mode="minimum"),
        ]
    )


def warnings_of(image: np.ndarray, affine: np.ndarray, folder: Path) -> str:
    write_volume(image.astype(np.int16), affine, folder / "head.nii.gz")
    found = head_volume(
        str(folder / "head.nii.gz"), SPACING, PATCH, input_check="off", head_check=True
    )[1]
    return " | ".join(found)


@pytest.fixture(scope="module")
def plain() -> Phantom:
    return draw_head(0, (2.0, 2.0, 3.0), bleed=True)


@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "SAL"])
@pytest.mark.parametrize("patch", [PATCH, (32, 64, 160)])
def test_same_as_the_published_chain(
    axcodes: str, patch: tuple[int, int, int], tmp_path: Path
) -> None:
    """Whether the patch is cut out of the head, or padded around it."""
    path = str(tmp_path / "head.nii.gz")
    save_phantom(draw_head(1, (3.1, 2.7, 3.3), axcodes), path)
    expected = published(patch)({"image": path})["image"]
    found, _ = head_volume(path, SPACING, patch)
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=0, atol=2e-3)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)
    assert found.meta["filename_or_obj"] == path


def test_tilted_grid_keeps_its_first_voxel(tmp_path: Path) -> None:
    """MONAI's `Spacing` moves the grid of a tilted scan by a part of a voxel; this one does not."""
    phantom = draw_head(0, (3.0, 3.0, 4.0), oblique_degrees=12)
    save_phantom(phantom, tmp_path / "head.nii.gz")
    found, _ = head_volume(str(tmp_path / "head.nii.gz"), SPACING, PATCH)
    voxels = np.array([[24, 64, 64, 1], [20, 50, 70, 1]])
    world = voxels @ np.asarray(found.affine).T
    places = world @ np.linalg.inv(phantom.affine).T
    expected = ndimage.map_coordinates(phantom.image.astype(float), places[:, :3].T, order=1)
    np.testing.assert_allclose([found[0][tuple(v[:3])] for v in voxels], expected, atol=0.5)


def test_every_way_of_storing_gives_the_same(plain: Phantom, tmp_path: Path) -> None:
    """Integers, scaled integers, floats; compressed, in members, or not at all."""
    reference = None
    stored = {
        "plain.nii": (plain.image, 1.0, 0.0),
        "gz.nii.gz": (plain.image, 1.0, 0.0),
        "scaled.nii.gz": ((plain.image + 1024).astype(np.uint16), 1.0, -1024.0),
        "float.nii": (plain.image.astype(np.float64), 1.0, 0.0),
    }
    for name, (array, slope, intercept) in stored.items():
        image = nib.Nifti1Image(array, plain.affine)
        image.header.set_slope_inter(slope, intercept)
        image.set_sform(plain.affine, 1)
        nib.save(image, tmp_path / name)
    raw = (tmp_path / "plain.nii").read_bytes()
    half = len(raw) // 2
    members = gzip.compress(raw[:half]) + gzip.compress(raw[half:])
    (tmp_path / "members.nii.gz").write_bytes(members)
    for name in (*stored, "members.nii.gz"):
        found = head_volume(str(tmp_path / name), SPACING, PATCH)[0].as_tensor()
        reference = found if reference is None else reference
        torch.testing.assert_close(found, reference, rtol=0, atol=1e-3)


def test_refuses_what_cannot_be_read(tmp_path: Path, plain: Phantom) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    for name, said in (("missing.nii.gz", "no such file"), ("broken.nii.gz", "cannot be read")):
        with pytest.raises(UserError, match=said):
            head_volume(str(tmp_path / name), SPACING, PATCH)
    for name, array, said in (
        ("slice.nii.gz", plain.image[:, :, :1], "only 1 slices"),
        ("air.nii.gz", np.full((40, 40, 40), -1000, np.int16), "is constant|nothing lies above"),
        ("nan.nii.gz", np.full((40, 40, 40), np.nan, np.float32), "NaN"),
        ("mask.nii.gz", (plain.image > 0).astype(np.int16), "label map or mask"),
    ):
        write_volume(array, plain.affine, tmp_path / name)
        with pytest.raises(UserError, match=said):
            head_volume(str(tmp_path / name), SPACING, PATCH)
    with pytest.raises(UserError, match="choose error, warn or off"):
        LoadHeadd("image", SPACING, PATCH, input_check="maybe")


def test_transform_notes_warnings_and_can_be_pickled(tmp_path: Path) -> None:
    phantom = draw_torso(0, (6.0, 6.0, 6.0))
    save_phantom(phantom, tmp_path / "torso.nii.gz")
    load = pickle.loads(pickle.dumps(LoadHeadd("image", SPACING, PATCH, head_check=True)))
    found = load({"image": str(tmp_path / "torso.nii.gz")})
    (warning,) = found[WARNINGS].texts
    assert "a body rather than a head" in warning
    assert found["image"].shape == (1, *PATCH)


class TestHeadChecks:
    def test_plain_heads_pass(self, tmp_path: Path) -> None:
        """With and without a bleed, in thick slices and thin ones, tilted, and noisy as usual."""
        for seed, spacing, more in (
            (0, (2.0, 2.0, 3.0), {"bleed": True}),
            (1, (2.0, 2.0, 5.0), {}),
            (2, (2.0, 2.0, 2.0), {"oblique_degrees": 15.0, "noise_hu": 10.0}),
        ):
            phantom = draw_head(seed, spacing, **more)  # type: ignore[arg-type]
            assert warnings_of(phantom.image, phantom.affine, tmp_path) == ""

    def test_masked_background(self, plain: Phantom, tmp_path: Path) -> None:
        masked = np.where(plain.image < -200, 0, plain.image)
        assert MASKED in warnings_of(masked, plain.affine, tmp_path)

    @pytest.mark.parametrize(
        ("low", "high", "said"),
        [
            (0.55, 1.0, "the skull base is missing"),
            (0.0, 0.75, "ends below the vertex"),
            (0.0, 0.4, "no head, or only a part of one"),
            (0.5, 0.62, "axial slices"),
        ],
    )
    def test_part_of_a_head(
        self, low: float, high: float, said: str, plain: Phantom, tmp_path: Path
    ) -> None:
        count = plain.image.shape[2]
        inside = slice(int(low * count), int(high * count))
        affine = plain.affine.copy()
        affine[:3, 3] += affine[:3, 2] * inside.start
        assert said in warnings_of(plain.image[:, :, inside], affine, tmp_path)

    def test_bone_kernel(self, plain: Phantom, tmp_path: Path) -> None:
        """Sharpened as bone kernels do: edges overshoot, and noise grows."""
        values = plain.image.astype(float)
        sharp = values + 6 * (values - ndimage.gaussian_filter(values, (1, 1, 0)))
        assert "bone kernel" in warnings_of(sharp, plain.affine, tmp_path)

    def test_contrast_medium(self, plain: Phantom, tmp_path: Path) -> None:
        enhanced = np.where(plain.label == 90, plain.image + 90, plain.image)
        assert "contrast medium" in warnings_of(enhanced, plain.affine, tmp_path)

    def test_body(self, tmp_path: Path) -> None:
        phantom = draw_torso(0, (5.0, 5.0, 5.0))
        assert "a body rather" in warnings_of(phantom.image, phantom.affine, tmp_path)

    def test_real_scans_that_are_no_plain_head(self, real_data: Path) -> None:
        for name, said in (
            ("ct_head_angio.nii.gz", "background was masked"),
            ("ct_torso_3mm.nii.gz", "a body rather than a head"),
            ("ct_abdomen_3mm.nii.gz", "a body rather than a head"),
        ):
            path = str(real_data / name)
            found = head_volume(path, SPACING, PATCH, input_check="warn", head_check=True)[1]
            assert said in " | ".join(found)
