"""Predict with this fold; Auto3DSeg's ensembles import `InferClass`."""

from ctfm.auto3dseg import InferClass

__all__ = ["InferClass"]
