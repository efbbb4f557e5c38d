"""The confidence that an inferer notes of each class, by class id."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["NameConfidenced"]


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
