"""Scores of two classes: figures with intervals, calibration and operating points."""

__all__ = ()
