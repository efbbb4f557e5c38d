"""A list of MONAI transforms, drawn at one place and computed at another."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from monai.transforms import Compose, Randomizable, Transform
from monai.utils import MAX_SEED
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.loading.augmentation.forms import step_of
from ctfm.loading.augmentation.steps import Pair, Step

__all__ = ["Augmentation", "Drawn"]

#: Parameters of each step for one volume; None where the step leaves it alone.
Drawn = list[Any]
KEYS = {"image", "label"}


class Augmentation:
    """MONAI's dictionary transforms of ``image`` and ``label``.

    Drawing is cheap and happens in one thread; applying needs only what was drawn, so that it can
    happen elsewhere: in DALI, on a GPU, in another process.

    Args:
        transforms: dictionary transforms, in order, as configs list them; they are copied, since
            what draws must not be shared between threads.

    Raises:
        UserError: a transform is not one of dictionaries, or has keys other than these.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.steps: list[Step] = []
        self._generator = np.random.RandomState()  # slow to make, quick to seed
        for transform in Compose(deepcopy(list(transforms))).flatten().transforms:
            keys = set(getattr(transform, "keys", ()))
            if not keys or not keys <= KEYS:
                name = type(transform).__name__
                raise UserError(
                    f"transform {name} has keys {sorted(map(str, keys))}: a store gives image and "
                    "label, and takes dictionary transforms of these"
                )
            if getattr(transform, "lazy", False):
                name = type(transform).__name__
                raise UserError(f"transform {name} is lazy, which is not known here: leave it out")
            self.steps.append(step_of(transform))

    def draw(self, seed: int) -> Drawn:
        """What `Compose.set_random_state(seed)` makes the transforms draw for one volume.

        Args:
            seed: of this volume.
        """
        generator = self._generator
        generator.seed(seed % MAX_SEED)
        drawn: Drawn = []
        for step in self.steps:
            drawing = isinstance(step.transform, Randomizable)
            # a seed for each transform that draws, made as by MONAI's Compose
            drawn.append(
                step.draw(int(generator.randint(MAX_SEED, dtype="uint32")) if drawing else None)
            )
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
