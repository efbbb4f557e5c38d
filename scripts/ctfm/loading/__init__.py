"""From scans or a store to batches: by torch's loader, or by threads."""

from ctfm.loading.dataset import StoreDataset
from ctfm.loading.loader import StoreLoader
from ctfm.loading.plain import PassSampler, TolerantDataset

__all__ = ["PassSampler", "StoreDataset", "StoreLoader", "TolerantDataset"]
