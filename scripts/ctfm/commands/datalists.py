"""Commands that write MONAI datalists of data sets."""

from __future__ import annotations

from typing import Literal

from ctfm.commands.calling import report

__all__ = ["classification", "cq500", "ct", "idc", "msd", "sinoct", "totalsegmentator"]


def totalsegmentator(
    root: str,
    out: str,
    *,
    splits: str | None = None,
    fold: int | None = None,
    fraction: float = 1.0,
    scans: int | None = None,
    group: str = "v2",
    labels: str | None = None,
    workers: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> None:
    """Merge the masks of a TotalSegmentator v2 release and list its cases.

    Args:
        root: the unpacked release, the folder of meta.csv
        out: datalist to write (JSON)
        splits: split file in VISTA3D's format; default: the split column of meta.csv
        fold: fold of the split file that validates; default: as in CT-FM's published code
        fraction: share of the training subjects, above 0 and at most 1
        scans: number of training subjects, in place of a share
        group: class group: v2 or one of its parts, such as organs
        labels: folder for the label files; default: beside each scan
    """
    report("ctfm.datalists.datasets.totalsegmentator:totalsegmentator", **locals())


def msd(
    root: str,
    out: str,
    *,
    task: str | None = None,
    folds: int | None = None,
    fold: int | None = None,
    splits: str | None = None,
    patient: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    skip_bad: bool = False,
) -> None:
    """Check a CT task of the Medical Segmentation Decathlon and list its cases with folds.

    Args:
        root: folder that holds the task's folder, or the task's folder
        out: datalist to write (JSON)
        task: name of the task's folder, such as Task06_Lung; default: root is that folder
        folds: number of folds; default: 5
        fold: the fold that validates; default: the split file's validation list, if it has one
        splits: split file in VISTA3D's format, in place of folds of our own
        patient: regular expression whose group is the patient in a case's name; default: each
            case is a patient
    """
    report("ctfm.datalists.datasets.decathlon:msd", **locals())


def sinoct(
    root: str,
    out: str,
    *,
    thickness: float | None = 5.0,
    min_slices: int = 16,
    min_extent: float = 100.0,
    contrast: bool = False,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """List SinoCT's head CTs, one series of each patient, with the published split.

    Args:
        root: folder with labels.csv and a folder for each patient
        out: datalist to write (JSON); what is left out stands beside it (.excluded.csv)
    """
    report("ctfm.datalists.datasets.sinoct:sinoct", **locals())


def cq500(
    root: str,
    out: str,
    *,
    rule: Literal["any", "majority"] = "any",
    reads: str | None = None,
    thickness: float | None = 5.0,
    min_slices: int = 16,
    min_extent: float = 100.0,
    contrast: bool = False,
    workers: int | None = None,
) -> None:
    """List CQ500's head CTs, one series of each study, as an external test.

    Args:
        root: folder of the unpacked studies
        out: datalist to write (JSON); what is left out stands beside it (.excluded.csv)
        rule: abnormal if any reader saw any finding, as published with CT-FM; or if two of the
            three readers saw the same finding, CQ500's own standard
        reads: reads.csv; default: that of root
    """
    report("ctfm.datalists.datasets.cq500:cq500", **locals())


def classification(
    csv: str,
    root: str,
    out: str,
    *,
    image: str,
    label: str,
    subject: str | None = None,
    split: str | None = None,
    positive: str | None = None,
    shares: tuple[float, ...] = (0.8, 0.1, 0.1),
    seed: int = 0,
    skip_bad: bool = False,
) -> None:
    """List the scans of any table with labels of two classes.

    Args:
        csv: CSV, CSV.gz or Parquet with a row for each scan
        root: folder that the table's paths are relative to
        out: datalist to write (JSON); what is left out stands beside it (.excluded.csv)
        image: column of the scans
        label: column of the labels
        subject: column of the subjects, whose scans stay in one list; default: each scan is one
        split: column that says train, val or test; default: subjects are drawn
        positive: the label that counts as 1
        shares: of the subjects that train, validate and test, where they are drawn
    """
    report("ctfm.datalists.datasets.table:classification", **locals())


def ct(
    root: str,
    out: str,
    *,
    validation: float = 0.0,
    patient_level: int | None = None,
    pattern: str = "*",
    min_thickness: float = 1.0,
    max_thickness: float = 5.0,
    min_slices: int = 51,
    check_values: bool = False,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """List the CTs of any tree, NIfTI, NRRD, MHA or DICOM, for self-supervised pretraining.

    Args:
        root: folder of the archive
        out: datalist to write (JSON); what is left out stands beside it (.excluded.csv)
        validation: share of the patients whose scans become the list "validation", below 1
        patient_level: a patient is the folder this many levels below root; default: DICOM's
            PatientID, else level 1
        pattern: only scans whose path below root matches, such as "*/ct.nii.gz"
        check_values: read slices of files, too, and leave out what is not in Hounsfield units
    """
    report("ctfm.datalists.datasets.archive:archive", **locals())


def idc(
    out: str,
    *,
    commercial: bool = False,
    idc_version: int = 14,
    collections: str | None = None,
    limit: int | None = None,
    min_thickness: float = 1.0,
    max_thickness: float = 5.0,
    min_slices: int = 51,
    seed: int = 0,
    index: str | None = None,
) -> None:
    """List what to download of the Imaging Data Commons for pretraining, without network.

    Args:
        out: folder for the manifest of s5cmd, the tables and the summary
        commercial: only licences that allow commercial use
        idc_version: series that appeared up to this version of the Imaging Data Commons
        collections: names of collections, with commas; default: all
        limit: draw this many series, for a trial
        index: Parquet file with the columns of idc-index-data's; default: the package's
    """
    report("ctfm.datalists.datasets.idc:idc", **locals())
