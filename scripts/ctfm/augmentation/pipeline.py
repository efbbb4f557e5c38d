"""A list of MONAI transforms, drawn at one place and computed at another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import Compose, Transform
from torch import Tensor

from ctfm.augmentation.steps import Pair, Resize, Step, step_of
from ctfm.errors import UserError

__all__ = ["Augmentation", "Drawn"]

#: Parameters of each step for one volume; None where the step leaves it alone.
Drawn = list[Any]
KEYS = {"image", "label"}


class Augmentation:
    """MONAI's dictionary transforms of ``image`` and ``label``.

    Drawing is cheap and happens in one thread; applying needs only what was drawn, so that it can
    happen elsewhere: in DALI, on a GPU, in another process.

    Args:
        transforms: dictionary transforms, in order, as configs list them.

    Raises:
        UserError: a transform is not one of dictionaries, or has keys other than these.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.compose = Compose(list(transforms)).flatten()
        self.steps: list[Step] = []
        for transform in self.compose.transforms:
            keys = set(getattr(transform, "keys", ()))
            if not keys or not keys <= KEYS:
                name = type(transform).__name__
                raise UserError(
                    f"transform {name} has keys {sorted(map(str, keys))}: a store gives image and "
                    "label, and takes dictionary transforms of these"
                )
            self.steps.append(step_of(transform))

    def draw(self, seed: int, shape: Sequence[int]) -> Drawn:
        """What `Compose.set_random_state(seed)` makes the transforms draw for one volume.

        Args:
            seed: of this volume.
            shape: (D, H, W) that it has at first.
        """
        self.compose.set_random_state(seed=seed)
        drawn: Drawn = []
        for step in self.steps:
            drawn.append(step.draw(shape))
            if isinstance(step, Resize):
                shape = drawn[-1]
        return drawn

    def apply(self, image: Tensor, label: Tensor | None, drawn: Drawn, first: int = 0) -> Pair:
        """Compute what was drawn.

        Args:
            image: (D, H, W), float32; may be changed in place.
            label: (D, H, W) or None.
            drawn: of `draw`.
            first: number of steps that are done already.
        """
        for step, parameters in zip(self.steps[first:], drawn[first:], strict=True):
            if parameters is not None:
                image, label = step.apply(image, label, parameters)
        return image, label
