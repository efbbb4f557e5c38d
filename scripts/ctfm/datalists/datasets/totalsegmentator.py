"""TotalSegmentator's release folder to label files and a datalist for the whole-body bundle."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import sha256
from ctfm.contract.classes import TOTALSEGMENTATOR_V1, TOTALSEGMENTATOR_V2, ClassGroup, class_group
from ctfm.datalists.datalist import PARTS, nested_subset, refuse, write_datalist
from ctfm.datalists.datasets.totalsegmentator_masks import Case, merge_all
from ctfm.datalists.splits import Split, read_meta, read_split_file

__all__ = ["totalsegmentator"]

IMAGE = "ct.nii.gz"
MASKS = "segmentations"
META = "meta.csv"
SUBJECTS = "s[0-9]*"
RELEASE = "https://doi.org/10.5281/zenodo.10047292"
LICENCE = "CC BY 4.0 (as release 2.0.1 is published, " + RELEASE + ")"
DESCRIPTION = "CT with merged masks; paths are relative to the release folder (the one of meta.csv)"

AnyPath = str | os.PathLike[str]


def totalsegmentator(
    root: AnyPath,
    out: AnyPath,
    *,
    splits: AnyPath | None = None,
    fold: int | None = None,
    fraction: float = 1.0,
    scans: int | None = None,
    group: str = "v2",
    labels: AnyPath | None = None,
    workers: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> Path:
    """Merge the masks of TotalSegmentator's release and write a datalist of its scans.

    A label file holds one class id of release v2 (1 to 117) a voxel, whatever the group; where
    masks overlap, the higher id wins. A group other than "v2" reads, and gives to voxels, its
    own classes only. Finished label files are kept as long as they are newer than the masks.

    Every path in the datalist is relative to `root`; load it with
    ``monai.data.load_decathlon_datalist(out, True, "training", base_dir=root)``.

    Args:
        root: the unpacked release: ``meta.csv``, ``s0011/ct.nii.gz``,
            ``s0011/segmentations/liver.nii.gz``, …
        out: JSON file to write. The same arguments give the same bytes.
        splits: split file in VISTA3D's format; None: the split column of ``meta.csv``.
        fold: the fold of the split file that validates; None: as in CT-FM's published code, which
            draws 52 of its 980 training subjects across the folds.
        fraction: share of the training subjects, in (0, 1]. Validation and test stay whole.
        scans: exactly that many training subjects instead of a share (few-shot).
        group: class group, a key of `ctfm.contract.classes.CLASS_GROUPS`.
        labels: folder for the label files, as ``s0011_GROUP.nii.gz``; None: beside each scan, as
            ``s0011/labels_GROUP.nii.gz``. A folder outside `root` is reached by ``../``, so the
            two have to be moved together.
        workers: processes that merge; None: as many as there are cores.
        seed: of the draw of `fraction` or `scans`; smaller draws lie within larger ones.
        skip_bad: leave out subjects that have a problem, and list them, instead of refusing. A
            drawn subject that turns out damaged is left out without a replacement.

    Returns:
        `out`.

    Raises:
        UserError: `root` is not a release v2, an argument is out of range, or subjects have
            problems: all are listed on stderr, no datalist is written, merged labels are kept.
    """
    root, out, classes = Path(root), Path(out), class_group(group)
    folders = _subject_folders(root)
    split = _read_split(root, splits, fold)
    _note_missing_classes(classes)
    listed = _subjects_on_disk(split, root, folders)
    chosen = {**listed, "training": nested_subset(listed["training"], fraction, scans, seed)}
    cases = {
        subject: _case(root, subject, classes, labels)
        for part in PARTS
        for subject in sorted(chosen[part])
    }
    outcomes = merge_all(list(cases.values()), workers)
    bad = split.settle(
        {outcome.subject: outcome.problems for outcome in outcomes},
        skip_bad,
        "no datalist was written (label files that were merged are kept)",
        "Repair them, or leave these subjects out with --skip_bad",
    )
    kept = {part: [cases[s] for s in subjects if s not in bad] for part, subjects in chosen.items()}
    if not kept["training"]:
        raise UserError(f"no training subject is left in {root}: no datalist was written")
    counts = {part: len(kept[part]) for part in PARTS}
    options = {"group": group, "fraction": float(fraction), "scans": scans, "seed": seed}
    write_datalist(
        out,
        {part: [_entry(case, root, split.folds) for case in some] for part, some in kept.items()},
        name="TotalSegmentator",
        description=DESCRIPTION,
        licence=LICENCE,
        labels={i: TOTALSEGMENTATOR_V2[i] for i in classes.v2_ids},
        provenance=_provenance(root, split, options, counts, bad),
    )
    already = sum(outcome.kept for outcome in outcomes)
    numbers = ", ".join(f"{count} {part}" for part, count in counts.items())
    _say(f"{out}: {numbers}; {already} of {len(cases)} label files were there already")
    return out


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _subject_folders(root: Path) -> set[str]:
    """Names of the subject folders; a folder that is no release v2 is refused."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the unpacked release, the folder of {META}")
    if (root / IMAGE).exists() or root.name == MASKS:
        raise UserError(f"{root} is one subject: give the release folder above it, that of {META}")
    folders = {path.name for path in root.glob(SUBJECTS) if path.is_dir()}
    if not folders:
        inner = [path.parent for path in sorted(root.glob(f"*/{META}"))]
        hint = f"give {inner[0]}" if inner else f"give the unpacked release ({RELEASE})"
        raise UserError(f"nothing found in {root}, no subject folder such as s0011: {hint}")
    _refuse_v1(root, folders)
    return folders


def _refuse_v1(root: Path, folders: set[str]) -> None:
    names = set(TOTALSEGMENTATOR_V1.values()), set(TOTALSEGMENTATOR_V2.values())
    for subject in sorted(folders):
        masks = {path.name.removesuffix(".nii.gz") for path in (root / subject / MASKS).glob("*")}
        if not masks:
            continue
        old = sorted(masks & (names[0] - names[1]))
        if old and not masks & (names[1] - names[0]):
            raise UserError(
                f"{root} is release v1 ({subject} has {old[0]}, and no class that only v2 has): "
                f"get release 2.0.1, {RELEASE}"
            )
        return


def _read_split(root: Path, splits: AnyPath | None, fold: int | None) -> Split:
    if splits is not None:
        return read_split_file(Path(splits), fold)
    if fold is not None:
        raise UserError(f"fold {fold} belongs to a split file: name it with --splits")
    return read_meta(root / META)


def _note_missing_classes(classes: ClassGroup) -> None:
    if classes.missing_in_v2:
        missing = ", ".join(classes.missing_in_v2)
        _say(f"note: group {classes.name} without {missing}: release v2 does not have them")


def _subjects_on_disk(split: Split, root: Path, folders: set[str]) -> dict[str, list[str]]:
    """Subjects of each part that are there and have no problem; the others become problems."""
    for subject in (s for part in PARTS for s in split.parts[part] if s not in folders):
        split.problems[subject].append("listed in the split, and its folder is not in the release")
    if unlisted := folders.difference(*split.parts.values(), split.problems):
        _say(f"note: {len(unlisted)} subject folders are not in the split ({min(unlisted)}, …)")
    present = {part: [s for s in split.parts[part] if s not in split.problems] for part in PARTS}
    if not present["training"]:
        refuse(split.lines(), "no datalist was written", "Give the split of this release")
        raise UserError(f"no training subject in the split of {root}: no datalist was written")
    return present


def _case(root: Path, subject: str, classes: ClassGroup, labels: AnyPath | None) -> Case:
    folder = root / subject
    beside = folder / f"labels_{classes.name}.nii.gz"
    return Case(
        subject=subject,
        image=folder / IMAGE,
        masks={i: folder / MASKS / f"{TOTALSEGMENTATOR_V2[i]}.nii.gz" for i in classes.v2_ids},
        label=beside if labels is None else Path(labels) / f"{subject}_{classes.name}.nii.gz",
    )


def _entry(case: Case, root: Path, folds: Mapping[str, int]) -> dict[str, Any]:
    paths = {"image": case.image, "label": case.label}
    entry: dict[str, Any] = {
        key: Path(os.path.relpath(path, root)).as_posix() for key, path in paths.items()
    }
    return entry | ({"fold": folds[case.subject]} if case.subject in folds else {})


def _provenance(
    root: Path,
    split: Split,
    options: Mapping[str, Any],
    counts: Mapping[str, int],
    left_out: Iterable[str],
) -> dict[str, Any]:
    meta = root / META
    return {
        "tool": "ctfm datalist totalsegmentator",
        "version": __version__,
        "meta_sha256": sha256(meta) if meta.is_file() else None,
        **split.provenance,
        **options,
        "counts": dict(counts),
        "left_out": sorted(left_out),
    }
