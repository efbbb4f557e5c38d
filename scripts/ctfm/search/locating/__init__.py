"""Find a place of one scan in another: the published semantic search, as a tool."""

__all__ = ()
