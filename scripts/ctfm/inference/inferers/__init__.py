"""Inferers that MONAI lacks: fast number formats, and label maps in memory that does not grow.

`AutocastInferer` and `LabelMapInferer` are what configs name as `_target_`. `finished_slabs` is
what the latter is made of, for consumers that want more of a slab than its labels.
"""

__all__ = ()
