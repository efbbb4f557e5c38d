"""Pictures for people: label maps, saliency, search results, patches."""

__all__ = ()
