"""nnU-Net's and TorchIO's side of the loading benchmark, and what no loader can exceed.

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

import itertools
import math
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loading.measuring import (
    BATCH,
    CLASSES,
    PATCH,
    VIEWS,
    Result,
    Settings,
    main,
    measure,
)
from benchmarks.loading.scans import oriented, uncompressed
from ctfm.contract import PRETRAINING, WHOLE_BODY

#: TorchIO's patches from a volume that has been read and augmented, and volumes in its queue.
PATCHES_PER_VOLUME, VOLUMES = 8, 4


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
        loader = nnUNetDataLoader(dataset, BATCH, read, PATCH, labels, 1.0, transforms=transforms)
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


ENGINES = {
    engine.__name__: engine
    for engine in (nnunet_crops, torchio_queue_crops, copy_limit_views, copy_limit_crops)
}

if __name__ == "__main__":
    main(
        ENGINES,
        {
            "nnunet": ("nnunetv2", "batchgenerators", "batchgeneratorsv2", "blosc2", "torch"),
            "torchio": ("torchio", "SimpleITK", "torch"),
            "copy": ("numpy",),
        },
    )
