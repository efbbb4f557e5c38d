"""Lookups and crop positions against MONAI's own, slower, transforms; views of crops."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import pickle_hashing
from monai.transforms import (
    ClassesToIndices,
    MapLabelValue,
    RandCropByLabelClassesd,
    RandScaleCrop,
    Resized,
)

from ctfm.base.errors import UserError
from ctfm.imaging import transforms
from ctfm.imaging.checks import ct
from ctfm.imaging.transforms import LoadScand, MapClassesd
from ctfm.inference.confidence import NameConfidenced
from ctfm.loading.transforms import ClassPositionsd, RandViewsd
from loading_support import pretraining_transforms
from support import make_ct, save


@pytest.fixture
def label() -> MetaTensor:
    rng = np.random.default_rng(0)
    array = rng.choice([0, 0, 0, 1, 2, 5, 117], size=(1, 9, 8, 7)).astype(np.uint8)
    return MetaTensor(torch.from_numpy(array), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))


class TestLoadScan:
    @pytest.mark.parametrize("input_check", ["error", "warn", "off"])
    def test_findings_are_objects_and_values_are_judged_once(
        self, input_check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judged = []

        def count(image: MetaTensor) -> str | None:
            judged.append(image)
            return ct_problem(image)

        ct_problem = ct.ct_problem
        for module in (ct, transforms):
            monkeypatch.setattr(module, "ct_problem", count)
        hu = make_ct()[0]
        load = LoadScand("image", input_check, inspect=True)
        sound = load({"image": str(save(hu, tmp_path / "ct.nii.gz"))})["input_check"]
        assert (sound.problem, sound.shape, len(judged)) == (None, hu.shape, 1)
        picture = {"image": str(save(hu.clip(0, 255), tmp_path / "picture.nii.gz"))}
        if input_check == "error":
            with pytest.raises(UserError, match="label map or mask"):
                load(picture)
        else:
            assert "label map or mask" in load(picture)["input_check"].problem
        assert len(judged) == 2


class TestMapClasses:
    def test_listed_ids_are_exchanged_as_by_monai(self, label: MetaTensor) -> None:
        source, target = [1, 2, 5, 117], [3, 1, 2, 4]
        ours = MapClassesd("label", source, target)({"label": label})["label"]
        monai = MapLabelValue(source, target)(label)
        np.testing.assert_array_equal(ours.numpy(), np.asarray(monai))
        assert ours.dtype == torch.uint8

    def test_other_ids_become_background(self, label: MetaTensor) -> None:
        mapped = MapClassesd("label", [5], [1])({"label": label})["label"]
        np.testing.assert_array_equal(mapped.numpy(), (label.numpy() == 5).astype(np.uint8))

    def test_there_and_back_is_the_identity(self, label: MetaTensor) -> None:
        ids = [1, 2, 5, 117]
        there = MapClassesd("label", ids, range(1, 5))({"label": label})
        back = MapClassesd("label", range(1, 5), ids)(there)["label"]
        assert torch.equal(back, label)
        np.testing.assert_array_equal(back.affine, label.affine)

    def test_caches_recognise_it_on_the_next_run(self) -> None:
        twins = [MapClassesd("label", [1, 2], [2, 1]) for _ in range(2)]
        assert pickle_hashing([twins[0]]) == pickle_hashing([twins[1]])

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(UserError, match="2 class ids are mapped to 1"):
            MapClassesd("label", [1, 2], [1])

    def test_strict_refuses_other_ids_and_names_the_file(self, label: MetaTensor) -> None:
        ids = sorted(set(label.unique().int().tolist()) - {0})
        strict = MapClassesd("label", ids, ids, strict=True)
        assert torch.equal(strict({"label": label})["label"].float(), label.float())
        label.meta["filename_or_obj"] = "lung_001.nii.gz"
        with pytest.raises(UserError, match=rf"lung_001.nii.gz holds {ids[-1]}; the classes are 0"):
            MapClassesd("label", ids[:-1], ids[:-1], strict=True)({"label": label})


class TestClassPositions:
    def positions(self, label: torch.Tensor, **options: int) -> list[torch.Tensor]:
        transform = ClassPositionsd("label", "positions", **options)
        return transform({"label": label})["positions"]

    def test_positions_are_those_of_monai(self, label: MetaTensor) -> None:
        mapped = MapClassesd("label", [1, 2, 5, 117], range(1, 5))({"label": label})["label"]
        ours = self.positions(mapped, num_classes=7)
        monai = ClassesToIndices(num_classes=7)(mapped)
        assert len(ours) == 7
        assert len(ours[0]) == 0, "background is never a crop's centre"
        for mine, theirs in zip(ours[1:], monai[1:], strict=True):
            np.testing.assert_array_equal(mine.numpy(), np.asarray(theirs))

    def test_positions_are_bounded_and_spread(self) -> None:
        label = torch.ones(1, 10, 10, 10, dtype=torch.uint8)
        found = self.positions(label, num_classes=2, max_samples_per_class=11)[1]
        assert len(found) == 11
        assert (found[0], found[-1]) == (0, 999)

    def test_scan_without_any_class_is_cropped_anywhere(self) -> None:
        label = torch.zeros(1, 6, 6, 6, dtype=torch.uint8)
        found = self.positions(label, num_classes=3)
        assert [len(f) for f in found] == [0, 216, 0]

    def test_background_lies_anywhere_where_it_is_asked_for(self) -> None:
        label = torch.zeros(1, 4, 5, 6)
        label[0, 1, 2, 3] = 1
        for background, expected in ((False, 0), (True, 120)):
            transform = ClassPositionsd("label", "positions", 2, background=background)
            found = transform({"label": label})["positions"]
            assert [len(group) for group in found] == [expected, 1]

    def test_label_beyond_the_network_is_refused(self, label: MetaTensor) -> None:
        with pytest.raises(UserError, match="class 117, the network has 3"):
            self.positions(label, num_classes=3)

    def test_crops_are_centred_on_the_classes(self) -> None:
        label = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
        label[0, 10, 10, 10] = 2
        data = ClassPositionsd("label", "positions", num_classes=3)({"label": label})
        crop = RandCropByLabelClassesd(
            "label", "label", (4, 4, 4), [0, 1, 1], 3, indices_key="positions", warn=False
        )
        assert all(2 in crop(dict(data))[0]["label"] for _ in range(5))


@pytest.mark.parametrize(
    "transform",
    [
        LoadScand("image"),
        MapClassesd("label", [3], [1]),
        ClassPositionsd("label", "positions", num_classes=2),
    ],
)
def test_transforms_can_be_sent_to_workers(transform: object) -> None:
    assert type(pickle.loads(pickle.dumps(transform))) is type(transform)


def coordinates(*shape: int) -> MetaTensor:
    """An image whose voxels say where they are."""
    flat = torch.arange(int(np.prod(shape)), dtype=torch.float32)
    return MetaTensor(flat.reshape(1, *shape))


class TestRandViews:
    PATCH = (8, 12, 10)

    def views(self, seed: int = 0, **options: object) -> RandViewsd:
        transforms = pretraining_transforms(self.PATCH)
        made = RandViewsd("image", self.PATCH, transforms, **{"crops": 3, **options})
        return made.set_random_state(seed)

    def test_shape_and_plain_tensors(self) -> None:
        found = self.views()({"image": coordinates(20, 24, 22), "id": "a"})
        assert found["image"].shape == (3, 2, 1, *self.PATCH)
        assert type(found["image"]) is torch.Tensor
        assert found["id"] == "a"

    def test_seed_decides(self) -> None:
        image = {"image": coordinates(20, 24, 22)}
        one, two = self.views(1)(image)["image"], self.views(1)(image)["image"]
        assert torch.equal(one, two)
        assert not torch.equal(one, self.views(2)(image)["image"])
        assert torch.equal(one, pickle.loads(pickle.dumps(self.views(1)))(image)["image"])

    def test_without_scaling_both_views_are_the_crop(self) -> None:
        made = RandViewsd("image", self.PATCH, [], crops=50, scale=(1, 1)).set_random_state(0)
        found = made({"image": coordinates(9, 14, 13)})["image"]
        assert torch.equal(found[:, 0], found[:, 1])
        corners = {int(crop[0, 0, 0, 0]) for crop in found[:, 0]}
        places = {tuple(map(int, np.unravel_index(c, (9, 14, 13)))) for c in corners}
        assert {p[0] for p in places} == {0, 1}
        assert {p[1] for p in places} == {0, 1, 2}
        assert {p[2] for p in places} == {0, 1, 2, 3}

    def test_boxes_are_those_of_rand_scale_crop(self) -> None:
        """The same sizes for all axes, and every view within the crop of its own."""
        made = RandViewsd("image", self.PATCH, [], crops=200, views=2).set_random_state(0)
        crop = RandScaleCrop(0.33, 1.0, random_size=True).set_random_state(0)
        boxes = made.randomize((20, 24, 22))
        sizes = np.array([[s.stop - s.start for s in box[1:]] for box in boxes])
        assert (sizes <= self.PATCH).all()
        assert (sizes >= np.ceil(0.33 * np.array(self.PATCH))).all()
        scales = sizes / self.PATCH  # rounded up from one scale
        assert (np.ptp(scales, axis=1) < 1 / 8).all()
        crop.randomize(self.PATCH)
        assert tuple(crop._size) <= self.PATCH
        for one, two in zip(boxes[::2], boxes[1::2], strict=True):
            for a, b, side in zip(one[1:], two[1:], self.PATCH, strict=True):
                assert max(a.stop, b.stop) - min(a.start, b.start) <= side

    def test_resized_first_gives_patches(self) -> None:
        made = RandViewsd("image", self.PATCH, [Resized("image", self.PATCH, mode="trilinear")])
        assert made({"image": coordinates(8, 12, 10)})["image"].shape == (15, 2, 1, *self.PATCH)


class TestNameConfidenced:
    def test_by_class_id(self) -> None:
        label = MetaTensor(torch.zeros(1, 2, 2, 2))
        label.meta["confidence"] = torch.tensor([0.9, 0.5, torch.nan])
        named = NameConfidenced("pred", class_ids=[20, 30])({"pred": label})
        assert named["confidence"] == {20: 0.5}
        assert named["pred"] is label

    def test_nothing_to_name(self) -> None:
        data = {"pred": MetaTensor(torch.zeros(1, 2, 2, 2))}
        assert NameConfidenced("pred", class_ids=[20])(data).keys() == {"pred"}
