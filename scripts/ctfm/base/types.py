"""Types that many modules name."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

__all__ = ["Array"]

#: A numpy array of any type; docstrings give its shape.
Array = npt.NDArray[Any]
