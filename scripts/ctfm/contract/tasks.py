"""What CT-FM expects of its input, said once: the network, the recipe of each task, the classes.

Numbers come from the CT-FM paper (arXiv:2501.09001) and its published code. The bundles' configs
repeat them literally, because MONAI's tools read one file; a test fails where a literal differs.

Axis order everywhere: axcodes SPL, that is, the first axis runs to superior, the second to
posterior, the third to left. Spacings and patches are given in this order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ENCODER",
    "HEAD_CT_TRIAGE",
    "LESION_RETRIEVAL",
    "ORGAN_RETRIEVAL",
    "PRETRAINING",
    "SCAN_EMBEDDING",
    "SEGRESNET",
    "SEMANTIC_SEARCH",
    "STABILITY",
    "WHOLE_BODY",
]

AXCODES = "SPL"
HU_WINDOW = (-1024.0, 2048.0)

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The pretrained network: `monai.networks.nets.segresnet_ds.SegResEncoder`, norm BATCH.

    Attributes:
        tensors: entries of its state dict, BatchNorm running statistics included.
        parameters: trainable parameters.
        divisor: every side of the input (voxels) must be divisible by it.
        embedding_dim: channels of the last feature level, at 1/16 of the input.
    """

    spatial_dims: int = 3
    in_channels: int = 1
    init_filters: int = 32
    blocks_down: tuple[int, ...] = (1, 2, 2, 4, 4)
    norm: str = "BATCH"
    tensors: int = 161
    parameters: int = 77_760_992
    divisor: int = 16
    embedding_dim: int = 512

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments of `SegResEncoder` (its default norm is BATCH)."""
        return {
            "spatial_dims": self.spatial_dims,
            "in_channels": self.in_channels,
            "init_filters": self.init_filters,
            "blocks_down": self.blocks_down,
        }


@dataclass(frozen=True, kw_only=True)
class SegResNet:
    """The segmentation network: `monai.networks.nets.SegResNetDS` around the encoder.

    Attributes:
        out_channels: background and the 117 TotalSegmentator v2 classes.
        dsdepth: number of outputs under deep supervision.
        encoder_prefix: what the encoder's tensors are called inside this network's state dict.
    """

    encoder: Encoder = field(default_factory=Encoder)
    out_channels: int = 118
    dsdepth: int = 4
    encoder_prefix: str = "encoder."

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments of `SegResNetDS`."""
        return {
            **self.encoder.arguments,
            "out_channels": self.out_channels,
            "dsdepth": self.dsdepth,
        }


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every task fixes.

    Attributes:
        spacing: voxel size in mm, axes SPL; None: the data set's or the tool's own choice.
        patch: network input in voxels, axes SPL; None: chosen from the data (Auto3DSeg).
        overlap: share of a window that neighbouring windows have in common.
        axcodes: orientation of the array's axes, as nibabel spells it.
        hu_window: Hounsfield units that are mapped to 0 and 1, values outside clipped.
    """

    spacing: Triple | None
    patch: Shape | None
    overlap: float | None = None
    axcodes: str = AXCODES
    hu_window: tuple[float, float] = HU_WINDOW


@dataclass(frozen=True, kw_only=True)
class Pretraining(Task):
    """Intra-sample contrastive learning; the positive is the other view of the same crop."""

    patch_mm: Triple = (64.0, 128.0, 128.0)
    pad_hu: float = -1024.0
    crops: int = 15
    views: int = 2
    resized_crop_scale: tuple[float, float] = (0.33, 1.0)
    flip_axis: int = 0
    flip_prob: float = 0.5
    histogram_shift_control_points: int = 5
    histogram_shift_prob: float = 0.5
    gaussian_smooth_prob: float = 0.5
    temperature: float = 0.1
    projection: tuple[int, ...] = (512, 256, 128)
    learning_rate: float = 1e-4
    weight_decay: float = 1e-6
    warmup_epochs: int = 10
    epochs: int = 500
    iterations: int = 500
    batch_size: int = 4
    processes: int = 4
    published_epoch: int = 449


@dataclass(frozen=True, kw_only=True)
class WholeBody(Task):
    """TotalSegmentator v2 segmentation. No flips: classes have sides."""

    foreground_margin: int = 10
    background_ratio: int = 0
    class_ratio: int = 1
    affine_prob: float = 0.2
    rotate_range: float = 0.26
    scale_range: float = 0.2
    smooth_prob: float = 0.2
    smooth_sigma: tuple[float, float] = (0.5, 1.0)
    scale_intensity: float = 0.3
    scale_intensity_prob: float = 0.5
    shift_intensity: float = 0.1
    shift_intensity_prob: float = 0.5
    noise_std: float = 0.1
    noise_prob: float = 0.2
    smooth_nr: float = 0.0
    smooth_dr: float = 1e-5
    learning_rate: float = 2e-4
    weight_decay: float = 1e-5
    warmup_share: float = 0.01
    end_learning_rate_share: float = 0.01
    epochs: int = 300
    batch_size: int = 2
    processes: int = 4
    few_shot_scans: tuple[int, ...] = (20, 10, 5)
    few_shot_share: float = 0.05


@dataclass(frozen=True, kw_only=True)
class HeadTriage(Task):
    """Normal or abnormal: four windows stacked along depth, still one channel.

    Attributes:
        windows: HU windows in stacking order: blood, subdural, stroke, bone; each scaled to 0..1.
    """

    windows: tuple[tuple[float, float], ...] = ((0, 80), (-125, 175), (28, 36), (-900, 2100))
    head: tuple[int, ...] = (512, 256, 1)
    affine_prob: float = 0.2
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    end_learning_rate_share: float = 0.01
    epochs: int = 40
    batch_size: int = 16
    processes: int = 4
    split: Triple = (0.8, 0.1, 0.1)
    split_seed: int = 0
    data_shares: tuple[float, ...] = (0.02, 0.05, 0.10, 1.0)


@dataclass(frozen=True, kw_only=True)
class Embedding(Task):
    """A descriptor of a patch or of a scan, compared by cosine similarity.

    Attributes:
        pooling: how the descriptors of a scan's patches become one: "none" (one patch is one
            descriptor), "min" (element-wise minimum, the 3D-MIR protocol) or "mean".
        stored_axes: permutation of a stored array (channel first) to SPL; None: from its affine.
    """

    pooling: str = "none"
    stored_axes: tuple[int, ...] | None = None


ENCODER = Encoder()
SEGRESNET = SegResNet()
# 64x128x128 mm at 3x1x1 mm, each side rounded up to the encoder's divisor
PRETRAINING = Pretraining(spacing=(3.0, 1.0, 1.0), patch=(32, 128, 128))
WHOLE_BODY = WholeBody(spacing=(1.5, 1.5, 1.5), patch=(96, 160, 160), overlap=0.625)
HEAD_CT_TRIAGE = HeadTriage(spacing=(5.0, 2.0, 2.0), patch=(48, 128, 128))
ORGAN_RETRIEVAL = Embedding(spacing=None, patch=(64, 64, 64), stored_axes=(0, 3, 2, 1))
LESION_RETRIEVAL = Embedding(
    spacing=(3.0, 1.0, 1.0), patch=(24, 128, 128), overlap=0.625, pooling="min"
)
SEMANTIC_SEARCH = Embedding(spacing=(1.0, 1.0, 1.0), patch=(64, 64, 64), overlap=0.625)
#: Descriptors of scans for any purpose: the input that the encoder was pretrained on.
SCAN_EMBEDDING = Embedding(
    spacing=PRETRAINING.spacing, patch=PRETRAINING.patch, overlap=0.625, pooling="mean"
)
STABILITY = Embedding(spacing=(3.0, 1.0, 1.0), patch=(24, 128, 128))
