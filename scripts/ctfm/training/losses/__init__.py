"""Losses of self-supervised pretraining, over embeddings of two views of each crop of a scan."""

__all__ = ()
