"""Read, convert, verify and inject CT-FM weights: strict, counted, and said aloud.

Weights go wrong in silence: a load that matches no tensor leaves a random network that trains
without complaint. Here every tensor has to agree by name, shape and type, BatchNorm's running
statistics included; what does not agree is an error that names it. `load_encoder` and
`load_network` are what configs name as `_target_`.
"""

from ctfm.weights.audit import fingerprint
from ctfm.weights.checkpoints import read_metadata
from ctfm.weights.layouts import Architecture, Kind, Weights
from ctfm.weights.loading import load_encoder, load_network, read_encoder
from ctfm.weights.reports import Report, verify
from ctfm.weights.sources import KNOWN_REPOSITORIES, KnownRepository, Source, find_weights
from ctfm.weights.widening import load_encoder_for_channels
from ctfm.weights.writing import convert, fetch, inject

__all__ = [
    "KNOWN_REPOSITORIES",
    "Architecture",
    "Kind",
    "KnownRepository",
    "Report",
    "Source",
    "Weights",
    "convert",
    "fetch",
    "find_weights",
    "fingerprint",
    "inject",
    "load_encoder",
    "load_encoder_for_channels",
    "load_network",
    "read_encoder",
    "read_metadata",
    "verify",
]
