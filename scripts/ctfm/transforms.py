"""Transforms that MONAI lacks: reading scans with checks, class lookups, crops and their views."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Randomizable, Transform
from monai.utils import convert_to_dst_type

from ctfm.errors import UserError
from ctfm.input_checks import inspect_scan
from ctfm.scan_checks import check_ct
from ctfm.scans import read_scan

__all__ = ["ClassPositionsd", "LoadScand", "MapClassesd", "NameConfidenced", "RandViewsd"]

logger = logging.getLogger(__name__)


class LoadScand(MapTransform):
    """Read a scan and refuse what is no CT, before a network turns it into confident nonsense.

    Args:
        keys: items that hold a path: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
        input_check: "error" refuses what `ctfm.scan_checks.check_ct` finds, "warn" prints it and
            goes on, "off" does not look at the values (for label maps).
        inspect: note beside the scan, as the item ``input_check`` (JSON), what
            `ctfm.input_checks.inspect_scan` finds, and log its warnings.

    Raises:
        ctfm.errors.UserError: the scan is missing, unreadable, or (with "error") no CT.
    """

    def __init__(
        self, keys: KeysCollection, input_check: str = "error", inspect: bool = False
    ) -> None:
        super().__init__(keys)
        if input_check not in ("error", "warn", "off"):
            raise UserError(f"input_check is {input_check!r}: choose error, warn or off")
        self.input_check = input_check
        self.inspect = inspect

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each path by a `MetaTensor` (1, X, Y, Z), float32, with its affine."""
        result = dict(data)
        for key in self.key_iterator(result):
            path = str(result[key])
            result[key] = read_scan(path)
            check_ct(result[key], path, self.input_check)
            if self.inspect:
                found = inspect_scan(result[key])
                for warning in found.warnings:
                    logger.warning("%s: %s", path, warning)
                # as text: a loader would take lists in it for batches
                result["input_check"] = json.dumps(asdict(found))
        return result


class MapClassesd(MapTransform):
    """Exchange class ids by one table lookup; every id that is not listed becomes background.

    MONAI's `MapLabelValued` passes over the volume once per class, 117 times for a whole body.

    Args:
        keys: items that hold label maps with non-negative integer values.
        source: ids as they come.
        target: ids as they go, one for each of `source`.
        dtype: torch type of the result.
        strict: refuse ids that are not listed, and are not 0, in place of taking them for
            background.
    """

    def __init__(
        self,
        keys: KeysCollection,
        source: Sequence[int],
        target: Sequence[int],
        dtype: torch.dtype = torch.uint8,
        strict: bool = False,
    ) -> None:
        super().__init__(keys)
        self.strict = strict
        self.known = frozenset({0, *source})
        if len(source) != len(target):
            raise UserError(
                f"{len(source)} class ids are mapped to {len(target)}: give one target for each"
            )
        self.dtype = dtype
        # numpy: a tensor does not pickle to the same bytes twice, and caches hash transforms
        self.table = np.zeros(max(256, *(i + 1 for i in source)), dtype=np.int64)
        self.table[list(source)] = list(target)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the label maps of `keys`; shape, affine and applied operations stay."""
        result = dict(data)
        for key in self.key_iterator(result):
            label = result[key]
            plain = label.as_tensor() if isinstance(label, MetaTensor) else torch.as_tensor(label)
            if self.strict:
                self._check(plain, label)
            table = torch.from_numpy(self.table).to(plain.device, self.dtype)
            mapped = table[plain.long().clamp_(0, len(table) - 1)]
            result[key] = convert_to_dst_type(mapped, label, dtype=self.dtype)[0]
        return result

    def _check(self, plain: torch.Tensor, label: Any) -> None:
        values = set(torch.unique(plain).tolist())
        if other := sorted(values - self.known):
            name = label.meta.get("filename_or_obj", "label") if hasattr(label, "meta") else "label"
            shown = ", ".join(f"{value:g}" for value in other[:5])
            raise UserError(
                f"{name} holds {shown}; the classes are {', '.join(map(str, sorted(self.known)))}: "
                "correct the label, or give the task's classes"
            )


class NameConfidenced(MapTransform):
    """Read what `LabelMapInferer` notes of each class's confidence by class id.

    Args:
        keys: a label map with ``meta["confidence"]`` (K,), or without, then nothing is done.
        class_ids: of the channels after background.
        name: item that is made: ``{class id: confidence}`` of the classes that are there.
    """

    def __init__(
        self, keys: KeysCollection, class_ids: Sequence[int], name: str = "confidence"
    ) -> None:
        super().__init__(keys)
        self.class_ids = tuple(class_ids)
        self.name = name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the item; the label map passes through."""
        result = dict(data)
        for key in self.key_iterator(result):
            values = getattr(result[key], "meta", {}).get("confidence")
            if values is not None:
                pairs = zip(self.class_ids, values.tolist()[1:], strict=True)
                result[self.name] = {i: value for i, value in pairs if not math.isnan(value)}
        return result


class ClassPositionsd(Transform):
    """Note where each class lies, for `RandCropByLabelClassesd(indices_key=…)`.

    One sort over the labelled voxels in place of MONAI's pass per class, and a bounded number of
    positions per class, so that the result can be cached. A scan that shows none of the classes
    gives positions all over it under the first class, so that it is cropped at random. So does
    background where it is asked for: it is nearly everywhere, and any place is as good as its own.

    Args:
        label_key: item with a label map (1, D, H, W) of values 0..num_classes-1.
        indices_key: item that receives the positions.
        num_classes: number of classes, background included.
        max_samples_per_class: positions kept of each class, evenly spread over it.
        background: give positions of background too.
    """

    def __init__(
        self,
        label_key: str,
        indices_key: str,
        num_classes: int,
        max_samples_per_class: int = 10_000,
        background: bool = False,
    ) -> None:
        self.background = background
        self.label_key = label_key
        self.indices_key = indices_key
        self.num_classes = num_classes
        self.max_samples_per_class = max_samples_per_class

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add a list of `num_classes` tensors of flat positions."""
        label = torch.as_tensor(data[self.label_key]).reshape(-1).numpy()
        labelled = np.flatnonzero(label)
        order = np.argsort(label[labelled], kind="stable")
        counts = np.bincount(label[labelled].astype(np.int64), minlength=self.num_classes)
        if len(counts) > self.num_classes:
            raise UserError(
                f"the label holds class {len(counts) - 1}, the network has {self.num_classes}: "
                "check class_ids against the label files"
            )
        groups = np.split(labelled[order], np.cumsum(counts)[:-1])
        found = [group[self._spread(len(group))].astype(np.int64) for group in groups]
        if not len(labelled):
            found[1] = self._spread(label.size)
        if self.background:
            found[0] = self._spread(label.size)
        return {**data, self.indices_key: [torch.from_numpy(group) for group in found]}

    def _spread(self, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Evenly spread places among so many, no more than are kept."""
        keep = min(count, self.max_samples_per_class)
        return np.linspace(0, max(0, count - 1), keep).astype(np.int64)


class RandViewsd(Randomizable, MapTransform):
    """Crops of a scan for contrastive learning, each seen several times.

    A crop has the size of a patch and lies anywhere. A view of it is a smaller box in it, at one
    scale for all axes, which `Resized` (first among `transforms`) brings back to a patch. This is
    what `ctfm.store.Views` reads from a store.

    Args:
        keys: items that hold an image (1, D, H, W), no smaller than a patch along any axis.
        patch: voxels (D, H, W).
        transforms: dictionary transforms of a view.
        crops: of each scan.
        views: of each crop.
        scale: smallest and largest size of a view, as a share of the crop's sides.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch: Sequence[int],
        transforms: Sequence[Transform],
        crops: int = 15,
        views: int = 2,
        scale: Sequence[float] = (0.33, 1.0),
    ) -> None:
        super().__init__(keys)
        self.patch = tuple(patch)
        self.augment = Compose(list(transforms))
        self.crops = crops
        self.views = views
        self.smallest, self.largest = scale

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandViewsd:
        """Seed the boxes, and from them what is done to the views."""
        super().set_random_state(seed, state)
        self.augment.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def randomize(self, shape: Sequence[int]) -> list[tuple[slice, ...]]:
        """Boxes of all views in an image (1, *shape), those of the first crop first."""
        boxes = []
        for _ in range(self.crops):
            corner = [self.R.randint(n - p + 1) for n, p in zip(shape, self.patch, strict=True)]
            for _ in range(self.views):
                scale = self.R.uniform(self.smallest, self.largest)
                size = [math.ceil(p * scale) for p in self.patch]
                start = [
                    c + self.R.randint(p - s + 1)
                    for c, p, s in zip(corner, self.patch, size, strict=True)
                ]
                ends = zip(start, size, strict=True)
                boxes.append((slice(None), *(slice(a, a + s) for a, s in ends)))
        return boxes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by its views (crops, views, 1, D, H, W), plain tensors."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            image = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
            boxes = self.randomize(image.shape[1:])
            found = [self.augment({key: image[box]})[key] for box in boxes]
            plain = [v.as_tensor() if isinstance(v, MetaTensor) else v for v in found]
            result[key] = torch.stack(plain).reshape(self.crops, self.views, *plain[0].shape)
        return result
