"""How fast the peers load: views for pretraining, crops with labels for whole-body training.

One function per engine: it prepares its own files, warms up, measures, and says what it counted.
`benchmarks/loading.py` runs each in a process of its own:

    python benchmarks/loading_peers.py ENGINE SETTINGS.json

prints one line of JSON: {"items", "seconds", "unit", ...} or {"skipped": reason}. Settings:

    folder          receives caches and preprocessed copies, which are kept
    scans           paths of CTs, for views
    rows            datalist of image and label at 1.5 mm, for crops
    workers         processes that load (2)
    seconds         to measure (20); whole rounds are counted, so it may take longer
    warm_up         seconds before that (10); nnU-Net tries out its ways of smoothing at first
    nnunet_python, torchio_python   interpreters that have these peers (default: this one)

nnU-Net stays out of the project's environment, as it requires timm and hence torchvision. The
loaders of nnU-Net and TorchIO do without. An environment for them over the project's (VENV), with
its torch and MONAI:

    python -m venv PEERS
    echo "import site; site.addsitedir('VENV/lib/python3.11/site-packages')" \
        > PEERS/lib/python3.11/site-packages/project.pth
    PEERS/bin/pip install blosc2 threadpoolctl pandas rich
    PEERS/bin/pip install --no-deps nnunetv2 batchgenerators batchgeneratorsv2 acvl-utils \
        dynamic-network-architectures SimpleITK einops torchio jaxtyping humanize deprecated wrapt
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loading_data import oriented, uncompressed
from monai.bundle import ConfigParser
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

from ctfm.contract import HU_WINDOW, PRETRAINING, SEGRESNET, WHOLE_BODY

Settings = Mapping[str, Any]
Result = dict[str, Any]

DEFAULTS = {"workers": 2, "seconds": 20, "warm_up": 10}
BUNDLES = Path(__file__).parents[1] / "bundles"
VIEWS = PRETRAINING.crops * PRETRAINING.views
CLASSES = SEGRESNET.out_channels
BATCH, PATCH = WHOLE_BODY.batch_size, WHOLE_BODY.patch
BOTH = ["image", "label"]
SCALE = {"a_min": HU_WINDOW[0], "a_max": HU_WINDOW[1], "b_min": 0, "b_max": 1, "clip": True}
#: Voxels kept of each class, as many as nnU-Net keeps; all of them would double a scan's cache.
POSITIONS = 10_000
#: TorchIO's patches from a volume that has been read and augmented, and volumes in its queue.
PATCHES_PER_VOLUME, VOLUMES = 8, 4


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
    parser = ConfigParser()
    parser.read_config(BUNDLES / "ct_fm_whole_body_segmentation" / "configs" / "train.json")
    return [crop, *parser.get_parsed_content("train::random_transforms")]


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


def nnunet_crops(settings: Settings) -> Result:
    """nnU-Net's loader, its augmentation cut down to the recipe's, then with its own geometry."""
    try:
        from batchgenerators.dataloading.nondet_multi_threaded_augmenter import (
            NonDetMultiThreadedAugmenter,
        )
        from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
        from nnunetv2.utilities.label_handling.label_handling import LabelManager
    except ImportError as error:
        return {"skipped": f"nnU-Net's loader cannot be imported: {error}"}
    dataset = nnUNetDatasetBlosc2(str(nnunet_cases(settings)))
    labels = LabelManager({f"class_{i}" if i else "background": i for i in range(CLASSES)}, None)
    results = []
    for transforms, read in (nnunet_same_transforms(), nnunet_own_transforms()):
        # every crop is class-balanced, as in the recipe; nnU-Net's own share is a third
        loader = nnUNetDataLoader(
            dataset, BATCH, read, PATCH, labels, 1.0, transforms=transforms
        )  # fmt: skip
        batches = NonDetMultiThreadedAugmenter(
            loader, None, settings["workers"], num_cached=6, wait_time=0.002
        )
        results.append(measure(batches, settings, BATCH, "crops"))
        batches._finish()
    return {**results[0], "variants": {"its own geometry": results[1]}}


def nnunet_cases(settings: Settings) -> Path:
    """The scans as nnU-Net's preprocessing leaves them: Blosc2, up to 10,000 places a class."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    folder = Path(settings["folder"]) / "nnunet"
    folder.mkdir(parents=True, exist_ok=True)
    for row in settings["rows"]:
        name = Path(row["image"]).name.removesuffix(".nii.gz")
        if (folder / f"{name}.pkl").exists():
            continue
        image, label = (np.asanyarray(volume.dataobj)[None] for volume in oriented(row))
        label = label.astype(np.int16)
        places = DefaultPreprocessor._sample_foreground_locations(label, list(range(1, CLASSES)))
        blocks, chunks = comp_blosc2_params(image.shape, PATCH, image.itemsize)
        of_label = comp_blosc2_params(label.shape, PATCH, label.itemsize)[::-1]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            case = Path(temporary) / name
            nnUNetDatasetBlosc2.save_case(
                image, label, {"class_locations": places}, str(case), chunks, blocks, *of_label
            )
            for suffix in (".b2nd", "_seg.b2nd", ".pkl"):  # the last one says that it is whole
                Path(f"{case}{suffix}").replace(folder / f"{name}{suffix}")
    return folder


def nnunet_same_transforms() -> tuple[Any, tuple[int, ...]]:
    """The recipe in nnU-Net's classes, and the box that is read for a crop: the patch."""
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle, scale = WHOLE_BODY.rotate_range, WHOLE_BODY.scale_range
    spatial = SpatialTransform(
        PATCH,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=1,
        rotation=(-angle, angle),
        p_scaling=1,
        scaling=(1 - scale, 1 + scale),
        mode_seg="nearest",
    )
    return nnunet_transforms(RandomTransform(spatial, WHOLE_BODY.affine_prob)), PATCH


def nnunet_own_transforms() -> tuple[Any, tuple[int, ...]]:
    """nnU-Net's geometry: a larger box is read, and each class is interpolated by itself."""
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

    angle = (-math.pi / 6, math.pi / 6)
    spatial = SpatialTransform(
        PATCH,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=0.2,
        rotation=angle,
        p_scaling=0.2,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    return nnunet_transforms(spatial), tuple(get_patch_size(PATCH, *[angle] * 3, (0.85, 1.25)))


def nnunet_transforms(spatial: Any) -> Any:
    """Smoothing, brightness and noise as in the recipe; nnU-Net has nothing like its shift."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform
    from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

    recipe = WHOLE_BODY
    factors = (1 - recipe.scale_intensity, 1 + recipe.scale_intensity)
    intensity = [
        (GaussianBlurTransform(recipe.smooth_sigma, benchmark=True), recipe.smooth_prob),
        (MultiplicativeBrightnessTransform(factors, False), recipe.scale_intensity_prob),
        (GaussianNoiseTransform((0, recipe.noise_std)), recipe.noise_prob),
    ]
    random = [RandomTransform(transform, probability) for transform, probability in intensity]
    return ComposeTransforms([spatial, *random, RemoveLabelTansform(-1, 0)])


def torchio_queue_crops(settings: Settings) -> Result:
    """TorchIO's queue: a volume is read and augmented, then gives several patches."""
    try:
        import torchio
    except ImportError as error:
        return {"skipped": f"TorchIO cannot be imported: {error}"}
    subjects = [
        torchio.Subject(image=torchio.ScalarImage(image), label=torchio.LabelMap(label))
        for image, label in uncompressed(settings["rows"], Path(settings["folder"]) / "torchio")
    ]
    queue = torchio.Queue(
        torchio.SubjectsDataset(subjects, transform=torchio_transform()),
        max_length=PATCHES_PER_VOLUME * VOLUMES,
        samples_per_volume=PATCHES_PER_VOLUME,
        sampler=torchio.LabelSampler(PATCH, "label", {i: int(i > 0) for i in range(CLASSES)}),
        num_workers=settings["workers"],
    )
    loader = torchio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    # the queue is filled all at once, so a round is what fills it
    rounds = PATCHES_PER_VOLUME * VOLUMES // BATCH
    result = measure(batches, settings, BATCH, "crops", batches_per_round=rounds)
    return {**result, "patches_per_volume": PATCHES_PER_VOLUME}


def torchio_transform() -> Any:
    """The recipe in TorchIO's classes, which have nothing like its scale and shift."""
    import torchio

    recipe = WHOLE_BODY
    affine = torchio.RandomAffine(
        scales=recipe.scale_range,
        degrees=math.degrees(recipe.rotate_range),
        default_pad_value=0,
        p=recipe.affine_prob,
    )
    # TorchIO's widths are in mm
    spacing, (low, high) = recipe.spacing[0], recipe.smooth_sigma
    blur = torchio.RandomBlur((low * spacing, high * spacing), p=recipe.smooth_prob)
    noise = torchio.RandomNoise(std=(0, recipe.noise_std), p=recipe.noise_prob)
    return torchio.Compose([affine, blur, noise])


def copy_limit_views(settings: Settings) -> Result:
    """What no loader can exceed: the bytes of the views are copied in memory."""
    batch = [np.ones((PRETRAINING.crops, 1, *PRETRAINING.patch), np.float32) for _ in range(2)]
    return measure_copies(batch, settings, VIEWS, "views")


def copy_limit_crops(settings: Settings) -> Result:
    """What no loader can exceed: the bytes of image and label are copied in memory."""
    shape = (BATCH, 1, *PATCH)
    return measure_copies([np.ones(shape, np.float32), np.ones(shape, np.uint8)], settings, BATCH)


def measure_copies(
    batch: list[np.ndarray], settings: Settings, items: int, unit: str = "crops"
) -> Result:
    """Copy batches into memory that is already there, in as many threads as there are workers."""
    workers = settings["workers"]

    def copy() -> int:
        target = [array.copy() for array in batch]
        done = 0
        while time.perf_counter() < end:
            for array, place in zip(batch, target, strict=True):
                np.copyto(place, array)
            done += items
        return done

    start = time.perf_counter()
    end = start + settings["seconds"]
    with ThreadPoolExecutor(workers) as pool:
        done = sum(future.result() for future in [pool.submit(copy) for _ in range(workers)])
    return {"items": done, "seconds": time.perf_counter() - start, "unit": unit}


def measure(
    batches: Iterator[Mapping[str, Any]],
    settings: Settings,
    items: int,
    unit: str,
    batches_per_round: int = 2,
) -> Result:
    """Take batches as fast as they come, `items` crops or views in each.

    Whole rounds are counted, so that batches which arrive together are counted together. At least
    two of them warm up.
    """

    def rounds(seconds: float, at_least: int) -> tuple[int, float, Mapping[str, Any]]:
        batch: Mapping[str, Any] = {}
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds or done < at_least:
            for _ in range(batches_per_round):
                batch = next(batches)
            done += 1
        return done, time.perf_counter() - start, batch

    rounds(settings["warm_up"], at_least=2)
    done, seconds, batch = rounds(settings["seconds"], at_least=1)
    tensors = {key: described(value) for key, value in batch.items()}
    return {
        "items": done * batches_per_round * items,
        "seconds": seconds,
        "unit": unit,
        "batch": {key: value for key, value in tensors.items() if value},
    }


def described(value: Any) -> Any:
    """Shape and type of a tensor of a batch."""
    if isinstance(value, dict) and "data" in value:  # TorchIO
        value = value["data"]
    return [*value.shape, str(value.dtype)] if isinstance(value, torch.Tensor) else None


def versions(engine: str) -> dict[str, str]:
    packages = {
        "monai": ("monai", "torch", "nibabel"),
        "nnunet": ("nnunetv2", "batchgenerators", "batchgeneratorsv2", "blosc2", "torch"),
        "torchio": ("torchio", "SimpleITK", "torch"),
        "copy": ("numpy",),
    }
    return {package: version(package) for package in packages[engine.split("_")[0]]}


ENGINES: dict[str, Callable[[Settings], Result]] = {
    engine.__name__: engine
    for engine in (
        monai_nifti_views,
        monai_cached_views,
        monai_cached_crops,
        nnunet_crops,
        torchio_queue_crops,
        copy_limit_views,
        copy_limit_crops,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("settings", type=Path, help="a JSON file")
    options = parser.parse_args()
    settings = {**DEFAULTS, **json.loads(options.settings.read_text())}
    python = settings.get(f"{options.engine.split('_')[0]}_python", sys.executable)
    if not Path(python).exists():
        print(json.dumps({"skipped": f"there is no interpreter {python}"}))
        return
    if Path(python).absolute() != Path(sys.executable).absolute():
        command = [python, __file__, options.engine, str(options.settings)]
        sys.exit(subprocess.run(command, check=False).returncode)
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):  # peers print
        result = ENGINES[options.engine](settings)
    if "skipped" not in result:
        result["versions"] = versions(options.engine)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
