"""Label maps come back as MONAI's `Invertd` brings them, voxel by voxel."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Compose,
    CropForegroundd,
    Flipd,
    Invertd,
    Orientationd,
    Spacingd,
    SpatialPadd,
)
from torch import nn

from ctfm.base.errors import UserError
from ctfm.imaging.scans import collate_scans
from ctfm.inference.inferers.label_map import LabelMapInferer
from ctfm.inference.inferers.network_probe import Probe
from ctfm.inference.inferers.planner import affordable, plan_memory
from ctfm.inference.inferers.slabs import SlabSettings
from ctfm.inference.inferers.windows import WindowLayout
from ctfm.inference.inversion.history import NotSeparableError
from ctfm.inference.inversion.labels import InvertLabelsd

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

    def test_a_crop_that_leaves_nothing(self) -> None:
        """MONAI does so where no voxel is foreground."""
        image, transform = scan(*SCANS["mirrored"]) * 0, preprocessing(0)
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        assert data["pred"].numel() == 0
        found = InvertLabelsd("pred")(data)["pred"]
        assert found.shape == image.shape
        assert not found.any()

    @pytest.mark.parametrize(
        "options",
        [
            {"dtype": torch.float32},
            {"align_corners": True},
            {"align_corners": True, "scale_extent": True},
        ],
    )
    def test_options_of_spacing(self, options: dict[str, Any]) -> None:
        image = scan((20, 21, 22), "LAS", (0.75, 0.5, 2.0))
        steps = [Spacingd("image", pixdim=(1.5, 1.5, 1.5), mode="bilinear", **options)]
        transform = Compose([*steps, preprocessing().transforms[2]])
        data = transform({"image": image})
        data["pred"] = labelled(data["image"])
        found = InvertLabelsd("pred")(data)["pred"].as_tensor()
        assert torch.equal(found, by_monai(data, transform).as_tensor().byte())

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


def network(classes: int, smooth: int = 3) -> nn.Module:
    """Logits of random, smooth patterns, with a last 1x1x1 convolution."""
    torch.manual_seed(classes)
    first = nn.Conv3d(1, 8, smooth, padding=smooth // 2)
    nn.init.normal_(first.weight)
    last = nn.Conv3d(8, classes, 1)
    nn.init.normal_(last.weight, std=4.0)
    return nn.Sequential(first, nn.Tanh(), last).eval()


def assert_largest(found: torch.Tensor, values: torch.Tensor) -> None:
    """Labels (1, X, Y, Z) are the largest of (K, X, Y, Z), except for ties."""
    lost = values.amax(0, keepdim=True) - values.gather(0, found.long())
    assert lost.max() <= 1e-5
    assert (found[0] == values.argmax(0)).double().mean() >= 0.999


ROI = (16, 16, 16)


class TestLinear:
    def run(self, data: dict[str, Any], net: nn.Module, **options: Any) -> tuple[Any, Any]:
        """What the inferer gives, and what comes back."""
        inferer = LabelMapInferer(
            ROI, overlap=0.5, mode="gaussian", amp=False, inversion="linear", **options
        )
        batch = collate_scans([data])
        (row,) = decollate_batch({"image": batch["image"], "pred": inferer(batch["image"], net)})
        return row["pred"], InvertLabelsd("pred")(row)["pred"]

    @pytest.mark.parametrize("name", SCANS)
    @pytest.mark.parametrize("margin", [0, 2, 100])
    @pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (3.0, 0.8, 1.1)])
    def test_labels_are_the_largest_of_monais(
        self, name: str, margin: int, spacing: tuple[float, ...]
    ) -> None:
        image, transform = scan(*SCANS[name]), preprocessing(margin, spacing)
        data, net = transform({"image": image}), network(9)
        _, found = self.run(data, net)
        assert found.shape == image.shape
        np.testing.assert_allclose(found.affine, image.affine)
        assert len(found.unique()) > 2
        assert_largest(found.as_tensor(), self.expected(data, transform, net))

    @pytest.mark.parametrize("classes", [1, 2, 300])
    @pytest.mark.parametrize("split_head", [True, False])
    def test_numbers_of_classes(self, classes: int, split_head: bool) -> None:
        transform = preprocessing()
        data, net = transform({"image": scan(*SCANS["mirrored"])}), network(classes)
        found = self.run(data, net, split_head=split_head)[1]
        assert found.dtype == (torch.int16 if classes == 300 else torch.uint8)
        assert_largest(found.as_tensor(), self.expected(data, transform, net))

    @pytest.mark.parametrize("compare_with", ["all", "subset"])
    def test_class_subset(self, compare_with: str) -> None:
        transform, subset = preprocessing(), [0, 2, 5, 6]
        data, net = transform({"image": scan(*SCANS["axial, fine in plane"])}), network(9)
        found = self.run(data, net, class_subset=subset, compare_with=compare_with)[1].as_tensor()
        logits = None if compare_with == "all" else subset
        best = self.expected(data, transform, net, logits).argmax(0)
        if compare_with == "subset":
            expected = torch.tensor(subset)[best]
        else:
            expected = torch.where(torch.isin(best, torch.tensor(subset)), best, 0)
        assert {*found.unique().tolist()} == {*subset}
        assert (found[0] == expected).double().mean() >= 0.999

    def test_confidence_is_that_of_the_networks_grid(self) -> None:
        data, net = preprocessing()({"image": scan(*SCANS["mirrored"])}), network(5)
        options: dict[str, Any] = {"overlap": 0.5, "mode": "gaussian", "confidence": True}
        batch = collate_scans([data])["image"]
        expected = LabelMapInferer(ROI, amp=False, **options)(batch, net).meta["confidence"]
        found = self.run(data, net, confidence=True)[0].meta["confidence"]
        torch.testing.assert_close(found, expected[0])

    def test_windows_that_are_not_run_are_background(self) -> None:
        image = scan((40, 40, 40), "SPL", (0.75, 1.5, 1.5))
        image[:, :, 24:] = 0
        transform = preprocessing(100)
        data, net = transform({"image": image}), network(5)
        found = self.run(data, net, skip_air=True, air=0.0)[1].as_tensor()
        assert (found[:, :, 34:] == 0).all()
        assert (found[:, :, :20] > 0).any()

    def test_the_grid_from_before_resampling(self) -> None:
        """A scan of the right spacing stays as it is, cropped; another is not turned yet."""
        net = network(5)
        same = preprocessing()({"image": scan(*SCANS["as the network has it"])})
        pred, found = self.run(same, net)
        assert pred.shape == same["image"].shape
        assert found.shape == (1, *SCANS["as the network has it"][0])
        other = preprocessing()({"image": scan(*SCANS["sagittal"])})
        pred, found = self.run(other, net)
        assert found.shape == (1, 9, 33, 29)
        assert pred.shape == (1, 33, 9, 29)
        assert len(pred.applied_operations) == 1

    def test_aligned_corners(self) -> None:
        """Rounding decides whether a voxel beside the crop counts nothing, or next to nothing."""
        net = network(9)
        for spacing in ((1.0, 0.5, 0.8), (2.0, 0.6, 5.0), (0.6, 3.0, 2.0)):
            spaced = Spacingd("image", pixdim=(0.75, 1.5, 3.0), mode="bilinear", align_corners=True)
            transform = Compose([spaced, preprocessing(0).transforms[2]])
            data = transform({"image": scan((21, 31, 17), "SPL", spacing)})
            found = self.run(data, net)[1].as_tensor()
            assert torch.equal(found[0], self.expected(data, transform, net).argmax(0))

    def test_axes_may_be_turned_after_resampling(self) -> None:
        image, net = scan(*SCANS["mirrored"]), network(7)
        transform = Compose(
            [
                Spacingd("image", pixdim=(1.5, 1.2, 1.9)),
                CropForegroundd("image", source_key="image", margin=1, allow_smaller=True),
                Orientationd("image", axcodes="SPL", labels=None),
            ]
        )
        data = transform({"image": image})
        pred, found = self.run(data, net)
        assert pred.shape == image.shape
        assert_largest(found.as_tensor(), self.expected(data, transform, net))

    def test_batches(self) -> None:
        """Of scans that have the same grid; what is done to one of them is not to another."""
        transform, net = preprocessing(100), network(5)
        rows = [transform({"image": scan(*SCANS["mirrored"])}) for _ in range(2)]
        rows[1]["image"] = rows[1]["image"] * 2
        inferer = LabelMapInferer(ROI, overlap=0.5, mode="gaussian", amp=False, inversion="linear")
        batch = list_data_collate(rows)["image"]
        found = inferer(batch, net)
        single = [self.run(row, net)[0].as_tensor() for row in rows]
        assert torch.equal(found.as_tensor(), torch.stack(single))
        assert not torch.equal(*single)
        batch.applied_operations[1][1]["orig_size"] = (9, 9, 9)
        with pytest.raises(UserError, match="one scan at a time"):
            inferer(batch, net)

    def test_what_cannot_be_interpolated_is_refused(self) -> None:
        inferer, net = LabelMapInferer(ROI, inversion="linear"), network(5)
        with pytest.raises(UserError, match="inputs are Tensor"):
            inferer(torch.rand(1, 1, *ROI), net)
        image = scan(*SCANS["mirrored"])
        image.affine[1, 2] = 0.9
        with pytest.raises(NotSeparableError, match="take nearest"):
            inferer(collate_scans([preprocessing()({"image": image})])["image"], net)
        twice = Compose([*preprocessing().transforms, Spacingd("image", pixdim=(2.0, 2.0, 2.0))])
        data = twice({"image": scan(*SCANS["mirrored"])})
        pred, found = self.run(data, net)  # the first resampling is inverted by nearest voxels
        assert pred.shape != found.shape == scan(*SCANS["mirrored"]).shape
        with pytest.raises(UserError, match="inversion is cubic"):
            LabelMapInferer(ROI, inversion="cubic")

    def expected(
        self,
        data: dict[str, Any],
        transform: Compose,
        net: nn.Module,
        rows: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """MONAI's probabilities on the grid of the scan, over some classes."""
        inferer = SlidingWindowInferer(ROI, overlap=0.5, mode="gaussian")
        with torch.no_grad():
            logits = inferer(data["image"][None].as_tensor(), net)[0]
        values = (logits if rows is None else logits[list(rows)]).softmax(0)
        pred = MetaTensor(values, meta=dict(data["image"].meta))
        return by_monai({**data, "pred": pred}, transform, nearest=False).as_tensor()


def test_memory_of_interpolation_is_planned() -> None:
    layout = WindowLayout.over((40, 50, 60), ROI, 0.5)
    settings, cpu = SlabSettings(ROI), torch.device("cpu")
    probe = Probe(None, 118, 118, 100.0)
    plans = [
        plan_memory(layout, probe, settings, (cpu, cpu), target=target)
        for target in (None, (80, 100, 120))
    ]
    assert plans[0].planes == 0
    assert plans[1].planes > 2 * 50 * 60 * 118 * 4
    assert plans[1].labels == 80 * 100 * 120
    with pytest.raises(UserError, match=r"linear inversion .* try --inversion nearest"):
        affordable(lambda _: plans[1], None, lambda _: 10)
