"""Embeddings of many scans in an index on disk, and what is most alike in it.

`Index` is the index, `Searcher` asks it; `search_scan` is `ctfm search`.
"""

from ctfm.retrieval.adding import add_embeddings
from ctfm.retrieval.building import build_index
from ctfm.retrieval.checking import check_index, describe_index
from ctfm.retrieval.exporting import export_index
from ctfm.retrieval.index import Index
from ctfm.retrieval.querying import search_scan
from ctfm.retrieval.searching import Hit, Searcher, merge_hits

__all__ = [
    "Hit",
    "Index",
    "Searcher",
    "add_embeddings",
    "build_index",
    "check_index",
    "describe_index",
    "export_index",
    "merge_hits",
    "search_scan",
]
