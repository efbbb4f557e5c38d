"""Predict with this fold; Auto3DSeg's ensembles import `InferClass`."""

from ctfm.auto3dseg.inference import InferClass

__all__ = ["InferClass"]
