"""Data set folders to MONAI datalists, and back; needs neither torch nor monai."""

from ctfm.datalists.folds import check_labels, read_fold
from ctfm.datalists.labelled import few_subjects, read_labelled
from ctfm.datalists.reading import few_shot, read_datalist

__all__ = [
    "check_labels", "few_shot", "few_subjects", "read_datalist", "read_fold", "read_labelled",
]  # fmt: skip
