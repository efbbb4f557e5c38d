"""Embeddings of many scans in an index on disk, and what is most alike in it.

`Index` is the index, `Searcher` asks it; `search_scan` is `ctfm search`.
"""

__all__ = ()
