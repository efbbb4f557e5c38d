"""Inferers that MONAI lacks: fast number formats, and label maps in memory that does not grow.

`AutocastInferer` and `LabelMapInferer` are what configs name as `_target_`. `finished_slabs` is
what the latter is made of, for consumers that want more of a slab than its labels.
"""

from ctfm.inferers.autocast import AutocastInferer
from ctfm.inferers.label_map import LabelMapInferer
from ctfm.inferers.slabs import Slab, SlabSettings, finished_slabs

__all__ = ["AutocastInferer", "LabelMapInferer", "Slab", "SlabSettings", "finished_slabs"]
