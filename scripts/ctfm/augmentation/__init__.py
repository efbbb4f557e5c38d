"""MONAI's random transforms at the speed of memory: same draws, same results."""

from ctfm.augmentation.pipeline import Augmentation

__all__ = ["Augmentation"]
