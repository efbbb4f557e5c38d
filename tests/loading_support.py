"""What tests of loading share: the two recipes' random transforms, and MONAI as the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    Resized,
    Transform,
)
from torch import Tensor

from ctfm.loading.augmentation.pipeline import Augmentation
from support import config_files

#: Ours minus MONAI's, for images in 0..1. Both compute in float32, an affine transform's indices
#: too: an index of some tens is off by 2e-6, between voxels that differ by up to 1 on each axis.
TOLERANCE = 2e-5
#: Label voxels of a volume or batch that may differ: an index that is off by 2e-6 is rounded the
#: other way halfway between two voxels, which happens to one in some 100,000.
TIES = 2


def whole_body_transforms(patch: Sequence[int], noise: bool = True) -> list[Transform]:
    """As train.json has them; without noise they draw the same here and in MONAI."""
    parser = ConfigParser()
    parser.read_config(config_files("train"))
    parser["patch"] = list(patch)
    found: list[Transform] = parser.get_parsed_content("train::random_transforms")
    return [t for t in found if noise or not isinstance(t, RandGaussianNoised)]


def pretraining_transforms(patch: Sequence[int]) -> list[Transform]:
    """Views are brought to a patch, flipped along S, their histogram is bent, and smoothed."""
    return [
        Resized("image", spatial_size=tuple(patch), mode="trilinear"),
        RandFlipd("image", prob=0.5, spatial_axis=0),
        RandHistogramShiftd("image", num_control_points=5, prob=0.5),
        RandGaussianSmoothd("image", prob=0.5),
    ]


def by_monai(
    transforms: Sequence[Transform], image: Tensor, label: Tensor | None, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Image and label (D, H, W) after `Compose` with this seed."""
    data: dict[str, Any] = {"image": image.clone()[None]}
    if label is not None:
        data["label"] = label.clone()[None]
    done = Compose(list(transforms)).set_random_state(seed=seed)(data)
    plain = {k: v.as_tensor() if isinstance(v, MetaTensor) else v for k, v in done.items()}
    return plain["image"][0], plain["label"][0] if label is not None else None


def make_pair(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Noise in 0..1, and labels that differ from voxel to voxel: nothing can hide in them."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 256, tuple(shape), generator=generator)
    return torch.rand(tuple(shape), generator=generator), label.to(torch.uint8)


def assert_as_monai(
    augmentation: Augmentation,
    transforms: Sequence[Transform],
    image: Tensor,
    label: Tensor | None,
    seeds: Iterable[int],
    exactly: bool = False,
) -> None:
    """The same as `Compose` with each seed, voxel by voxel."""
    for seed in seeds:
        wanted, wanted_label = by_monai(transforms, image, label, seed)
        given = None if label is None else label.clone()
        found, found_label = augmentation.apply(image.clone(), given, augmentation.draw(seed))
        atol = 0 if exactly else TOLERANCE
        torch.testing.assert_close(found, wanted, rtol=0, atol=atol, check_dtype=False)
        assert type(found) is Tensor
        if wanted_label is not None and found_label is not None:
            assert found_label.shape == wanted_label.shape
            others = int((found_label != wanted_label).sum())
            assert others <= (0 if exactly else TIES), f"{others} label voxels differ"
