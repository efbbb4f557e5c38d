"""A page to look with: a scan, its labels or map, and places in other scans that are like one."""

__all__ = ()
