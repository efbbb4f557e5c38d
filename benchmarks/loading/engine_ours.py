"""This project's side of the loading benchmark: from a store, by DALI and by torch's loader."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.transforms import RandFlipd, RandGaussianSmoothd, RandHistogramShiftd, Resized
from torch.utils.data import DataLoader

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
from ctfm.contract import PRETRAINING
from ctfm.loading import (
    Augmentation,
    ClassCrops,
    DaliLoader,
    Samples,
    StoreDataset,
    StoredScan,
    Views,
    build_store,
    close_files,
    convert_scan,
    store_recipe,
    write_array,
)

#: Scans in an epoch of views, and crops of a scan in one of crops: epochs that end seldom.
EPOCH = 1000


def ours_dali_views(settings: Settings) -> Result:
    """Pretraining by `DaliLoader`."""
    loader = DaliLoader(views(settings), view_transforms(), num_workers=settings["workers"])
    return measure(endless(loader), settings, VIEWS, "views")


def ours_operators_views(settings: Settings) -> Result:
    """Pretraining through DALI's CPU operators, which is not what a CPU does by default."""
    samples, transforms = views(settings), view_transforms()
    loader = DaliLoader(samples, transforms, num_workers=settings["workers"], resampling="dali")
    return measure(endless(loader), settings, VIEWS, "views")


def ours_operators_crops(settings: Settings) -> Result:
    """Whole-body training through DALI's CPU operators, likewise."""
    samples, transforms, workers = crops(settings), whole_body_transforms(), settings["workers"]
    loader = DaliLoader(samples, transforms, BATCH, num_workers=workers, resampling="dali")
    return measure(endless(loader), settings, BATCH, "crops")


def ours_torch_views(settings: Settings) -> Result:
    """Pretraining by torch's loader over the same store."""
    dataset = StoreDataset(views(settings), view_transforms())
    loader = DataLoader(dataset, num_workers=settings["workers"])
    return measure(endless(loader), settings, VIEWS, "views", settings["workers"])


def ours_dali_crops(settings: Settings) -> Result:
    """Whole-body training by `DaliLoader`."""
    loader = DaliLoader(
        crops(settings), whole_body_transforms(), BATCH, num_workers=settings["workers"]
    )
    return measure(endless(loader), settings, BATCH, "crops")


def ours_torch_crops(settings: Settings) -> Result:
    """Whole-body training by torch's loader over the same store."""
    dataset = StoreDataset(crops(settings), whole_body_transforms())
    loader = DataLoader(dataset, BATCH, num_workers=settings["workers"])
    return measure(endless(loader), settings, BATCH, "crops", settings["workers"])


def ours_build(settings: Settings) -> Result:
    """What `ctfm store build` does to a scan, without hashing its source."""
    made_by, target = store_recipe("pretraining"), Path(settings["folder"]) / "ours_build.b2nd"
    seconds = []
    while sum(seconds) < settings["seconds"] or len(seconds) < 2:
        start = time.perf_counter()
        write_array(target, convert_scan(settings["scans"][0], None, made_by).image, {})
        seconds.append(time.perf_counter() - start)
    return {"items": len(seconds) - 1, "seconds": sum(seconds[1:]), "unit": "scans"}


def ours_bytes(settings: Settings) -> Result:
    """Bytes that the disk delivers for a crop, none of its pages in memory, against its voxels."""
    return {
        "views": share_read(views(settings), settings),
        "crops": share_read(crops(settings), settings),
    }


def ours_stages(settings: Settings) -> Result:
    """Milliseconds that each stage takes for a sample, one after the other on one core."""
    return {
        "views": stages(views(settings), view_transforms(), settings),
        "crops": stages(crops(settings), whole_body_transforms(), settings),
    }


def stages(samples: Samples, transforms: Sequence[Any], settings: Settings) -> dict[str, float]:
    """Mean over samples, those that a transform leaves alone included; DALI's part by torch."""
    augmentation = Augmentation(transforms)
    spent: dict[str, float] = defaultdict(float)
    count, end = 0, time.monotonic() + settings["seconds"]

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        spent[stage] += time.perf_counter() - start
        return result

    while time.monotonic() < end:
        boxes = timed("choosing boxes", partial(samples.boxes, 1, count % len(samples)))
        for box in boxes:
            drawn = timed("drawing", partial(augmentation.draw, box.seed))
            image = torch.from_numpy(timed("reading images", box.image))
            label = None
            if samples.labelled:
                label = torch.from_numpy(samples.classes(timed("reading labels", box.label)))
            image = timed("to 0..1", partial(scaled, image, *samples.recipe.hu_window))
            for step, parameters in zip(augmentation.steps, drawn, strict=True):
                if parameters is not None:
                    apply = partial(step.apply, image, label, parameters)
                    image, label = timed(type(step).__name__, apply)
        count += 1
    items = count * len(boxes)
    return {stage: 1000 * seconds / items for stage, seconds in spent.items()}


def scaled(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return image.float().sub_(low).mul_(1 / (high - low))


def share_read(samples: Samples, settings: Settings) -> float | None:
    """Bytes read for a sample's voxels, nothing of its scan in memory before.

    None where the file system does not say what it read.
    """
    read = needed = index = 0
    end = time.monotonic() + settings["seconds"] / 4
    while time.monotonic() < end and index < len(samples):
        forget(samples.scan(1, index))
        before = bytes_read()
        for box in samples.boxes(1, index):
            needed += box.image().nbytes
            needed += box.label().nbytes if samples.labelled else 0
        read += bytes_read() - before
        index += 1
    return read / needed if read else None


def forget(scan: StoredScan) -> None:
    """Let the kernel drop the pages of a scan's files, which it does once they are closed."""
    close_files()
    for path in (scan.image_path, scan.label_path)[: 1 + scan.entry.labelled]:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def views(settings: Settings) -> Views:
    store = stored(settings, "pretraining", [{"image": scan} for scan in settings["scans"]])
    return Views(store, PRETRAINING.patch, scans_per_epoch=EPOCH)


def view_transforms() -> list[Any]:
    recipe, key = PRETRAINING, "image"
    return [
        Resized(key, recipe.patch, mode="trilinear"),
        RandFlipd(key, prob=recipe.flip_prob, spatial_axis=recipe.flip_axis),
        RandHistogramShiftd(
            key,
            num_control_points=recipe.histogram_shift_control_points,
            prob=recipe.histogram_shift_prob,
        ),
        RandGaussianSmoothd(key, prob=recipe.gaussian_smooth_prob),
    ]


def crops(settings: Settings) -> ClassCrops:
    store = stored(settings, "whole_body", settings["rows"])
    return ClassCrops(store, PATCH, range(1, CLASSES), crops_per_scan=EPOCH)


def stored(settings: Settings, task: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A store of the scans; what it holds already stays."""
    folder = Path(settings["folder"])
    datalist = folder / f"{task}.json"
    datalist.write_text(json.dumps({"training": list(rows)}))
    build_store(str(datalist), str(folder / f"store_{task}"), task, workers=settings["workers"])
    return str(folder / f"store_{task}")


def endless(loader: Any) -> Iterator[Mapping[str, Any]]:
    """One epoch after the other, each with draws of its own."""
    epoch = 0
    while True:
        epoch += 1
        for part in (loader, loader.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        yield from loader


ENGINES = {
    engine.__name__: engine
    for engine in (
        ours_dali_views,
        ours_operators_views,
        ours_operators_crops,
        ours_torch_views,
        ours_dali_crops,
        ours_torch_crops,
        ours_build,
        ours_bytes,
        ours_stages,
    )
}

if __name__ == "__main__":
    main(ENGINES, {"ours": ("torch", "monai", "blosc2", "nvidia-dali-cuda120")})
