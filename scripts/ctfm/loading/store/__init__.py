"""Scans converted once into files that are read by region."""

__all__ = ()
