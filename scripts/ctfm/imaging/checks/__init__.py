"""Is a file a CT in Hounsfield units, and is this its label?"""

__all__ = ()
