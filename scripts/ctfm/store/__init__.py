"""Scans converted once into files that are read by region."""

from ctfm.store.building import build
from ctfm.store.dataset import StoreDataset
from ctfm.store.index import Store, StoredScan
from ctfm.store.recipe import RECIPES, Recipe, recipe
from ctfm.store.sampling import ClassCrops, Samples, Views, Volumes

__all__ = [
    "RECIPES",
    "ClassCrops",
    "Recipe",
    "Samples",
    "Store",
    "StoreDataset",
    "StoredScan",
    "Views",
    "Volumes",
    "build",
    "recipe",
]
