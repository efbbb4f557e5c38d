"""Label maps back on the grid that a scan came on, without an array of classes x voxels.

`InvertLabelsd` is what configs name as `_target_`. `before_resampling` tells inferers which grid
the network's probabilities are to be interpolated to.
"""

__all__ = ()
