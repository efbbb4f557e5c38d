"""What goes into a training and what comes out: the injected encoder, the checkpoint, the score."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.networks.nets import SegResNetDS

from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.recipe import MODEL, save_model
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.weights.audit import fingerprint
from ctfm.weights.loading import load_encoder, read_encoder

__all__ = ["PROGRESS", "inject", "read_score", "write_results"]

logger = logging.getLogger(__name__)

#: What Auto3DSeg reads a fold's score from. It takes a fold that has one for trained, so it is
#: written when a training is done and not before.
PROGRESS = "progress.yaml"
#: What was injected when the training began.
ENCODER = "encoder.json"
LAST = "last.pt"

Report = dict[str, Any]


def inject(options: Options) -> tuple[SegResNetDS, Report]:
    """Build the network with the pretrained encoder in it, and report on that.

    A training that goes on takes its weights from ``last.pt``, and the encoder's file may be gone.

    Returns:
        Network and report: file, its sha256, tensors injected.

    Raises:
        UserError: the encoder does not fit, or an unfinished training began with another one.
    """
    torch.manual_seed(options["seed"])
    network = options.recipe.build()
    noted = options.ckpt_dir / ENCODER
    if (options.ckpt_dir / LAST).exists() and noted.exists():
        report: Report = json.loads(noted.read_text(encoding="utf-8"))
        if report["pretrained"] != options["pretrained"]:
            raise UserError(
                f"{options.ckpt_dir / LAST} began with pretrained {report['pretrained']}, not "
                f"{options['pretrained']}: move that folder away to start anew"
            )
        return network, report
    report = {"pretrained": options["pretrained"]}
    if options.pretrained is None:
        logger.info("pretrained is null: training from scratch")
    else:
        report |= _inject(network, options.pretrained)
    with atomic_path(noted) as temporary:
        temporary.write_text(json.dumps(report, indent=4) + "\n", encoding="utf-8")
    return network, report


def _inject(network: SegResNetDS, pretrained: str) -> Report:
    weights = read_encoder(pretrained)
    load_encoder(network, pretrained)
    inside = network.encoder.state_dict()
    same = [n for n, tensor in weights.tensors.items() if torch.equal(inside[n].cpu(), tensor)]
    if len(same) != len(inside):
        raise RuntimeError(f"{len(same)} of {len(inside)} tensors are in the network")
    return {
        "file": str(weights.checkpoint.source),
        "sha256": weights.checkpoint.sha256,
        "encoder_sha256": fingerprint(weights.tensors),
        "tensors": f"{len(same)} of {len(inside)}",
    }


def write_results(options: Options, report: Report, state: Any, epoch: int) -> None:
    """Write the best network with its recipe, then the score: with it the fold counts as trained.

    Args:
        options: of the training.
        report: of `inject`.
        state: of the evaluator.
        epoch: that was reached.

    Raises:
        UserError: no validation gave a score.
    """
    best = options.ckpt_dir / "model.pt"
    if state.best_metric_epoch < 1 or not best.exists():
        raise UserError(
            f"fold {options['fold']}: no validation gave a Dice: its cases show none of the classes"
        )
    tensors = torch.load(best, map_location="cpu", weights_only=True)
    save_model(options.ckpt_dir / MODEL, tensors, options.recipe)
    entry = {
        "best_avg_dice_score": float(state.best_metric),
        "best_avg_dice_score_epoch": int(state.best_metric_epoch),
        "epoch": int(epoch),
        "model": MODEL,
        "batch_size": options["batch_size"],
        "roi_size": list(options.recipe.roi_size),
        "encoder": report,
    }
    with atomic_path(options.ckpt_dir / PROGRESS) as temporary:
        temporary.write_text(yaml.safe_dump([entry], sort_keys=False), encoding="utf-8")
    logger.info(
        "fold %s: best mean Dice %.4f (epoch %d) -> %s",
        options["fold"],
        entry["best_avg_dice_score"],
        entry["best_avg_dice_score_epoch"],
        options.ckpt_dir / MODEL,
    )


def read_score(folder: Path) -> float:
    """Best mean Dice of a trained fold.

    Args:
        folder: of its checkpoints.

    Raises:
        UserError: it is not trained, or not to the end.
    """
    path = folder / PROGRESS
    if not path.is_file():
        raise UserError(f"{path}: no such file: the training of this fold has not ended yet")
    return float(yaml.safe_load(path.read_text(encoding="utf-8"))[-1]["best_avg_dice_score"])
