"""Scans converted once into files that are read by region."""

from ctfm.store.boxes import Samples
from ctfm.store.building import build
from ctfm.store.index import Store, StoredScan
from ctfm.store.recipe import RECIPES, Recipe, recipe
from ctfm.store.sampling import ClassCrops, Views, Volumes

__all__ = [
    "RECIPES",
    "ClassCrops",
    "Recipe",
    "Samples",
    "Store",
    "StoredScan",
    "Views",
    "Volumes",
    "build",
    "recipe",
]
