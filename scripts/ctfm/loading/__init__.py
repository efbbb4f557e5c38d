"""From a store to batches, without DALI: by torch's loader, or by threads."""

from ctfm.loading.dataset import StoreDataset
from ctfm.loading.loader import StoreLoader

__all__ = ["StoreDataset", "StoreLoader"]
