"""MONAI's side of the loading benchmark: CT-FM's published recipes in MONAI's transforms."""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import (
    CastToTyped,
    ClassesToIndicesd,
    Compose,
    CopyItemsd,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    MapTransform,
    Orientationd,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    RandomizableTransform,
    RandScaleCrop,
    RandSpatialCropSamplesd,
    Resize,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
    ToTensord,
)
from torch.utils.data import RandomSampler

from benchmarks.loading.measuring import (
    BATCH,
    CLASSES,
    PATCH,
    VIEWS,
    Result,
    Settings,
    main,
    measure,
    whole_body_transforms,
)
from ctfm.contract import HU_WINDOW, PRETRAINING, WHOLE_BODY

BOTH = ["image", "label"]
SCALE = {"a_min": HU_WINDOW[0], "a_max": HU_WINDOW[1], "b_min": 0, "b_max": 1, "clip": True}
#: Voxels kept of each class, as many as nnU-Net keeps; all of them would double a scan's cache.
POSITIONS = 10_000


def monai_nifti_views(settings: Settings) -> Result:
    """CT-FM's published pretraining recipe; each scan is read from its .nii.gz every time."""
    transform = Compose([*view_preparation(), *view_augmentation()])
    dataset = Dataset([{"view_0": scan} for scan in settings["scans"]], transform)
    return measure_dataset(dataset, settings, 1, VIEWS, "views")


def monai_cached_views(settings: Settings) -> Result:
    """The same recipe, its deterministic part from a warm cache on disk."""
    transform = Compose([*view_preparation(), *view_augmentation()])
    data = [{"view_0": scan} for scan in settings["scans"]]
    return measure_dataset(cached(data, transform, settings), settings, 1, VIEWS, "views")


def view_preparation() -> list[Any]:
    key = "view_0"
    return [
        LoadImaged(key, image_only=True),
        EnsureChannelFirstd(key),
        Orientationd(key, axcodes=PRETRAINING.axcodes, labels=None, lazy=True),
        Spacingd(key, pixdim=PRETRAINING.spacing, mode="bilinear", lazy=True),
        CropForegroundd(key, source_key=key, allow_smaller=True, lazy=True),
        SpatialPadd(key, spatial_size=PRETRAINING.patch, value=PRETRAINING.pad_hu, lazy=True),
        ScaleIntensityRanged(key, **SCALE),
    ]


def view_augmentation() -> list[Any]:
    recipe, keys = PRETRAINING, ["view_0", "view_1"]
    points, shift = recipe.histogram_shift_control_points, recipe.histogram_shift_prob
    views = [
        [
            RandResizedCropd(key),
            RandFlipd(key, prob=recipe.flip_prob, spatial_axis=recipe.flip_axis, lazy=True),
            RandHistogramShiftd(key, num_control_points=points, prob=shift),
            RandGaussianSmoothd(key, prob=recipe.gaussian_smooth_prob),
        ]
        for key in keys
    ]
    return [
        RandSpatialCropSamplesd(
            "view_0", roi_size=recipe.patch, num_samples=recipe.crops, random_size=False, lazy=True
        ),
        CopyItemsd("view_0", names="view_1"),
        *itertools.chain.from_iterable(views),
        ToTensord(keys, track_meta=False),
    ]


class RandResizedCropd(RandomizableTransform, MapTransform):
    """A box of one random scale for all axes, brought back to the patch."""

    def __init__(self, keys: str) -> None:
        RandomizableTransform.__init__(self)
        MapTransform.__init__(self, keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each item (C, D, H, W) by such a box of it."""
        result = dict(data)
        for key in self.key_iterator(result):
            crop = RandScaleCrop(self.R.uniform(*PRETRAINING.resized_crop_scale), random_size=False)
            crop.set_random_state(state=self.R)
            result[key] = Resize(PRETRAINING.patch, mode="trilinear")(crop(result[key]))
        return result


def monai_cached_crops(settings: Settings) -> Result:
    """The whole-body bundle's recipe; the places of the classes are cached, then they are not."""
    results = []
    for searched in (True, False):
        transform = Compose([*crop_preparation(searched), *crop_augmentation(searched)])
        dataset = cached(settings["rows"], transform, settings)
        results.append(measure_dataset(dataset, settings, BATCH, BATCH, "crops"))
    return {**results[0], "variants": {"classes searched at each crop": results[1]}}


def crop_preparation(searched: bool) -> list[Any]:
    margin = WHOLE_BODY.foreground_margin
    search = ClassesToIndicesd("label", num_classes=CLASSES, max_samples_per_class=POSITIONS)
    return [
        LoadImaged(BOTH, image_only=True, ensure_channel_first=True),
        Orientationd(BOTH, axcodes=WHOLE_BODY.axcodes, labels=None),
        Spacingd(BOTH, pixdim=WHOLE_BODY.spacing, mode=["bilinear", "nearest"]),
        ScaleIntensityRanged("image", **SCALE),
        CropForegroundd(BOTH, source_key="image", margin=margin, allow_smaller=True),
        SpatialPadd(BOTH, spatial_size=PATCH),
        CastToTyped("label", dtype=torch.uint8),
        *([search] if searched else []),
    ]


def crop_augmentation(searched: bool) -> list[Any]:
    crop = RandCropByLabelClassesd(
        BOTH,
        label_key="label",
        spatial_size=PATCH,
        ratios=[WHOLE_BODY.background_ratio] + [WHOLE_BODY.class_ratio] * (CLASSES - 1),
        num_classes=CLASSES,
        indices_key="label_cls_indices" if searched else None,
        warn=False,
    )
    return [crop, *whole_body_transforms()]


def cached(data: list[dict[str, str]], transform: Compose, settings: Settings) -> Dataset:
    """A warm cache: each scan has been taken once."""
    folder = Path(settings["folder"]) / "monai"
    dataset = PersistentDataset(data, transform, folder, hash_transform=pickle_hashing)
    for _ in DataLoader(dataset, num_workers=settings["workers"]):
        pass
    return dataset


def measure_dataset(
    dataset: Dataset, settings: Settings, batch: int, items: int, unit: str
) -> Result:
    """Measure a dataset behind MONAI's data loader, scans drawn at random without end."""
    workers = settings["workers"]
    sampler = RandomSampler(dataset, replacement=True, num_samples=1_000_000)
    loader = DataLoader(dataset, num_workers=workers, batch_size=batch, sampler=sampler)
    # the workers take turns, so a round is one batch of each
    return measure(iter(loader), settings, items, unit, batches_per_round=workers)


def monai_build(settings: Settings) -> Result:
    """What the store does to a scan, in MONAI's transforms: oriented, resampled, cropped, int16."""
    key, scan = "image", settings["scans"][0]
    target = Path(settings["folder"]) / "monai_build.npy"
    convert = Compose(
        [
            LoadImaged(key, image_only=True),
            EnsureChannelFirstd(key),
            Orientationd(key, axcodes=PRETRAINING.axcodes, labels=None),
            Spacingd(key, pixdim=PRETRAINING.spacing, mode="bilinear"),
            CropForegroundd(key, source_key=key, allow_smaller=True),
        ]
    )
    low, high = HU_WINDOW
    seconds = []
    while sum(seconds) < settings["seconds"] or len(seconds) < 2:
        start = time.perf_counter()
        volume = convert({key: scan})[key].clamp(low, high).round()
        np.save(target, volume.numpy().astype(np.int16))
        seconds.append(time.perf_counter() - start)
    return {"items": len(seconds) - 1, "seconds": sum(seconds[1:]), "unit": "scans"}


ENGINES = {
    engine.__name__: engine
    for engine in (monai_nifti_views, monai_cached_views, monai_cached_crops, monai_build)
}

if __name__ == "__main__":
    main(ENGINES, {"monai": ("monai", "torch", "nibabel")})
