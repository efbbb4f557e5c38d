"""A page to look with: a scan, its labels or map, and places in other scans that are like one."""

from ctfm.viewing.view import view

__all__ = ["view"]
