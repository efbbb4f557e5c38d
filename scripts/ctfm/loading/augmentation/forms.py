"""Which of MONAI's transforms have a fast form, and with which options."""

from __future__ import annotations

from typing import Any

from monai.transforms import (
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Resized,
    Transform,
)

from ctfm.loading.augmentation.steps import (
    Affine,
    AsMonai,
    Flip,
    GaussianNoise,
    GaussianSmooth,
    HistogramShift,
    Resize,
    ScaleIntensity,
    ShiftIntensity,
    Step,
)

__all__ = ["step_of"]

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
        size, corners = transform.resizer.spatial_size, transform.align_corners
        fixed = transform.resizer.size_mode == "all" and not isinstance(size, int) and min(size) > 0
        return fixed and modes == ["trilinear"] and not any((*transform.anti_aliasing, *corners))
    if isinstance(transform, RandGaussianSmoothd):
        return str(transform.rand_smooth.approx) == "erf"
    if isinstance(transform, RandShiftIntensityd):
        return not transform.shifter.channel_wise and set(transform.factor_key) == {None}
    return not (isinstance(transform, RandScaleIntensityd) and transform.scaler.channel_wise)
