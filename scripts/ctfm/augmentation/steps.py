"""MONAI's random transforms, taken apart: what each draws, and what that does to a volume.

Each transform draws by its own code and random state, so that a seed gives the same augmentation
here as in `monai.transforms.Compose`. How it is computed differs (`ctfm.augmentation.kernels`), and
a transform that has no fast form here runs as MONAI wrote it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from monai.transforms import (
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Resized,
    Transform,
)
from monai.transforms.utils import create_rotate, create_scale, create_shear, create_translate
from torch import Tensor

from ctfm.augmentation.kernels import (
    affine_linear,
    affine_nearest,
    gaussian_smooth,
    histogram_shift,
)

__all__ = ["Affine", "Flip", "Resize", "Step", "step_of"]

Pair = tuple[Tensor, Tensor | None]


class Step(ABC):
    """One transform.

    Args:
        transform: of MONAI, seeded by its `Compose` before each draw.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def draw(self, shape: Sequence[int]) -> Any:
        """Parameters for a volume of this shape; None: this one is left alone."""
        self.transform.randomize(None)
        return self.parameters(shape) if self.transform._do_transform else None

    def parameters(self, shape: Sequence[int]) -> Any:
        """What is drawn once it is decided that the transform takes place."""
        return True

    def moves(self, label: Tensor | None) -> TypeGuard[Tensor]:
        """Whether there is a label, and the transform names it among its keys."""
        return label is not None and "label" in self.transform.keys

    @abstractmethod
    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Image and label (D, H, W) after the transform."""


class Resize(Step):
    """`Resized(mode="trilinear")`: nothing is drawn."""

    def draw(self, shape: Sequence[int]) -> Any:
        """The size (D, H, W)."""
        return tuple(self.transform.resizer.spatial_size)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Interpolate the image."""
        resized = torch.nn.functional.interpolate(image[None, None], size=drawn, mode="trilinear")
        return resized[0, 0], label


class Flip(Step):
    """`RandFlipd`: draws the axes."""

    def parameters(self, shape: Sequence[int]) -> tuple[int, ...]:
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

    def parameters(self, shape: Sequence[int]) -> Tensor:
        """(3, 4), output voxel index to input voxel index."""
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
        # MONAI's coordinates start at the centre of the volume
        center = (torch.tensor(tuple(shape), dtype=torch.float64) - 1) / 2
        steps = matrix[:3, :3]
        return torch.cat([steps, (matrix[:3, 3] + center - steps @ center)[:, None]], dim=1)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Resample both by the same matrix."""
        moved = affine_nearest(label, drawn) if self.moves(label) else label
        return affine_linear(image, drawn), moved


class GaussianSmooth(Step):
    """`RandGaussianSmoothd`: draws a sigma for each axis."""

    def parameters(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Sigmas in voxels."""
        smooth = self.transform.rand_smooth
        smooth.randomize(None)
        return smooth.x, smooth.y, smooth.z

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Smooth the image."""
        return gaussian_smooth(image, drawn), label


class HistogramShift(Step):
    """`RandHistogramShiftd`: draws control points."""

    def parameters(self, shape: Sequence[int]) -> tuple[list[float], list[float]]:
        """Where the control points are, and where they go."""
        shifter = self.transform.shifter
        shifter.randomize(None)
        points = shifter.reference_control_points, shifter.floating_control_points
        return tuple(torch.as_tensor(p).tolist() for p in points)  # type: ignore[return-value]

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Map the intensities."""
        return histogram_shift(image, *drawn), label


class ScaleIntensity(Step):
    """`RandScaleIntensityd`: draws a factor."""

    def parameters(self, shape: Sequence[int]) -> float:
        """1 is added to it."""
        self.transform.scaler.randomize(None)
        return float(self.transform.scaler.factor)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Multiply in place."""
        return image.mul_(1 + drawn), label


class ShiftIntensity(Step):
    """`RandShiftIntensityd`: draws an offset."""

    def parameters(self, shape: Sequence[int]) -> float:
        """Offset in the image's units."""
        self.transform.shifter.randomize(None)
        return float(self.transform.shifter._offset)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Add in place."""
        return image.add_(drawn), label


class GaussianNoise(Step):
    """`RandGaussianNoised`: draws a standard deviation, and a seed in place of a noise volume."""

    def parameters(self, shape: Sequence[int]) -> tuple[float, float, int]:
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
    """Any other dictionary transform, run as it is."""

    def draw(self, shape: Sequence[int]) -> Any:
        """The random state, for the transform to draw from when it is applied."""
        generator = getattr(self.transform, "R", None)
        return (generator.get_state() if generator is not None else None,)

    def apply(self, image: Tensor, label: Tensor | None, drawn: Any) -> Pair:
        """Call it with the random state of this volume."""
        if drawn[0] is not None:
            self.transform.set_random_state(state=_generator(drawn[0]))
        data = {"image": image[None]} | ({} if label is None else {"label": label[None]})
        result = self.transform(data)
        found = {k: torch.as_tensor(v)[0].contiguous() for k, v in result.items() if k in data}
        return found["image"], found.get("label")


def _generator(state: Any) -> Any:
    import numpy as np

    generator = np.random.RandomState()
    generator.set_state(state)
    return generator


#: MONAI's class -> its fast form, and what has to hold for that form to be the same.
FAST: dict[type, type[Step]] = {
    RandAffined: Affine,
    RandFlipd: Flip,
    RandGaussianNoised: GaussianNoise,
    RandGaussianSmoothd: GaussianSmooth,
    RandHistogramShiftd: HistogramShift,
    RandScaleIntensityd: ScaleIntensity,
    RandShiftIntensityd: ShiftIntensity,
    Resized: Resize,
}


def step_of(transform: Transform) -> Step:
    """The fast form of a transform, or the transform itself where there is none."""
    kind = FAST.get(type(transform))
    return kind(transform) if kind is not None and _is_plain(transform) else AsMonai(transform)


def _is_plain(transform: Any) -> bool:
    """Whether the options are those that the fast form knows."""
    keys = tuple(transform.keys)
    modes = [str(mode) for mode in getattr(transform, "mode", ())]
    if isinstance(transform, RandFlipd):
        return keys in (("image",), ("image", "label"))
    if isinstance(transform, RandAffined):
        wanted = {("image",): ["bilinear"], ("image", "label"): ["bilinear", "nearest"]}
        return modes == wanted.get(keys) and {str(p) for p in transform.padding_mode} == {"zeros"}
    if keys != ("image",):
        return False
    if isinstance(transform, Resized):
        return modes == ["trilinear"] and not any(transform.anti_aliasing)
    if isinstance(transform, RandGaussianSmoothd):
        return str(transform.rand_smooth.approx) == "erf"
    if isinstance(transform, RandShiftIntensityd):
        return not transform.shifter.channel_wise and set(transform.factor_key) == {None}
    return not (isinstance(transform, RandScaleIntensityd) and transform.scaler.channel_wise)
