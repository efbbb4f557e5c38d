"""Label maps of any scans by all folds of a work dir together, without Auto3DSeg."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.data import DataLoader
from monai.transforms import Compose, MapTransform

from ctfm.auto3dseg.engines import device_of, image_transforms, inferer
from ctfm.auto3dseg.inference import MeanProbabilities, checkpoint_of, loaded
from ctfm.auto3dseg.recipe import Recipe
from ctfm.auto3dseg.results import read_score
from ctfm.auto3dseg.transforms import OnOwnGridd
from ctfm.base.errors import UserError
from ctfm.base.files import sha256
from ctfm.imaging.file_names import RESULT_SUFFIX
from ctfm.imaging.listing import find_scans, result_name
from ctfm.imaging.provenance import Provenance, unfinished
from ctfm.imaging.scans import ScanDataset, collate_scans
from ctfm.imaging.transforms import MapClassesd
from ctfm.inference.evaluators import ScanEvaluator
from ctfm.inference.saving import SaveSegmentationd

__all__ = ["SaveClassesd", "infer", "trained_folds"]

logger = logging.getLogger(__name__)


def infer(
    work_dir: str,
    inputs: Sequence[str],
    out: str,
    overlap: float | None = None,
    input_check: str | None = None,
    overwrite: bool = False,
    preview: bool = True,
    amp: bool = True,
) -> str:
    """Segment scans by the mean of all trained folds.

    Args:
        work_dir: of AutoRunner, or the folder of one fold.
        inputs: files, patterns, folders, DICOM series.
        out: folder for ``NAME_seg.nii.gz``, names and pictures; where classes overlap,
            ``NAME_CLASS_seg.nii.gz`` for each class.
        overlap: of neighbouring windows; None: that of the checkpoint.
        input_check: "error", "warn" or "off": whether scans must look like CT; None: the
            checkpoint's.
        overwrite: do finished scans again.
        preview: write pictures.
        amp: compute in the fast number format of the device.

    Returns:
        What was done, for the terminal.

    Raises:
        UserError: no fold is trained, folds do not fit together, or scans failed.
    """
    if not inputs:
        raise UserError("no input is given: add files, folders or patterns after the work dir")
    device = device_of(0)
    folds = trained_folds(Path(work_dir).expanduser())
    networks, recipe = _networks(folds, device)
    changed = {"overlap": overlap, "input_check": input_check}
    given = {key: value for key, value in changed.items() if value is not None}
    recipe = Recipe.of({**asdict(recipe), **given})
    image = Compose(image_transforms(recipe))
    provenance = _provenance(folds, recipe, amp, preview)
    last = f"_{_file_part(recipe.class_names[-1])}" if recipe.sigmoid else ""
    rows = unfinished(
        find_scans(list(inputs), output_dir=out),
        provenance,
        out,
        overwrite,
        result_suffix=f"{last}{RESULT_SUFFIX}",
        record_suffix=f"{last}_seg.json",
    )
    loader = DataLoader(ScanDataset(rows, image), batch_size=1, collate_fn=collate_scans)
    ScanEvaluator(
        device=device,
        val_data_loader=loader,
        network=MeanProbabilities(networks, recipe.sigmoid),
        inferer=inferer(recipe, amp),
        postprocessing=Compose(
            [
                OnOwnGridd("pred", image, recipe.sigmoid),
                SaveClassesd(recipe, out, preview, provenance),
            ]
        ),
        amp=False,
    ).run()
    return f"{len(rows)} scans by {len(networks)} folds -> {out}"


def trained_folds(work_dir: Path) -> list[Path]:
    """Folders of the folds in a work dir, or that of one fold, whose training has ended.

    Where a fold was trained several times, in a search for hyper-parameters, the best one counts.

    Raises:
        UserError: there is none.
    """
    folders = [work_dir, *sorted(p for p in work_dir.glob("*") if p.is_dir())]
    made = [f for f in folders if (f / "configs" / "hyper_parameters.yaml").is_file()]
    trained = [folder for folder in made if checkpoint_of(folder).is_file()]
    if not trained:
        raise UserError(
            f"{work_dir}: no trained fold: give the work_dir of an AutoRunner whose training has "
            "ended, or the folder of one fold"
        )
    best: dict[Any, Path] = {}
    for folder in sorted(trained, key=_score):
        fold = ConfigParser.load_config_file(folder / "configs" / "hyper_parameters.yaml")["fold"]
        if fold in best:
            logger.info("fold %s: %s, not %s", fold, folder.name, best[fold].name)
        best[fold] = folder
    return sorted(best.values())


def _score(folder: Path) -> float:
    try:
        return read_score(checkpoint_of(folder).parent)
    except UserError:  # whose training has not ended
        return -1.0


def _networks(folds: Sequence[Path], device: Any) -> tuple[list[Any], Recipe]:
    """Networks of trained folds, and the recipe that they have in common."""
    paths = [checkpoint_of(folder) for folder in folds]
    found = [loaded(path, device) for path in paths]
    first = found[0][1]
    for path, (_, recipe) in zip(paths, found, strict=True):
        if replace(recipe, network=first.network, roi_size=first.roi_size) != first:
            raise UserError(
                f"{path}: trained with other spacing, intensities or classes than {paths[0]}: "
                "give the folder of one fold"
            )
    logger.info("folds: %s", ", ".join(str(path.parent.parent.name) for path in paths))
    return [network for network, _ in found], first


def _provenance(folds: Sequence[Path], recipe: Recipe, amp: bool, preview: bool) -> Provenance:
    weights = [sha256(checkpoint_of(folder)) for folder in folds]
    settings = {"folds": weights, "overlap": recipe.overlap, "amp": amp}
    return Provenance(settings=settings, outputs={"preview": preview})


def _file_part(name: str) -> str:
    """A class's name in a file's name."""
    return name.replace(" ", "_")


class SaveClassesd(MapTransform):
    """Write class numbers as the label values that they stand for; overlapping classes apart.

    Args:
        recipe: names and values of the classes.
        output_dir: made where it does not exist.
        preview: write pictures.
        provenance: what makes the results, which record it.
    """

    def __init__(
        self,
        recipe: Recipe,
        output_dir: str,
        preview: bool,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__("pred")
        self.recipe = recipe
        self.output_dir = output_dir
        self.preview = preview
        self.provenance = provenance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the data pass through unchanged."""
        values, names = self.recipe.values, self.recipe.class_names
        if not self.recipe.sigmoid:
            numbers = list(range(1, 1 + len(values)))
            named = dict(zip(values, names, strict=True))
            self._save(MapClassesd("pred", numbers, values)(data), named)
            return dict(data)
        base = result_name(data, "image")
        for name, mask in zip(names, data["pred"], strict=True):
            single = {**data, "pred": mask[None], "name": f"{base}_{_file_part(name)}"}
            self._save(single, {1: name})
        return dict(data)

    def _save(self, data: Mapping[Hashable, Any], names: Mapping[int, str]) -> None:
        SaveSegmentationd("pred", self.output_dir, names, self.preview, provenance=self.provenance)(
            data
        )
