"""Commands on data: datalists, DICOM, stores, phantoms."""

from __future__ import annotations

from typing import Any

from ctfm.commands.calling import call

__all__ = ["Datalist", "Dicom", "Phantom", "Store"]


class Datalist:
    """Data set folders to MONAI datalists."""

    def totalsegmentator(self, root: str, out: str, **options: Any) -> None:
        """Merge the masks of a TotalSegmentator v2 release and list its cases.

        Args:
            root: folder with meta.csv and sNNNN folders.
            out: datalist to write (JSON).
            options: splits, fraction, scans, group, labels, workers, seed, fold, skip_bad.
        """
        from ctfm.datalists.datasets.totalsegmentator import totalsegmentator

        print(call(totalsegmentator, str(root), str(out), **options))

    def msd(self, root: str, out: str, **options: Any) -> None:
        """Check a CT task of the Medical Segmentation Decathlon and list its cases with folds.

        Args:
            root: folder that holds the task's folder, or the task's folder.
            out: datalist to write (JSON).
            options: task, folds, fold, splits, patient, seed, workers, skip_bad.
        """
        from ctfm.datalists.datasets.decathlon import msd

        print(call(msd, str(root), str(out), **options))

    def sinoct(self, root: str, out: str, **options: Any) -> None:
        """List SinoCT's head CTs, one series of each patient, with the published split.

        Args:
            root: folder with labels.csv and a folder for each patient.
            out: datalist to write (JSON); what is left out stands beside it (.excluded.csv).
            options: thickness, min_slices, min_extent, contrast, seed, workers.
        """
        from ctfm.datalists.datasets.sinoct import sinoct

        print(call(sinoct, str(root), str(out), **options))

    def cq500(self, root: str, out: str, **options: Any) -> None:
        """List CQ500's head CTs, one series of each study, as an external test.

        Args:
            root: folder of the unpacked studies.
            out: datalist to write (JSON); what is left out stands beside it (.excluded.csv).
            options: rule, reads, thickness, min_slices, min_extent, contrast, workers.
        """
        from ctfm.datalists.datasets.cq500 import cq500

        print(call(cq500, str(root), str(out), **options))

    def classification(
        self, csv: str, root: str, out: str, image: str, label: str, **options: Any
    ) -> None:
        """List the scans of any table with labels of two classes.

        Args:
            csv: CSV, CSV.gz or Parquet with a row for each scan.
            root: folder that the table's paths are relative to.
            out: datalist to write (JSON); what is left out stands beside it (.excluded.csv).
            image: column of the scans.
            label: column of the labels.
            options: subject, split, positive, shares, seed, skip_bad.
        """
        from ctfm.datalists.datasets.table import classification

        print(call(classification, str(csv), str(root), str(out), image, label, **options))

    def ct(self, root: str, out: str, **options: Any) -> None:
        """List the CTs of any tree, NIfTI, NRRD, MHA or DICOM, for self-supervised pretraining.

        Args:
            root: folder of the archive.
            out: datalist to write (JSON); what is left out stands beside it (.excluded.csv).
            options: validation, patient_level, pattern, min_thickness, max_thickness, min_slices,
                check_values, seed, workers.
        """
        from ctfm.datalists.datasets.archive import archive

        print(call(archive, str(root), str(out), **options))

    def idc(self, out: str, **options: Any) -> None:
        """Say what to download of the Imaging Data Commons for pretraining, without network.

        Args:
            out: folder for the manifest of s5cmd, the tables and the summary.
            options: commercial, idc_version, collections, limit, min_thickness, max_thickness,
                min_slices, seed, index.
        """
        from ctfm.datalists.datasets.idc import idc

        print(call(idc, str(out), **options))


class Dicom:
    """DICOM series to files; commands that read scans take series folders as they are."""

    def convert(self, root: str, out: str, **options: Any) -> None:
        """Convert every CT series below a folder to NIfTI; goes on where it was stopped.

        Args:
            root: folder with DICOM files.
            out: folder to write; what was not converted is listed there.
            options: workers, overwrite.
        """
        from ctfm.imaging.dicom.converting import convert

        print(call(convert, str(root), str(out), **options))


class Store:
    """Scans converted once, to be read by region: what training at full speed reads."""

    def build(self, datalist: str, task: str, out: str, **options: Any) -> None:
        """Convert the scans that are new or changed; the same command goes on after a stop.

        Args:
            datalist: datalist (JSON), or scans: a file, a folder or a pattern.
            task: pretraining, whole_body, head_ct_triage, or a tumour task: lung_tumor,
                pancreas_tumor, hepatic_vessel_tumor, liver_tumor, colon_tumor.
            out: folder of the store.
            options: base_dir, spacing, workers, max_failures, input_check.
        """
        from ctfm.loading import build_store

        print(call(build_store, str(datalist), str(out), task, **options))

    def check(self, folder: str, prune: bool = False) -> None:
        """Decode every file and compare it with what was written; not while a build runs.

        Args:
            folder: the store.
            prune: delete files that no scan of the store needs, in place of listing them.
        """
        from ctfm.loading.store import inspection

        print(inspection.check(str(folder), prune))

    def info(self, folder: str) -> None:
        """Print what a store holds: counts, sizes, spacing, HU statistics, classes, failures.

        Args:
            folder: the store.
        """
        from ctfm.loading.store import inspection

        print(inspection.info(str(folder)))


class Phantom:
    """CT phantoms with labels, for trying things out."""

    def torso(self, out: str, label: str | None = None, **options: Any) -> None:
        """Write a torso: image, and labels where asked for.

        Args:
            out: NIfTI file of the CT.
            label: NIfTI file of the labels.
            options: seed, spacing, axcodes, oblique_degrees, noise_hu, tumors, hosts, contrast,
                region, table.
        """
        from ctfm.phantoms import draw_torso, save_phantom

        save_phantom(call(draw_torso, **options), str(out), label)

    def head(self, out: str, label: str | None = None, **options: Any) -> None:
        """Write a head: image, and labels where asked for.

        Args:
            out: NIfTI file of the CT.
            label: NIfTI file of the labels.
            options: seed, spacing, axcodes, oblique_degrees, noise_hu, bleed.
        """
        from ctfm.phantoms import draw_head, save_phantom

        save_phantom(call(draw_head, **options), str(out), label)

    def dataset(self, root: str, **options: Any) -> None:
        """Write phantoms in the layout of a TotalSegmentator v2 release.

        Args:
            root: folder to make.
            options: subjects, seed, spacing, region.
        """
        from ctfm.phantoms.drawing import write_dataset

        call(write_dataset, str(root), **options)

    def msd(self, root: str, **options: Any) -> None:
        """Write phantoms with tumours in the layout of the Medical Segmentation Decathlon.

        Args:
            root: folder in which the task's folder is made, or the task's folder.
            options: task, subjects, tests, spacing, seed, margin.
        """
        from ctfm.phantoms.decathlon import write_dataset

        call(write_dataset, str(root), **options)
