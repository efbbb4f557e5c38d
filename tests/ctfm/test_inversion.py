"""Label maps come back as MONAI's `Invertd` brings them, voxel by voxel."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import (
    Compose,
    CropForegroundd,
    Flipd,
    Invertd,
    Orientationd,
    Spacingd,
    SpatialPadd,
)

from ctfm.errors import UserError
from ctfm.inversion import InvertLabelsd, NotSeparableError
from ctfm.scans import collate_scans

#: Shapes as stored, axcodes, and spacing in mm.
SCANS: dict[str, tuple[tuple[int, ...], str, tuple[float, ...]]] = {
    "axial, fine in plane": ((41, 37, 13), "LPS", (0.7, 0.7, 4.0)),
    "mirrored": ((41, 37, 13), "RAI", (0.83, 0.91, 3.1)),
    "sagittal": ((9, 33, 29), "PSR", (5.0, 1.1, 1.3)),
    "coronal": ((31, 11, 28), "SLA", (0.6, 2.7, 0.9)),
    "as the network has it": ((15, 17, 19), "SPL", (1.5, 1.5, 1.5)),
    "coarse": ((11, 9, 7), "RAS", (3.3, 4.1, 6.0)),
    "half the spacing": ((20, 21, 22), "LAS", (0.75, 0.75, 0.75)),
    "a third": ((20, 21, 22), "LAS", (0.5, 0.5, 4.5)),
    "one slice": ((23, 21, 1), "LPS", (1.1, 0.8, 5.0)),
    "one row": ((1, 21, 9), "RAS", (1.1, 0.8, 2.0)),
}


def scan(
    shape: Sequence[int], axcodes: str, spacing: Sequence[float], rotation: float = 0.0
) -> MetaTensor:
    """Noise in a box of air, anywhere, its axes turned by `rotation` in radians."""
    affine = np.eye(4)
    for axis, code in enumerate(axcodes):
        world = next(n for n, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[:3, axis] = 0
        affine[world, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    turn = np.eye(4)
    cos, sin = np.cos(rotation), np.sin(rotation)
    turn[:2, :2] = [[cos, -sin], [sin, cos]]
    affine = turn @ affine
    affine[:3, 3] = (-13.7, 21.3, 105.9)
    values = torch.zeros(1, *shape)
    inside = tuple(slice(n // 4, max(n - n // 5, n // 4 + 1)) for n in shape)
    values[(0, *inside)] = 0.1 + torch.rand(
        values[(0, *inside)].shape, generator=torch.Generator().manual_seed(0)
    )
    meta = {
        "filename_or_obj": "ct.nii.gz",
        "original_affine": affine.copy(),
        "spatial_shape": np.array(shape),
    }
    return MetaTensor(values, affine=affine, meta=meta)


def preprocessing(margin: int = 1, spacing: Sequence[float] = (1.5, 1.5, 1.5)) -> Compose:
    return Compose(
        [
            Orientationd("image", axcodes="SPL", labels=None),
            Spacingd("image", pixdim=spacing, mode="bilinear"),
            CropForegroundd("image", source_key="image", margin=margin, allow_smaller=True),
        ]
    )


def labelled(image: MetaTensor, dtype: torch.dtype = torch.uint8, classes: int = 118) -> MetaTensor:
    """A label map on the image's grid, all noise: each voxel that is taken can be told."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(1, classes, image.shape, generator=generator).to(dtype)
    return MetaTensor(values, meta={**image.meta, "affine": image.affine.clone()})


def by_monai(data: dict[str, Any], transform: Compose, nearest: bool = True) -> MetaTensor:
    invert = Invertd("pred", transform, orig_keys="image", nearest_interp=nearest)
    return invert(dict(data))["pred"]


class TestNearest:
    @pytest.mark.parametrize("name", SCANS)
    @pytest.mark.parametrize("margin", [0, 2, 100])
    @pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (3.0, 0.8, 1.1)])
    def test_each_voxel_is_that_of_monai(
        self, name: str, margin: int, spacing: tuple[float, ...]
    ) -> None:
        image, transform = scan(*SCANS[name]), preprocessing(margin, spacing)
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        expected = by_monai(data, transform)
        found = InvertLabelsd("pred")(data)["pred"]
        assert found.shape == image.shape
        assert found.dtype == torch.uint8
        np.testing.assert_array_equal(found.affine, image.affine)
        assert torch.equal(found.as_tensor(), expected.as_tensor().to(torch.uint8))
        assert (found > 0).any()

    @pytest.mark.parametrize("name", ["axial, fine in plane", "coarse", "sagittal"])
    def test_oblique_scans(self, name: str) -> None:
        """Axes stay parallel to each other. The header is float32, as NIfTI has it."""
        image, transform = scan(*SCANS[name], rotation=0.21), preprocessing()
        image.affine = image.affine.float().double()
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        found = InvertLabelsd("pred")(data)["pred"]
        assert torch.equal(found.as_tensor(), by_monai(data, transform).as_tensor().byte())
        np.testing.assert_array_equal(found.affine, image.affine)

    def test_an_oblique_scan_with_places_half_way(self) -> None:
        """MONAI takes one voxel or the other as its rounding goes; here, one of them all along."""
        image, transform = scan((20, 21, 22), "LAS", (0.75, 0.75, 2.0), 0.3), preprocessing(100)
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        found = InvertLabelsd("pred")(data)["pred"].as_tensor()
        other = (found != by_monai(data, transform).as_tensor())[0].nonzero().numpy()
        assert 0 < len(other) < 0.1 * found.numel()
        xform = np.linalg.solve(data["image"].affine.numpy(), image.affine.numpy())
        places = other @ xform[:3, :3].T + xform[:3, 3]
        assert (np.abs(places % 1 - 0.5).min(axis=1) < 1e-9).all()

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
    def test_type_and_metadata_stay(self, dtype: torch.dtype) -> None:
        image, transform = scan(*SCANS["mirrored"]), preprocessing()
        data = transform({"image": image})
        data["pred"] = labelled(data["image"], dtype, classes=118 if dtype == torch.uint8 else 999)
        data["pred"].meta["confidence"] = 0.7
        before = data["pred"].clone()
        found = InvertLabelsd("pred")(data)["pred"]
        assert found.dtype == dtype
        assert torch.equal(found.as_tensor(), by_monai(data, transform).as_tensor().to(dtype))
        assert found.meta["confidence"] == 0.7
        assert found.meta["filename_or_obj"] == "ct.nii.gz"
        assert found.applied_operations == []
        assert torch.equal(data["pred"].as_tensor(), before.as_tensor())
        assert len(data["image"].applied_operations) == 3

    @pytest.mark.parametrize("done", [0, 1, 2, 3])
    def test_what_remains_is_inverted(self, done: int) -> None:
        """A label map may lie on any of the grids that the image had."""
        image = scan(*SCANS["axial, fine in plane"])
        steps = preprocessing().transforms
        data = Compose(steps)({"image": image})
        partly = Compose(steps[:done])({"image": image})
        data["pred"] = labelled(partly["image"])
        found = InvertLabelsd("pred")(data)["pred"].as_tensor()
        partly["pred"] = data["pred"]
        expected = by_monai(partly, Compose(steps[:done])) if done else data["pred"]
        assert torch.equal(found, expected.as_tensor().byte())

    def test_pads_and_crops_in_any_place(self) -> None:
        image = scan(*SCANS["mirrored"])
        transform = Compose(
            [
                SpatialPadd("image", (50, 40, 20)),
                CropForegroundd("image", source_key="image", margin=30, allow_smaller=False),
                Spacingd("image", pixdim=(1.7, 1.3, 2.2)),
                Orientationd("image", axcodes="ASR", labels=None),
                CropForegroundd("image", source_key="image", k_divisible=16, allow_smaller=False),
            ]
        )
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        found = InvertLabelsd("pred")(data)["pred"]
        assert torch.equal(found.as_tensor(), by_monai(data, transform).as_tensor().byte())
        assert np.allclose(found.affine, image.affine)

    def test_sheared_scans_are_inverted_by_monai(self) -> None:
        image, transform = scan(*SCANS["axial, fine in plane"]), preprocessing()
        image.affine[1, 2] = 0.9  # a tilted gantry
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        found = InvertLabelsd("pred", transform=transform)(data)["pred"]
        assert found.dtype == torch.uint8
        assert torch.equal(found.as_tensor(), by_monai(data, transform).as_tensor().byte())
        with pytest.raises(NotSeparableError, match="tilted gantry"):
            InvertLabelsd("pred")(data)

    def test_unknown_transforms_are_left_to_monai(self) -> None:
        image = scan(*SCANS["mirrored"])
        transform = Compose([Flipd("image", 0), *preprocessing().transforms])
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        found = InvertLabelsd("pred", transform=transform)(data)["pred"]
        assert torch.equal(found.as_tensor(), by_monai(data, transform).as_tensor().byte())
        with pytest.raises(UserError, match="what Flip did to the image"):
            InvertLabelsd("pred")(data)

    def test_label_maps_of_other_grids_are_refused(self) -> None:
        image, transform = scan(*SCANS["mirrored"]), preprocessing()
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        data["pred"].affine[0, 3] += 2.0
        with pytest.raises(UserError, match="lies on no grid that its image had"):
            InvertLabelsd("pred")(data)
        data["pred"] = data["pred"].as_tensor()
        with pytest.raises(UserError, match="pred is Tensor"):
            InvertLabelsd("pred")(data)

    def test_several_label_maps(self) -> None:
        transform = preprocessing()
        data = transform({"image": scan(*SCANS["coarse"])})
        data["one"], data["two"] = labelled(data["image"]), labelled(data["image"])
        invert = pickle.loads(pickle.dumps(InvertLabelsd(["one", "two"])))
        found = invert(data)
        assert torch.equal(found["one"].as_tensor(), found["two"].as_tensor())
        assert found["one"].shape == (1, *SCANS["coarse"][0])

    def test_a_batch_of_one_as_evaluators_hand_it_on(self) -> None:
        image, transform = scan(*SCANS["sagittal"]), preprocessing()
        data = transform({"image": image})
        expected = by_monai({**data, "pred": labelled(data["image"])}, transform)
        batch = collate_scans([data])
        result = MetaTensor(labelled(data["image"]).as_tensor()[None])
        result.copy_meta_from(batch["image"])
        (row,) = decollate_batch({"image": batch["image"], "pred": result})
        found = InvertLabelsd("pred")(row)["pred"]
        assert torch.equal(found.as_tensor(), expected.as_tensor().byte())
