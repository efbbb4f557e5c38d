"""Head CT triage: from a scan to a calibrated probability, a decision and a saliency map."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
