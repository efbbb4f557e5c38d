"""Two runs on the same cases: is one better, and by how much?"""

__all__ = ()
