"""Label maps back on the grid that a scan came on, without an array of classes x voxels.

`InvertLabelsd` is what configs name as `_target_`. `before_resampling` tells inferers which grid
the network's probabilities are to be interpolated to.
"""

from ctfm.inversion.history import Grid, NotSeparableError, before_resampling
from ctfm.inversion.labels import InvertLabelsd
from ctfm.inversion.taps import Taps

__all__ = ["Grid", "InvertLabelsd", "NotSeparableError", "Taps", "before_resampling"]
