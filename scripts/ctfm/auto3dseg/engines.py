"""Transforms, data sets, loss and inferer, from a recipe and options."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, Dataset, DistributedSampler, MetaTensor
from monai.engines.utils import default_prepare_batch
from monai.inferers import SlidingWindowInfererAdapt
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceFocalLoss
from monai.transforms import (
    Compose,
    CropForegroundd,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)
from torch import nn

from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.recipe import Recipe
from ctfm.auto3dseg.stored import crops, loader_of, values_of
from ctfm.auto3dseg.transforms import GroupsToChannelsd, masks_of
from ctfm.contract.tasks import WHOLE_BODY
from ctfm.imaging.transforms import LoadScand, MapClassesd
from ctfm.inference.inferers.autocast import AutocastInferer
from ctfm.loading.transforms import ClassPositionsd

__all__ = [
    "TrainingData",
    "device_of",
    "image_transforms",
    "inferer",
    "label_channels",
    "loss",
    "validation_loader",
]

BOTH = ("image", "label")


def image_transforms(recipe: Recipe, with_label: bool = False) -> list[Any]:
    """From a file to what the network sees, without chance; Compose of these can be inverted."""
    keys = BOTH if with_label else BOTH[:1]
    modes = ("bilinear", "nearest")[: len(keys)]
    label = [LoadScand("label", "off"), *label_map(recipe)] if with_label else []
    low, high = WHOLE_BODY.hu_window
    inside = [(hu - low) / (high - low) for hu in recipe.hu_window]
    narrower = ScaleIntensityRanged(
        "image", a_min=inside[0], a_max=inside[1], b_min=0, b_max=1, clip=True
    )
    steps = [
        LoadScand("image", recipe.input_check),
        *label,
        Orientationd(keys, axcodes=WHOLE_BODY.axcodes, labels=None),
        Spacingd(keys, pixdim=recipe.spacing, mode=modes),
    ]
    if recipe.intensity == "scan":
        return [*steps, NormalizeIntensityd("image", nonzero=True)]
    return [
        *steps,
        ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0, b_max=1, clip=True),
        CropForegroundd(
            keys, source_key="image", margin=WHOLE_BODY.foreground_margin, allow_smaller=True
        ),
        *([] if recipe.hu_window == WHOLE_BODY.hu_window else [narrower]),
    ]


def numbering(recipe: Recipe) -> dict[int, int]:
    """Label values to numbers without gaps: of classes, or, where these overlap, of values."""
    if recipe.sigmoid:
        distinct = sorted({value for row in recipe.class_index for value in row})
        return {value: number for number, value in enumerate(distinct, start=1)}
    return {value: n for n, row in enumerate(recipe.class_index, start=1) for value in row}


def label_map(recipe: Recipe) -> list[Any]:
    """A label as stored to numbers without gaps."""
    numbers = numbering(recipe)
    return [MapClassesd("label", list(numbers), list(numbers.values()))]


def overlapping(recipe: Recipe) -> list[list[int]]:
    """The numbers of each class, where classes overlap; otherwise none."""
    numbers = numbering(recipe)
    return [[numbers[v] for v in row] for row in recipe.class_index] if recipe.sigmoid else []


def label_channels(recipe: Recipe) -> Callable[..., Any]:
    """How an engine takes image and label out of a batch.

    The loss compares with numbers or, where classes overlap, with a channel for each class.
    """
    groups = overlapping(recipe)

    def prepare(batch: Any, device: Any, non_blocking: bool, **_: Any) -> tuple[Any, Any]:
        image, label = default_prepare_batch(batch, device, non_blocking)
        if not groups:
            return image, label
        plain = label.as_tensor() if isinstance(label, MetaTensor) else label
        return image, masks_of(plain, groups, dim=1)

    return prepare


def crop_transforms(recipe: Recipe) -> list[Any]:
    """One crop of a scan; each class is in the middle of as many."""
    count = 1 + max(numbering(recipe).values())
    return [
        RandCropByLabelClassesd(
            BOTH,
            label_key="label",
            indices_key="positions",
            spatial_size=recipe.roi_size,
            num_classes=count,
            ratios=[WHOLE_BODY.background_ratio, *[WHOLE_BODY.class_ratio] * (count - 1)],
            num_samples=1,
            warn=False,
        )
    ]


def random_transforms(recipe: Recipe, flips: bool) -> list[Any]:
    """Augmentation as in whole-body training; flips where no class has a side."""
    task, flipped = WHOLE_BODY, range(3) if flips else ()
    sigma = task.smooth_sigma
    return [
        RandAffined(  # first: DALI resamples while it brings crops to a GPU
            BOTH,
            prob=task.affine_prob,
            rotate_range=[task.rotate_range] * 3,
            scale_range=[task.scale_range] * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
            spatial_size=recipe.roi_size,
            cache_grid=True,
        ),
        *(RandFlipd(BOTH, prob=0.5, spatial_axis=axis) for axis in flipped),
        RandGaussianSmoothd(
            "image", prob=task.smooth_prob, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma
        ),
        RandScaleIntensityd("image", factors=task.scale_intensity, prob=task.scale_intensity_prob),
        RandShiftIntensityd("image", offsets=task.shift_intensity, prob=task.shift_intensity_prob),
        RandGaussianNoised("image", std=task.noise_std, prob=task.noise_prob),
    ]


def workers(options: Options) -> int:
    """Worker processes of a loader; 0 loads in the training's own."""
    given = options["num_workers"]
    if given is not None:
        return int(given)
    if options["cache"] and not torch.cuda.is_available():
        return 0  # a crop of a cached scan takes milliseconds, a worker a core from the network
    return min(8, (os.cpu_count() or 1) - 1)


class TrainingData:
    """Crops to train on, and the same without augmentation to measure BatchNorm's statistics on.

    Labels of a batch are numbers without gaps, (B, 1, D, H, W): `label_channels` follows.

    Args:
        options: of the fold.
        rows: cases to train on; with `loader: dali` those of the store take their place.
        device: of the network.
        world_size: processes that share the crops.

    Attributes:
        dataset: of crops; its random transforms are to be seeded.
        loader: of batches to train on.
        statistics_loader: of batches to measure on.
    """

    def __init__(
        self, options: Options, rows: list[dict[str, Any]], device: torch.device, world_size: int
    ) -> None:
        augmentation = random_transforms(options.recipe, bool(options["flips"]))
        self.dataset: Any
        if options["loader"] == "dali":
            self.dataset = crops(options, values_of(numbering(options.recipe)))
            threads = max(1, workers(options))
            self.loader: Any = loader_of(options, self.dataset, augmentation, device, threads)
            self.statistics_loader: Any = loader_of(options, self.dataset, [], device, threads)
            return
        scans = _prepared_scans(options, rows)
        crop = crop_transforms(options.recipe)
        self.dataset = Dataset(scans, Compose([*crop, *augmentation]))
        plain = Dataset(scans, Compose(crop_transforms(options.recipe)))
        self.loader = _monai_loader(options, self.dataset, world_size)
        self.statistics_loader = _monai_loader(options, plain, world_size)


def _prepared_scans(options: Options, rows: list[dict[str, Any]]) -> Dataset:
    """Scans that crops are taken from, in memory if there is room."""
    recipe = options.recipe
    prepared = Compose(
        [
            *image_transforms(recipe, with_label=True),
            SpatialPadd(BOTH, spatial_size=recipe.roi_size),
            ClassPositionsd("label", "positions", num_classes=1 + max(numbering(recipe).values())),
        ]
    )
    if options["cache"]:
        return CacheDataset(rows, prepared, num_workers=None, progress=False, copy_cache=False)
    return Dataset(rows, prepared)


def _monai_loader(options: Options, dataset: Dataset, world_size: int) -> DataLoader:
    sampler = (
        DistributedSampler(dataset, even_divisible=True, shuffle=True) if world_size > 1 else None
    )
    return DataLoader(
        dataset,
        batch_size=options["batch_size"],
        shuffle=sampler is None,
        sampler=sampler,
        num_workers=workers(options),
    )


def validation_loader(
    options: Options, rows: list[dict[str, Any]], world_size: int
) -> tuple[DataLoader, Compose]:
    """Whole images, and labels as they are stored: scores are those of the original grid.

    Returns:
        The loader, and what images go through, which labels come back by.
    """
    recipe = options.recipe
    image = Compose(image_transforms(recipe))
    label = [LoadScand("label", "off"), *label_map(recipe)]
    if groups := overlapping(recipe):
        label.append(GroupsToChannelsd("label", groups))
    dataset = Dataset(rows, Compose([*label, image]))
    sampler = (
        DistributedSampler(dataset, even_divisible=False, shuffle=False) if world_size > 1 else None
    )
    loader = DataLoader(dataset, batch_size=1, sampler=sampler, num_workers=workers(options))
    return loader, image


def loss(recipe: Recipe) -> nn.Module:
    """Dice and cross entropy under deep supervision; each class by itself where they overlap."""
    terms = {
        "squared_pred": True,
        "smooth_nr": WHOLE_BODY.smooth_nr,
        "smooth_dr": WHOLE_BODY.smooth_dr,
    }
    if recipe.sigmoid:  # with gamma 0 the focal loss is the binary cross entropy
        single: nn.Module = DiceFocalLoss(sigmoid=True, gamma=0.0, **terms)
    else:
        single = DiceCELoss(to_onehot_y=True, softmax=True, **terms)
    supervised: nn.Module = DeepSupervisionLoss(single)
    return supervised


def inferer(recipe: Recipe, amp: bool, at_once: int = 1) -> AutocastInferer:
    """Sliding windows, stitched on the CPU where a GPU has too little memory.

    Args:
        recipe: size and overlap of the windows.
        amp: compute in the fast number format of the device.
        at_once: windows in a batch.
    """
    windows = SlidingWindowInfererAdapt(
        roi_size=recipe.roi_size, sw_batch_size=at_once, overlap=recipe.overlap, mode="gaussian"
    )
    return AutocastInferer(windows, enabled=amp)


def device_of(rank: int) -> torch.device:
    """The GPU of a process, or the CPU."""
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
