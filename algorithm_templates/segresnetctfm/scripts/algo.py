"""What Auto3DSeg imports to make and train the folds."""

from ctfm.auto3dseg import CTFMAlgo


class SegresnetctfmAlgo(CTFMAlgo):
    """SegResNetDS around CT-FM's encoder; Auto3DSeg finds it by this name."""
