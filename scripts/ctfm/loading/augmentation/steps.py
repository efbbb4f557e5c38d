"""MONAI's random transforms, taken apart: what each draws, and what that does to a volume.

Each transform draws by its own code and random state, so that a seed gives the same augmentation
here as in `monai.transforms.Compose`. How it is computed differs (`kernels.py`), and
a transform that has no fast form here runs as MONAI wrote it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any, TypeGuard

import torch
from monai.transforms import Randomizable, RandomizableTransform
from monai.transforms.utils import create_rotate, create_scale, create_shear, create_translate
from monai.utils import convert_to_tensor, fall_back_tuple
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.loading.augmentation.kernels import (
    affine_linear,
    affine_nearest,
    gaussian_smooth,
    histogram_shift,
    resize,
)

__all__ = [
    "Affine",
    "AsMonai",
    "Flip",
    "GaussianNoise",
    "GaussianSmooth",
    "HistogramShift",
    "Pair",
    "Resize",
    "ScaleIntensity",
    "ShiftIntensity",
    "Step",
]

Pair = tuple[Tensor, Tensor | None]


class Step(ABC):
    """One transform.

    Args:
        transform: of MONAI.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self.random_parts = list(_random_parts(transform))

    def seed(self, seed: int | None) -> None:
        """As ``transform.set_random_state(seed=seed)``, which takes 80 us a part to this one's 2.

        MONAI gives all parts of a transform the same seed, and each a new generator.
        """
        own = {id(part.R) for part in self.random_parts if "R" in vars(part)}
        if len(own) < len(self.random_parts):
            self.transform.set_random_state(seed=seed)
        for part in self.random_parts:
            part.R.seed(seed)

    def draw(self, seed: int | None) -> Any:
        """Parameters for one volume; None: it is left alone.

        Args:
            seed: of this transform for this volume; None for those that draw nothing.
        """
        self.seed(seed)
        self.transform.randomize(None)
        return self.parameters() if self.transform._do_transform else None

    def parameters(self) -> Any:
        """What is drawn once it is decided that the transform takes place."""
        return True

    def moves(self, label: Tensor | None) -> TypeGuard[Tensor]:
        """Whether there is a label, and the transform names it among its keys."""
        return label is not None and "label" in self.transform.keys

    @abstractmethod
    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Image and label (D, H, W) after the transform."""


def _random_parts(transform: Any) -> Iterator[Any]:
    """A transform, and those that it is made of, if they draw."""
    if isinstance(transform, Randomizable):
        yield transform
    for part in vars(transform).values():
        if isinstance(part, Randomizable):
            yield from _random_parts(part)


class Resize(Step):
    """`Resized(mode="trilinear")`: nothing is drawn."""

    @property
    def size(self) -> tuple[int, ...]:
        """(D, H, W) of the result."""
        return tuple(self.transform.resizer.spatial_size)

    def draw(self, seed: int | None) -> Any:
        """The size."""
        return self.size

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Interpolate the image."""
        return resize(image, drawn), label


class Flip(Step):
    """`RandFlipd`: draws the axes."""

    def parameters(self) -> tuple[int, ...]:
        """Axes of (D, H, W) to be reversed; none given means all, as in MONAI."""
        axes = self.transform.flipper.spatial_axis
        if axes is None:
            return (0, 1, 2)
        return tuple(axes) if isinstance(axes, Sequence) else (int(axes),)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Reverse axes."""
        return image.flip(drawn), label.flip(drawn) if self.moves(label) else label


class Affine(Step):
    """`RandAffined`, linear for images and nearest for labels, zeros outside."""

    def parameters(self) -> Tensor:
        """(3, 4), output voxel to input voxel, both counted from the centre of the volume."""
        self.transform.rand_affine.randomize()
        grid = self.transform.rand_affine.rand_affine_grid
        grid.randomize()  # MONAI draws once more when it makes the grid
        matrix = torch.eye(4, dtype=torch.float64)
        for make, values in (
            (create_rotate, grid.rotate_params),
            (create_shear, grid.shear_params),
            (create_translate, grid.translate_params),
            (create_scale, grid.scale_params),
        ):
            if values:
                matrix = matrix @ torch.as_tensor(make(3, values), dtype=torch.float64)
        return matrix[:3]

    def indices(self, drawn: Tensor, shape: Sequence[int]) -> Tensor:
        """(3, 4), output voxel index to input voxel index, in a volume (D, H, W).

        Raises:
            UserError: the transform is to give another size, which is not known here.
        """
        size = fall_back_tuple(self.transform.rand_affine.spatial_size, shape)
        if size != tuple(shape):
            raise UserError(
                f"RandAffined has spatial_size {size} and gets volumes of {tuple(shape)}: leave it "
                "out, or give the size of the patch"
            )
        center = (torch.tensor(size, dtype=torch.float64) - 1) / 2
        steps, shift = drawn[:, :3], drawn[:, 3]
        return torch.cat([steps, (shift + center - steps @ center)[:, None]], dim=1)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Resample both by the same matrix."""
        matrix = self.indices(drawn, image.shape)
        moved = affine_nearest(label, matrix) if self.moves(label) else label
        return affine_linear(image, matrix), moved


class GaussianSmooth(Step):
    """`RandGaussianSmoothd`: draws a sigma for each axis."""

    def parameters(self) -> tuple[float, ...]:
        """Sigmas in voxels."""
        smooth = self.transform.rand_smooth
        smooth.randomize(None)
        return smooth.x, smooth.y, smooth.z

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Smooth the image."""
        return gaussian_smooth(image, drawn, in_place=True), label


class HistogramShift(Step):
    """`RandHistogramShiftd`: draws control points."""

    def parameters(self) -> tuple[list[float], list[float]]:
        """Where the control points are, and where they go."""
        shifter = self.transform.shifter
        shifter.randomize(None)
        points = shifter.reference_control_points, shifter.floating_control_points
        return tuple(torch.as_tensor(p).tolist() for p in points)  # type: ignore[return-value]

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Map the intensities."""
        reference, moved = drawn
        return histogram_shift(image, reference, moved, in_place=True), label


class ScaleIntensity(Step):
    """`RandScaleIntensityd`: draws a factor."""

    def parameters(self) -> float:
        """1 is added to it."""
        self.transform.scaler.randomize(None)
        return float(self.transform.scaler.factor)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Multiply in place."""
        return image.mul_(1 + drawn), label


class ShiftIntensity(Step):
    """`RandShiftIntensityd`: draws an offset."""

    def parameters(self) -> float:
        """Offset in the image's units."""
        self.transform.shifter.randomize(None)
        return float(self.transform.shifter._offset)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Add in place."""
        return image.add_(drawn), label


class GaussianNoise(Step):
    """`RandGaussianNoised`: draws a standard deviation, and a seed in place of a noise volume."""

    def parameters(self) -> tuple[float, float, int]:
        """Mean, standard deviation, seed."""
        noise = self.transform.rand_gaussian_noise
        RandomizableTransform.randomize(noise, None)  # its own would draw all the noise
        std = noise.R.uniform(0, noise.std) if noise.sample_std else noise.std
        return float(noise.mean), float(std), int(noise.R.randint(2**31 - 1))

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Add noise that is made on the image's device."""
        mean, std, seed = drawn
        generator = torch.Generator(image.device).manual_seed(seed)
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        return image.add_(noise, alpha=std).add_(mean), label


class AsMonai(Step):
    """Any other dictionary transform, run as it is, by one thread at a time."""

    def __init__(self, transform: Any) -> None:
        super().__init__(transform)
        self.alone = Lock()

    def draw(self, seed: int | None) -> Any:
        """The seed: the transform draws when it is applied."""
        return (seed,)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Call it with the seed of this volume."""
        (seed,) = drawn
        data = {"image": image[None]} | ({} if label is None else {"label": label[None]})
        with self.alone:
            if seed is not None:
                self.transform.set_random_state(seed=seed)
            result = self.transform(data)
        found = {key: convert_to_tensor(result[key], device=image.device)[0] for key in data}
        return found["image"].contiguous(), found.get("label")
