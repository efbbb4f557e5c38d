"""Find a place of one scan in another: the published semantic search, as a tool."""

from ctfm.locating.locate import locate

__all__ = ["locate"]
