"""Public data sets, and folders of any layout, as datalists."""

__all__ = ()
