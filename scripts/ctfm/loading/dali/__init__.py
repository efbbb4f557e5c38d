"""Loading by DALI, from a store; the only room that imports nvidia.dali, and that on request."""

__all__ = ()
