"""MONAI's random transforms at the speed of memory: same draws, same results."""

__all__ = ()
