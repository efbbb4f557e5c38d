"""The tumour tasks of the Decathlon, one table: datalists, phantoms, stores and tests read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ctfm.contract.tasks import WholeBody

__all__ = ["DECATHLON_TUMORS", "TUMORS", "TumorDrawing", "TumorSegmentation"]


@dataclass(frozen=True)
class TumorDrawing:
    """How a task's scans are drawn.

    Attributes:
        region: part of the torso, of `ctfm.phantoms.drawing.REGIONS`.
        hosts: regular expression of the classes that have tumours; the scan shows them whole.
        organ: regular expression of the classes that are label 1 where the tumour is label 2;
            None: the tumour is the only label.
        contrast: with contrast medium.
    """

    region: str
    hosts: str
    organ: str | None = None
    contrast: bool = False


@dataclass(frozen=True, kw_only=True)
class TumorSegmentation(WholeBody):
    """A tumour task of the Decathlon: whole-body segmentation's recipe, with flips.

    CT-FM's authors ran Auto3DSeg's segresnet with axes SPL and the encoder injected, on fold 0; the
    spacing and patch that it chose are not public. Those here are the task's as nnU-Net's planning
    has them (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z) and MONAI's tutorial
    `dynunet_pipeline` repeats them: the median spacing of the data set, and a patch whose sides are
    rounded up to the encoder's divisor.

    Attributes:
        decathlon: the task's folder, such as "Task06_Lung".
        labels: of its ``dataset.json``, without the background; the last is tumour.
        drawing: how its phantoms are drawn.
        background_ratio: background is as frequent as a class in the middle of crops, as in
            Auto3DSeg: a network that only sees crops around tumours finds tumours everywhere.
        flip_prob: along each axis: tumours have no side.
        fold: that validates.
        epochs: so many that some 40,000 crops are seen, 600 at most.
    """

    decathlon: str
    labels: Mapping[int, str]
    drawing: TumorDrawing
    background_ratio: int = 1
    flip_prob: float = 0.5
    fold: int = 0

    @property
    def classes(self) -> dict[int, str]:
        """Label value -> name, as the task's ``dataset.json`` has them; the last is tumour."""
        return dict(self.labels)


#: By the name that overlays and zips have.
TUMORS: Mapping[str, TumorSegmentation] = {
    "lung": TumorSegmentation(
        decathlon="Task06_Lung",
        labels={1: "cancer"},
        drawing=TumorDrawing("thorax", r"lung_\w+"),
        spacing=(1.24, 0.79, 0.79),
        patch=(80, 192, 160),
        overlap=0.625,
        epochs=600,
    ),
    "pancreas": TumorSegmentation(
        decathlon="Task07_Pancreas",
        labels={1: "pancreas", 2: "cancer"},
        drawing=TumorDrawing("abdomen", "pancreas", "pancreas", contrast=True),
        spacing=(2.5, 0.8, 0.8),
        patch=(48, 224, 224),
        overlap=0.625,
        epochs=180,
    ),
    "hepatic_vessel": TumorSegmentation(
        decathlon="Task08_HepaticVessel",
        labels={1: "Vessel", 2: "Tumour"},
        drawing=TumorDrawing("abdomen", "liver", "portal_vein_and_splenic_vein", contrast=True),
        spacing=(1.5, 0.8, 0.8),
        patch=(64, 192, 192),
        overlap=0.625,
        epochs=165,
    ),
    "liver": TumorSegmentation(
        decathlon="Task03_Liver",
        labels={1: "liver", 2: "cancer"},
        drawing=TumorDrawing("abdomen", "liver", "liver", contrast=True),
        spacing=(1.0, 0.77, 0.77),
        patch=(128, 128, 128),
        overlap=0.625,
        epochs=380,
    ),
    "colon": TumorSegmentation(
        decathlon="Task10_Colon",
        labels={1: "colon cancer primaries"},
        drawing=TumorDrawing("abdomen", "colon"),
        spacing=(3.0, 0.78, 0.78),
        patch=(64, 192, 160),
        overlap=0.625,
        epochs=400,
    ),
}
#: The task's folder -> the labels of its dataset.json without the background (Antonelli et al.
#: 2022, doi:10.1038/s41467-022-30695-9).
DECATHLON_TUMORS: Mapping[str, Mapping[int, str]] = {
    task.decathlon: task.labels for task in sorted(TUMORS.values(), key=lambda task: task.decathlon)
}
