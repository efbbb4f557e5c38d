"""Which literals of a bundle's configs repeat a number of the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ctfm.contract.tasks import (
    ENCODER,
    HEAD_CT_TRIAGE,
    LESION_RETRIEVAL,
    PRETRAINING,
    SCAN_EMBEDDING,
    SEGRESNET,
    SEMANTIC_SEARCH,
    STABILITY,
    WHOLE_BODY,
    Embedding,
    Task,
    WholeBody,
)
from ctfm.contract.tumors import TUMORS, TumorSegmentation

__all__ = ["expected_values"]

Values = dict[str, Any]
Stack = tuple[str, ...]


def expected_values(bundle: str) -> dict[Stack, Values]:
    """What the configs of a bundle have to say, by the files that are read together.

    Args:
        bundle: name of the bundle; the task is the one that its name contains.

    Returns:
        ``{("train.json",): {id or "Target::argument": value}}``; empty if the contract does not
        know the task.
    """
    return next((make() for task, make in TASKS.items() if task in bundle), {})


def _input(task: Task) -> Values:
    low, high = task.hu_window
    return {
        "patch": task.patch,
        "spacing": task.spacing,
        "Orientationd::axcodes": task.axcodes,
        "Spacingd::pixdim": task.spacing,
        "ScaleIntensityRanged::a_min": low,
        "ScaleIntensityRanged::a_max": high,
        "ScaleIntensityRanged::b_min": 0,
        "ScaleIntensityRanged::b_max": 1,
        "ScaleIntensityRanged::clip": True,
    }


def _segresnet() -> Values:
    arguments = {**SEGRESNET.arguments, "norm": SEGRESNET.encoder.norm}
    return {f"SegResNetDS::{name}": value for name, value in arguments.items()}


def _whole_body() -> dict[Stack, Values]:
    network = _segresnet()
    return {
        ("train.json",): {**network, **_segmentation_training(WHOLE_BODY)},
        ("inference.json",): {**network, **_segmentation_inference(WHOLE_BODY)},
        ("train.json", "evaluate.yaml"): {"val_overlap": WHOLE_BODY.overlap},
    }


def _tumors(own: str = "lung", others: Sequence[str] = ()) -> dict[Stack, Values]:
    """Of the entry points for the task `own`, and of the overlays for the others."""
    overlap = {"val_overlap": TUMORS[own].overlap}
    stacks: dict[Stack, Values] = {("train.json", "evaluate.yaml"): overlap}
    for name in (own, *others):
        overlay: Stack = () if name == own else (f"{name}.yaml",)
        stacks |= {
            ("train.json", *overlay): _tumor_training(TUMORS[name]),
            ("inference.json", *overlay): _tumor_inference(TUMORS[name]),
        }
    return stacks


def _tumor_training(task: TumorSegmentation) -> Values:
    return {
        **_tumor_network(task),
        **_segmentation_training(task),
        "fold": task.fold,
        "RandFlipd::prob": task.flip_prob,
        "ClassPositionsd::background": bool(task.background_ratio),
    }


def _tumor_inference(task: TumorSegmentation) -> Values:
    return {**_tumor_network(task), **_segmentation_inference(task)}


def _tumor_network(task: TumorSegmentation) -> Values:
    """The number of outputs follows from the names."""
    fixed = {k: v for k, v in _segresnet().items() if not k.endswith("::out_channels")}
    return {**fixed, "class_names": tuple(task.classes.values())}


def _segmentation_inference(task: WholeBody) -> Values:
    return {
        **_input(task),
        "CropForegroundd::margin": task.foreground_margin,
        "LabelMapInferer::roi_size": task.patch,
        "LabelMapInferer::mode": "gaussian",
        "overlap": task.overlap,
    }


def _segmentation_training(task: WholeBody) -> Values:
    shared = {k: v for k, v in _segmentation_inference(task).items() if k != "overlap"}
    return {**shared, **_optimization(task), **_augmentation(task)}


def _optimization(task: WholeBody) -> Values:
    return {
        "epochs": task.epochs,
        "batch_size": task.batch_size,
        "learning_rate": task.learning_rate,
        "AdamW::lr": task.learning_rate,
        "AdamW::weight_decay": task.weight_decay,
        "SupervisedTrainer::max_epochs": task.epochs,
        "DiceCELoss::softmax": True,
        "DiceCELoss::squared_pred": True,
        "DiceCELoss::smooth_nr": task.smooth_nr,
        "DiceCELoss::smooth_dr": task.smooth_dr,
        "RandCropByLabelClassesd::spatial_size": task.patch,
    }


def _augmentation(task: WholeBody) -> Values:
    smooth = {f"RandGaussianSmoothd::sigma_{axis}": task.smooth_sigma for axis in "xyz"}
    return {
        "RandAffined::prob": task.affine_prob,
        "RandAffined::rotate_range": (task.rotate_range,) * 3,
        "RandAffined::scale_range": (task.scale_range,) * 3,
        "RandGaussianSmoothd::prob": task.smooth_prob,
        **smooth,
        "RandScaleIntensityd::factors": task.scale_intensity,
        "RandScaleIntensityd::prob": task.scale_intensity_prob,
        "RandShiftIntensityd::offsets": task.shift_intensity,
        "RandShiftIntensityd::prob": task.shift_intensity_prob,
        "RandGaussianNoised::std": task.noise_std,
        "RandGaussianNoised::prob": task.noise_prob,
    }


def _pretraining() -> dict[Stack, Values]:
    task = PRETRAINING
    return {
        ("train.json",): {**_input(task), **_views(), **_contrastive_training()},
        ("train.json", "store.yaml"): {
            "Views::patch": task.patch,
            "Views::crops": task.crops,
            "Views::views": task.views,
            "Views::scale": task.resized_crop_scale,
        },
    }


def _views() -> Values:
    task = PRETRAINING
    return {
        "CropForegroundd::margin": 0,
        "SpatialPadd::value": task.pad_hu,
        "RandViewsd::patch": task.patch,
        "RandViewsd::crops": task.crops,
        "RandViewsd::views": task.views,
        "RandViewsd::scale": task.resized_crop_scale,
        "Resized::spatial_size": task.patch,
        "Resized::mode": "trilinear",
        "RandFlipd::prob": task.flip_prob,
        "RandFlipd::spatial_axis": task.flip_axis,
        "RandHistogramShiftd::num_control_points": task.histogram_shift_control_points,
        "RandHistogramShiftd::prob": task.histogram_shift_prob,
        "RandGaussianSmoothd::prob": task.gaussian_smooth_prob,
    }


def _contrastive_training() -> Values:
    task = PRETRAINING
    embedding, hidden, projected = task.projection
    encoder = {**ENCODER.arguments, "norm": ENCODER.norm}
    return {
        **{f"SegResEncoder::{name}": value for name, value in encoder.items()},
        "AdamW::lr": task.learning_rate,
        "AdamW::weight_decay": task.weight_decay,
        "WarmupCosineSchedule::warmup_steps": task.warmup_epochs,
        "WarmupCosineSchedule::t_total": task.epochs,
        "SupervisedTrainer::max_epochs": task.epochs,
        "PassSampler::iterations": task.iterations,
        "PassSampler::batch_size": task.batch_size,
        "IntraSampleNTXentLoss::temperature": task.temperature,
        "FullyConnectedNet::in_channels": embedding,
        "FullyConnectedNet::hidden_channels": (hidden,),
        "FullyConnectedNet::out_channels": projected,
    }


def _feature_extractor() -> dict[Stack, Values]:
    uses = {"semantic_search": SEMANTIC_SEARCH, "mir": LESION_RETRIEVAL, "stability": STABILITY}
    return {
        ("inference.json",): _embedding(SCAN_EMBEDDING),
        **{("inference.json", f"{name}.yaml"): _embedding(task) for name, task in uses.items()},
    }


def _embedding(task: Embedding) -> Values:
    """Where a use fixes no overlap, or compares patches alone, that of the default stays."""
    encoder = {f"PooledEncoder::{name}": value for name, value in ENCODER.arguments.items()}
    pooling = SCAN_EMBEDDING.pooling if task.pooling == "none" else task.pooling
    overlap = SCAN_EMBEDDING.overlap if task.overlap is None else task.overlap
    return {
        **_input(task),
        **encoder,
        "overlap": overlap,
        "pooling": pooling,
        "CropForegroundd::margin": 0,
        "SpatialPadd::spatial_size": task.patch,
        "SpatialPadd::value": task.hu_window[0],
        "WindowEmbedder::patch": task.patch,
        "WindowEmbedder::overlap": overlap,
    }


def _triage() -> dict[Stack, Values]:
    task = HEAD_CT_TRIAGE
    _, *hidden, outputs = task.head
    network = {f"PooledClassifier::{name}": value for name, value in ENCODER.arguments.items()}
    shared = {
        "patch": task.patch,
        "spacing": task.spacing,
        "windows": task.windows,
        "window_layout": "depth",
        "LoadHeadd::axcodes": task.axcodes,
        "LoadHeadd::spacing": task.spacing,
        "LoadHeadd::patch": task.patch,
        "HuWindowsd::windows": task.windows,
        "StackWindowsd::layout": "depth",
        **network,
        "PooledClassifier::hidden_channels": tuple(hidden),
        "PooledClassifier::out_channels": outputs,
    }
    training = {
        "epochs": task.epochs,
        "batch_size": task.batch_size,
        "learning_rate": task.learning_rate,
        "AdamW::lr": task.learning_rate,
        "AdamW::weight_decay": task.weight_decay,
        "SupervisedTrainer::max_epochs": task.epochs,
        "RandAffined::prob": task.affine_prob,
    }
    few = {"share": task.data_shares[0]}
    channels = {"PooledClassifier::in_channels": len(task.windows), "window_layout": "channels"}
    return {
        ("train.json",): {**shared, **training},
        ("inference.json",): shared,
        ("train.json", "few_shot.yaml"): few,
        ("train.json", "channels.yaml"): channels,
        ("inference.json", "channels.yaml"): channels,
    }


TASKS: dict[str, Callable[[], dict[Stack, Values]]] = {
    "whole_body": _whole_body,
    # a zip of one task has its name at the end; the first that fits is taken
    **{f"tumor_segmentation_{n.replace('_', '')}": partial(_tumors, n) for n in TUMORS},
    "tumor_segmentation": partial(_tumors, "lung", [n for n in TUMORS if n != "lung"]),
    "pretrain": _pretraining,
    "head_ct_triage": _triage,
    "feature_extractor": _feature_extractor,
}
