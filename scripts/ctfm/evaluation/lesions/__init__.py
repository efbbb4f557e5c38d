"""Lesion by lesion: which tumours were found, and which findings are none."""

__all__ = ()
