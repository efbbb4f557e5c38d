"""The command line: parse, call, print."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import fire

from ctfm.errors import UserError, explain_in_one_line


def _call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call `function`; an option that it does not know is a user's slip, not a defect."""
    known = list(inspect.signature(function).parameters)[len(arguments) :]
    for name in options:
        if name not in known:
            listed = ", ".join(f"--{option}" for option in known)
            raise UserError(f"there is no option --{name}: choose from {listed}")
    return function(*arguments, **options)


class Weights:
    """CT-FM weights: read any published layout, strictly; write safetensors."""

    def fetch(
        self,
        source: str,
        out: str | None = None,
        revision: str | None = None,
        offline: bool = False,
    ) -> None:
        """Take weights from a Hugging Face repository (or a local file) and check them.

        Args:
            source: repository id such as project-lighter/ct_fm_feature_extractor, file or folder.
            out: where to write them; without it they stay in the hub's cache.
            revision: commit, tag or branch.
            offline: use the hub's cache alone.
        """
        from ctfm import weights

        print(weights.fetch(source, out, revision=revision, offline=offline))

    def convert(
        self,
        source: str,
        out: str,
        kind: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        offline: bool = False,
    ) -> None:
        """Write weights of any known layout as safetensors with their provenance.

        Args:
            source: file, folder or repository id.
            out: file to write.
            kind: encoder or segresnet; without it, what the source holds.
            dtype: convert to this type, such as float32.
            revision: commit, tag or branch of a repository.
            offline: use the hub's cache alone.
        """
        from ctfm import weights

        print(weights.convert(source, out, kind, dtype, revision, offline))

    def inject(self, encoder: str, out: str, **network: Any) -> None:
        """Put a pretrained encoder into a new SegResNetDS and save it.

        Args:
            encoder: file, folder or repository id.
            out: file to write: .safetensors, or .pt as a bundle's models/model.pt.
            network: arguments of SegResNetDS that differ from the published ones.
        """
        from ctfm import weights

        print(_call(weights.inject, encoder, out, **network))

    def verify(self, source: str, published: bool = True) -> None:
        """Say what a file holds, and whether it is sound.

        Args:
            source: file, folder or repository id.
            published: it has to be of the published architecture.
        """
        from ctfm import weights

        print(weights.verify(source, published=published))


class Datalist:
    """Data set folders to MONAI datalists."""

    def totalsegmentator(self, root: str, out: str, **options: Any) -> None:
        """Merge the masks of a TotalSegmentator v2 release and list its cases.

        Args:
            root: folder with meta.csv and sNNNN folders.
            out: datalist to write (JSON).
            options: splits, fraction, scans, group, labels, workers, seed, fold, skip_bad.
        """
        from ctfm.datalists.totalsegmentator import totalsegmentator

        print(_call(totalsegmentator, str(root), str(out), **options))

    def ct(self, root: str, out: str, **options: Any) -> None:
        """List the CTs of any tree, NIfTI, NRRD, MHA or DICOM, for self-supervised pretraining.

        Args:
            root: folder of the archive.
            out: datalist to write (JSON); what is left out stands beside it (.excluded.csv).
            options: validation, patient_level, pattern, min_thickness, max_thickness, min_slices,
                check_values, seed, workers.
        """
        from ctfm.datalists.archive import archive

        print(_call(archive, str(root), str(out), **options))

    def idc(self, out: str, **options: Any) -> None:
        """Say what to download of the Imaging Data Commons for pretraining, without network.

        Args:
            out: folder for the manifest of s5cmd, the tables and the summary.
            options: commercial, idc_version, collections, limit, min_thickness, max_thickness,
                min_slices, seed, index.
        """
        from ctfm.datalists.idc import idc

        print(_call(idc, str(out), **options))


class Dicom:
    """DICOM series to files; commands that read scans take series folders as they are."""

    def convert(self, root: str, out: str, **options: Any) -> None:
        """Convert every CT series below a folder to NIfTI; goes on where it was stopped.

        Args:
            root: folder with DICOM files.
            out: folder to write; what was not converted is listed there.
            options: workers, overwrite.
        """
        from ctfm.dicom.converting import convert

        print(_call(convert, str(root), str(out), **options))


class Store:
    """Scans converted once, to be read by region: what training at full speed reads."""

    def build(self, datalist: str, task: str, out: str, **options: Any) -> None:
        """Convert the scans that are new or changed; the same command goes on after a stop.

        Args:
            datalist: datalist (JSON), or scans: a file, a folder or a pattern.
            task: pretraining, whole_body or head_ct_triage.
            out: folder of the store.
            options: base_dir, spacing, workers, max_failures, input_check.
        """
        from ctfm import store

        print(_call(store.build, str(datalist), str(out), task, **options))

    def check(self, folder: str, prune: bool = False) -> None:
        """Decode every file and compare it with what was written; not while a build runs.

        Args:
            folder: the store.
            prune: delete files that no scan of the store needs, in place of listing them.
        """
        from ctfm.store import inspection

        print(inspection.check(str(folder), prune))

    def info(self, folder: str) -> None:
        """Print what a store holds: counts, sizes, spacing, HU statistics, classes, failures.

        Args:
            folder: the store.
        """
        from ctfm.store import inspection

        print(inspection.info(str(folder)))


class Phantom:
    """CT phantoms with TotalSegmentator labels, for trying things out."""

    def torso(self, out: str, label: str | None = None, **options: Any) -> None:
        """Write a torso: image, and labels where asked for.

        Args:
            out: NIfTI file of the CT.
            label: NIfTI file of the labels.
            options: seed, spacing, axcodes, oblique_degrees, noise_hu, tumors, contrast, region,
                table.
        """
        from ctfm import phantom

        phantom.save(_call(phantom.torso, **options), str(out), label)

    def head(self, out: str, label: str | None = None, **options: Any) -> None:
        """Write a head: image, and labels where asked for.

        Args:
            out: NIfTI file of the CT.
            label: NIfTI file of the labels.
            options: seed, spacing, axcodes, oblique_degrees, noise_hu, bleed.
        """
        from ctfm import phantom

        phantom.save(_call(phantom.head, **options), str(out), label)

    def dataset(self, root: str, **options: Any) -> None:
        """Write phantoms in the layout of a TotalSegmentator v2 release.

        Args:
            root: folder to make.
            options: subjects, seed, spacing, region.
        """
        from ctfm import phantom

        _call(phantom.write_dataset, str(root), **options)


class Commands:
    """CT-FM as MONAI bundles: weights, data and packing; training and inference run by MONAI."""

    def __init__(self) -> None:
        self.weights = Weights()
        self.datalist = Datalist()
        self.dicom = Dicom()
        self.phantom = Phantom()
        self.store = Store()

    def pack(self, bundle: str, out: str = "dist", **options: Any) -> None:
        """Zip a bundle with a copy of this package, as the Model Zoo serves it.

        Args:
            bundle: bundle folder, such as bundles/ct_fm_whole_body_segmentation.
            out: folder for the zip, its sha256 and model_info.json.
            options: url_base, with_weights.
        """
        from ctfm import release

        print(_call(release.pack, bundle, out, **options))

    def verify(self, bundle: str) -> None:
        """Check a bundle folder or zip; one line a check.

        Args:
            bundle: bundle folder or zip.
        """
        from ctfm import release

        release.verify_bundle(bundle)

    def version(self) -> None:
        """Print the version."""
        from ctfm import __version__

        print(__version__)


def main() -> None:
    """Entry point of `ctfm` and `python -m ctfm`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # pandas imports it; it greets
    explain_in_one_line()
    fire.Fire(Commands, name="ctfm")


if __name__ == "__main__":
    main()
