"""Groups of commands: each parses, calls, prints. Nothing heavy is imported before a call."""

from ctfm.commands.auto3dseg import Auto3DSeg
from ctfm.commands.calling import call
from ctfm.commands.data import Datalist, Dicom, Phantom, Store
from ctfm.commands.evaluation import Evaluate
from ctfm.commands.protocols import Protocols
from ctfm.commands.searching import Indexes, locate, search, view
from ctfm.commands.segmentation import segment
from ctfm.commands.weights import Weights

__all__ = [
    "Auto3DSeg",
    "Datalist",
    "Dicom",
    "Evaluate",
    "Indexes",
    "Phantom",
    "Protocols",
    "Store",
    "Weights",
    "call",
    "locate",
    "search",
    "segment",
    "view",
]
