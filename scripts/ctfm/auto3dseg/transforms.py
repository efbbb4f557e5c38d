"""Transforms of this template that neither MONAI nor the rest of the package has."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, MapTransform
from monai.utils import convert_to_dst_type

__all__ = ["GroupsToChannelsd", "OnOwnGridd", "masks_of"]


def masks_of(label: torch.Tensor, groups: Sequence[Sequence[int]], dim: int = 0) -> torch.Tensor:
    """A channel for each class of a label map whose classes may overlap.

    Args:
        label: integers, with one channel along `dim`.
        groups: for each class the values that belong to it.
        dim: where the channel axis is.

    Returns:
        0 and 1, float32, since losses square them.
    """
    values = (torch.tensor(list(g), dtype=label.dtype, device=label.device) for g in groups)
    return torch.cat([torch.isin(label, group) for group in values], dim).float()


class GroupsToChannelsd(MapTransform):
    """A channel for each class of a label map whose classes may overlap.

    Args:
        keys: items that hold label maps (1, D, H, W).
        groups: for each class the values that belong to it.
    """

    def __init__(self, keys: KeysCollection, groups: Sequence[Sequence[int]]) -> None:
        super().__init__(keys)
        self.groups = [list(group) for group in groups]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace label maps by masks (C, D, H, W) of 0 and 1, float32."""
        result = dict(data)
        for key in self.key_iterator(result):
            label = result[key]
            plain = label.as_tensor() if isinstance(label, MetaTensor) else torch.as_tensor(label)
            masks = masks_of(plain, self.groups)
            result[key] = convert_to_dst_type(masks, label, dtype=torch.float32)[0]
        return result


class OnOwnGridd(MapTransform):
    """From probabilities on the network's grid to labels on the image's own.

    As `Invertd` followed by an argmax, but some classes at a time: whole-body probabilities of a
    large scan would take tens of GiB on its own grid.

    Args:
        keys: probabilities (C, D, H, W).
        transform: what the image went through.
        sigmoid: classes may overlap: each is where its probability exceeds a half.
        image_key: the image, with the operations that were applied to it.
        at_once: classes that are brought back together.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Compose,
        sigmoid: bool = False,
        image_key: str = "image",
        at_once: int = 4,
    ) -> None:
        super().__init__(keys)
        self.sigmoid = sigmoid
        self.image_key = image_key
        self.at_once = at_once
        self.invert = Invertd(
            keys="part", transform=transform, orig_keys=image_key, nearest_interp=False
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Class numbers (1, X, Y, Z), or with sigmoid masks (C, X, Y, Z); uint8."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._labels(result[key], result[self.image_key])
        return result

    def _labels(self, probabilities: torch.Tensor, image: MetaTensor) -> Any:
        masks: list[torch.Tensor] = []
        best = number = torch.empty(0)
        for start in range(0, len(probabilities), self.at_once):
            # Invertd asks a MetaTensor alone for the image's operations
            part = MetaTensor(torch.as_tensor(probabilities[start : start + self.at_once]))
            inverted = self.invert({"part": part, self.image_key: image})["part"]
            if self.sigmoid:
                masks.append((inverted.as_tensor() > 0.5).to(torch.uint8))
                continue
            value, where = inverted.as_tensor().max(0, keepdim=True)
            where = (where + start).to(torch.uint8)
            if start == 0:
                best, number = value, where
            else:
                number = torch.where(value > best, where, number)
                best = torch.maximum(value, best)
        labels = torch.cat(masks) if self.sigmoid else number
        return convert_to_dst_type(labels, inverted, dtype=torch.uint8)[0]
