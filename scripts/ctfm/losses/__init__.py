"""Losses of self-supervised pretraining, over embeddings of two views of each crop of a scan."""

from ctfm.losses.nt_xent import IntraSampleNTXentLoss, NTXentLoss
from ctfm.losses.scores import contrastive_scores
from ctfm.losses.simsiam import SimSiamLoss
from ctfm.losses.vicreg import VICRegLoss

__all__ = [
    "IntraSampleNTXentLoss",
    "NTXentLoss",
    "SimSiamLoss",
    "VICRegLoss",
    "contrastive_scores",
]
