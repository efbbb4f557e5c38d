"""Lesion by lesion: which tumours were found, and which findings are none."""

from ctfm.lesions.detection import LesionScore, LesionSummary, lesion_score, summarise_lesions
from ctfm.lesions.folders import lesions
from ctfm.lesions.report import format_lesions, write_lesions

__all__ = [
    "LesionScore", "LesionSummary", "format_lesions", "lesion_score", "lesions",
    "summarise_lesions", "write_lesions",
]  # fmt: skip
