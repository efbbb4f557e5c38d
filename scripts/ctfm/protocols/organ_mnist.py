"""Retrieval on OrganMNIST3D: is what is most alike the same organ?"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.evaluation.intervals import Estimate, estimate_mean
from ctfm.inference.inferers.autocast import AutocastInferer
from ctfm.protocols.estimate_plot import draw_estimates
from ctfm.protocols.options import BootstrapOptions, EncoderOptions
from ctfm.protocols.probing.encoders import Candidate
from ctfm.protocols.protocol_report import estimate_rows, summary, write_csv, write_report
from ctfm.protocols.ranking import average_precision_at, hit_at, precision_at, rank

__all__ = ["ORGANS", "run_organ_mnist"]

#: Labels of OrganMNIST3D (MedMNIST v2).
ORGANS = (
    "liver",
    "kidney-right",
    "kidney-left",
    "femur-right",
    "femur-left",
    "bladder",
    "heart",
    "lung-right",
    "lung-left",
    "spleen",
    "pancreas",
)
METRICS = {"AP": average_precision_at, "P": precision_at, "hit rate": hit_at}
AT = (1, 3, 5, 10)
#: The published AP@3 of CT-FM, for comparison; it is not a figure of this project.
PUBLISHED = "published for CT-FM: AP@3 0.932"
PROTOCOL = "OrganMNIST3D: training split as references, validation and test as queries"
SHOWN = ("AP@3", "AP@5", "AP@10", "hit rate@1", "hit rate@3")
ENCODERS, BOOTSTRAP = EncoderOptions(), BootstrapOptions()


@dataclass(frozen=True)
class _Data:
    """References are the training split, queries validation and test, as published."""

    references: Array
    queries: Array
    reference_labels: Array
    query_labels: Array


def run_organ_mnist(
    checkpoints: Sequence[str],
    data: str,
    out: str = "organmnist3d",
    encoders: EncoderOptions = ENCODERS,
    bootstrap: BootstrapOptions = BOOTSTRAP,
) -> str:
    """For each volume of validation and test, the training volumes that are most alike.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: ``organmnist3d_64.npz`` (or another size) as MedMNIST publishes it.
        out: folder for metrics.csv, metrics.json, organs.csv and organs.png.
        encoders: random ones, and how all compute.
        bootstrap: of the intervals.

    Returns:
        The table.

    Raises:
        UserError: the file or a checkpoint is not usable.
    """
    volumes = _read(Path(data).expanduser())
    candidates = encoders.candidates(checkpoints)
    device = torch.device(encoders.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    estimates: dict[str, dict[str, Estimate]] = {}
    organs: dict[str, dict[str, Estimate]] = {}
    for candidate in candidates:
        relevant = _relevant(candidate, volumes, encoders, device)
        estimates[candidate.name] = {
            f"{name}@{k}": estimate_mean(
                metric(relevant, k).tolist(), bootstrap.seed, bootstrap.resamples
            )
            for name, metric in METRICS.items()
            for k in AT
        }
        at3 = average_precision_at(relevant, 3)
        organs[candidate.name] = {
            organ: estimate_mean(
                at3[volumes.query_labels == i].tolist(), bootstrap.seed, bootstrap.resamples
            )
            for i, organ in enumerate(ORGANS)
            if (volumes.query_labels == i).any()
        }
    settings = {
        "data": Path(data).name,
        "batch_size": encoders.batch_size,
        "amp": encoders.amp,
        "seed": bootstrap.seed,
    }
    folder = Path(out).expanduser()
    rows = estimate_rows(estimates, "encoder", "metric")
    by_organ = estimate_rows(organs, "encoder", "organ")
    more = {"AP@3 by organ": by_organ}
    write_report(folder, PROTOCOL, PUBLISHED, settings, candidates, rows, **more)
    write_csv(folder / "organs.csv", by_organ)
    draw_estimates(organs, folder / "organs.png", "AP@3")
    remark = f"95 % bootstrap intervals; {PUBLISHED}; written to {out}"
    return "\n".join([*summary(estimates, SHOWN), remark])


def _read(path: Path) -> _Data:
    """The arrays, each volume's axes reversed, as published."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: give organmnist3d_64.npz of MedMNIST")
    try:
        with np.load(path) as file:
            parts = {
                split: (file[f"{split}_images"], file[f"{split}_labels"].reshape(-1))
                for split in ("train", "val", "test")
            }
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not a data set of MedMNIST ({error}): download it again"
        ) from error
    for images, labels in parts.values():
        if images.ndim != 4 or len(images) != len(labels) or images.dtype != np.uint8:
            raise UserError(
                f"{path}: images {images.shape} {images.dtype}: expected (N, 64, 64, 64)"
            )
    return _Data(
        parts["train"][0],
        np.concatenate([parts["val"][0], parts["test"][0]]),
        parts["train"][1],
        np.concatenate([parts["val"][1], parts["test"][1]]),
    )


def _relevant(
    candidate: Candidate, data: _Data, encoders: EncoderOptions, device: torch.device
) -> Array:
    """Whether each of the first hits is of the query's organ, (Q, k)."""
    network = candidate.network().to(device, memory_format=torch.channels_last_3d)
    inferer = AutocastInferer(enabled=encoders.amp)
    size = encoders.batch_size
    parts = []
    for images in (data.references, data.queries):
        rows = []
        for first in tqdm(
            range(0, len(images), size), desc=candidate.name, leave=False, disable=None
        ):
            batch = torch.from_numpy(images[first : first + size]).float() / 255
            batch = batch.permute(0, 3, 2, 1)[:, None].to(device)
            with torch.inference_mode():
                rows.append(inferer(batch, network).cpu().numpy())
        parts.append(np.concatenate(rows))
    k = min(max(AT), len(data.references))
    ranked = rank(parts[1], parts[0], k)
    relevant: Array = data.reference_labels[ranked] == data.query_labels[:, None]
    return relevant
