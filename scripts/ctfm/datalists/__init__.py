"""Data set folders to MONAI datalists, and back; needs neither torch nor monai."""

from ctfm.datalists.reading import few_shot, read_datalist

__all__ = ["few_shot", "read_datalist"]
