"""Loading by DALI, from a store; the only room that imports nvidia.dali, and that on request."""

from ctfm.dali.loader import DaliLoader

__all__ = ["DaliLoader"]
