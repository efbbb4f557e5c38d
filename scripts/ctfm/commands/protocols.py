"""Commands that run published evaluations of embeddings on the data sets' own files."""

from __future__ import annotations

from typing import Literal

from ctfm.commands.calling import report

__all__ = ["clustering", "mir", "organmnist3d", "rank", "saliency", "semantic", "stability"]

InputCheck = Literal["error", "warn", "off"]
Numbers = tuple[float, ...]
Integers = tuple[int, ...]


def rank(
    *checkpoints: str,
    data: str,
    out: str = "rank",
    base_dir: str | None = None,
    split: str = "validation",
    classes: Integers | str | None = None,
    scans: int | None = None,
    random_seeds: int = 3,
    batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    spacing: Numbers | None = None,
    patch: Integers | None = None,
    overlap: float | None = None,
    input_check: InputCheck = "error",
    progress: bool = True,
) -> None:
    """Rank checkpoints by how well they find the same anatomy in another scan.

    Args:
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's
        out: folder for rank.csv, rank.json and rank.png
        spacing: voxel size in mm, axes SPL; default: 1,1,1, as published
        overlap: share of a window that neighbours have in common; default: 0.625, as published
    """
    report("ctfm.protocols:rank_checkpoints", **locals())


def organmnist3d(
    *checkpoints: str,
    data: str,
    out: str = "organmnist3d",
    random_seeds: int = 1,
    batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    seed: int = 0,
    resamples: int = 2000,
) -> None:
    """Retrieve organs of OrganMNIST3D; encoders with random weights are compared.

    Args:
        data: organmnist3d_64.npz (or another size) as MedMNIST publishes it
        out: folder for metrics.csv, metrics.json, organs.csv and organs.png
    """
    report("ctfm.protocols:run_organ_mnist", **locals())


def mir(
    *checkpoints: str,
    data: str,
    scans: str,
    out: str = "3d_mir",
    random_seeds: int = 1,
    batch_size: int = 8,
    device: str | None = None,
    amp: bool = True,
    input_check: InputCheck = "error",
    seed: int = 0,
    resamples: int = 2000,
) -> None:
    """Retrieve scans with lesions of the same kind (3D-MIR); a stopped run continues.

    Args:
        data: folder Data of 3D-MIR's repository, with its splits and annotation tables
        scans: folder below which the tasks of the Medical Segmentation Decathlon lie
        out: folder for metrics.csv, metrics.json, queries.csv, precision.png and the embeddings
    """
    report("ctfm.protocols:run_mir", **locals())


def semantic(
    *checkpoints: str,
    data: str,
    out: str = "semantic",
    base_dir: str | None = None,
    split: str = "validation",
    classes: Integers | str | None = None,
    scans: int | None = None,
    random_seeds: int = 1,
    batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    spacing: Numbers | None = None,
    patch: Integers | None = None,
    overlap: float | None = None,
    input_check: InputCheck = "error",
    progress: bool = True,
    seed: int = 0,
    resamples: int = 2000,
) -> None:
    """Search each organ of each scan in each other scan: distance in mm, share inside.

    Args:
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's
        out: folder for metrics.csv, metrics.json and distances.png
        spacing: voxel size in mm, axes SPL; default: 1,1,1, as published
        overlap: share of a window that neighbours have in common; default: 0.625, as published
    """
    report("ctfm.protocols:run_semantic", **locals())


def clustering(
    *checkpoints: str,
    data: str,
    out: str = "clustering",
    places: Literal["organs", "windows"] = "organs",
    most: int = 5000,
    base_dir: str | None = None,
    split: str = "validation",
    classes: Integers | str | None = None,
    scans: int | None = None,
    random_seeds: int = 1,
    batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    spacing: Numbers | None = None,
    patch: Integers | None = None,
    input_check: InputCheck = "error",
    progress: bool = True,
    seed: int = 0,
    resamples: int = 2000,
) -> None:
    """Cluster patches of organs of many scans: do clusters and organs agree?

    Args:
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's
        out: folder for metrics.csv, metrics.json, points.csv and clusters.png
        places: one patch around the centre of each organ, or all windows whose middle is in one
        most: patches of all scans together
        spacing: voxel size in mm, axes SPL; default: 1,1,1
    """
    report("ctfm.protocols:run_clustering", **locals())


def stability(
    *checkpoints: str,
    pairs: str,
    out: str = "stability",
    base_dir: str | None = None,
    changes: bool = True,
    random_seeds: int = 1,
    batch_size: int = 8,
    device: str | None = None,
    amp: bool = True,
    spacing: Numbers | None = None,
    patch: Integers | None = None,
    overlap: float | None = None,
    input_check: InputCheck = "error",
    progress: bool = True,
    seed: int = 0,
    resamples: int = 2000,
) -> None:
    """Compare embeddings of test-retest pairs, and of scans before and after a change.

    A stopped run continues when the same command is given again.

    Args:
        pairs: CSV with the columns first, second (and subject): files or DICOM folders
        out: folder for metrics.csv, metrics.json, distances.csv, distances.png and the embeddings
        changes: compare each first scan with altered copies of it, which takes six times as long
        spacing: voxel size in mm, axes SPL; default: 3,1,1, as published
        patch: voxels of a window, axes SPL; default: 24,128,128
        overlap: share of a window that neighbours have in common; default: 0.625, as published
    """
    report("ctfm.protocols:run_stability", **locals())


def saliency(
    *checkpoints: str,
    data: str | None = None,
    scan: str | None = None,
    point: Numbers | None = None,
    voxel: Integers | None = None,
    organ: int | str | None = None,
    labels: str | None = None,
    out: str = "saliency",
    pictures: int = 6,
    base_dir: str | None = None,
    split: str = "validation",
    classes: Integers | str | None = None,
    scans: int | None = None,
    random_seeds: int = 1,
    batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    spacing: Numbers | None = None,
    patch: Integers | None = None,
    input_check: InputCheck = "error",
    progress: bool = True,
    seed: int = 0,
    resamples: int = 2000,
) -> None:
    """Cover parts of patches around organs: does the embedding depend on the organ?

    With --data, all organs of a datalist; with --scan, one location of one scan.

    Args:
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's
        scan: one scan, in place of --data
        point: location in it: x,y,z in mm, RAS+
        voxel: location in it: i,j,k of the stored array, from 0
        organ: class (name or id) of --labels whose centre is the location
        labels: label map of the scan
        out: folder for metrics.csv, metrics.json, organs.csv and maps
        pictures: number of patches that are drawn, and whose maps are written on the scan's grid
        spacing: voxel size in mm, axes SPL; default: 1,1,1
    """
    report("ctfm.protocols:run_saliency", **locals())
