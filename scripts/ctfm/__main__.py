"""The command line: parse, call, print."""

from __future__ import annotations

import logging
from typing import Any

import fire

from ctfm.base.errors import explain_in_one_line
from ctfm.commands.auto3dseg import Auto3DSeg
from ctfm.commands.calling import call
from ctfm.commands.data import Datalist, Dicom, Phantom, Store
from ctfm.commands.evaluation import Evaluate
from ctfm.commands.protocols import Protocols
from ctfm.commands.searching import Indexes, locate, search, view
from ctfm.commands.segmentation import segment
from ctfm.commands.weights import Weights


class Commands:
    """CT-FM as MONAI bundles: weights, data and packing; training and inference run by MONAI."""

    def __init__(self) -> None:
        self.auto3dseg = Auto3DSeg()
        self.weights = Weights()
        self.datalist = Datalist()
        self.dicom = Dicom()
        self.evaluate = Evaluate()
        self.index = Indexes()
        self.phantom = Phantom()
        self.protocol = Protocols()
        self.store = Store()

    def segment(self, *inputs: str, out: str | None = None, **options: Any) -> None:
        """Segment scans, each on its own grid: NIfTI, NRRD, MHA/MHD, folders, DICOM series.

        What is finished is left out when the same command is given again.

        Args:
            inputs: files, patterns in quotes, folders.
            out: folder for label maps, names, pictures and report.json; -o is the same.
            options: classes (names, with commas), low_res, statistics, dicom_seg, confidence,
                inversion, embed, preview, bundle, checkpoint, overwrite, input_check, device, and
                every other key of the bundle's configs/inference.json.
        """
        if options.keys() & {"help", "h"}:  # fire takes them for options of a command with many
            fire.Fire(Commands, command=["segment", "--", "--help"])
        print(segment(inputs, out, options))

    def rank(self, *checkpoints: str, data: str, **options: Any) -> None:
        """Rank checkpoints by how well they find the same anatomy in another scan.

        Args:
            checkpoints: files, patterns in quotes, folders or repository ids.
            data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
            options: base_dir, split, classes, out, spacing, patch, overlap, random_seeds, scans,
                batch_size, device, amp, input_check, progress.
        """
        from ctfm.protocols import rank_checkpoints

        print(call(rank_checkpoints, checkpoints, str(data), **options))

    def locate(self, *scans: Any, **options: Any) -> None:
        """Find a place of one scan in another: ctfm locate QUERY --point x,y,z TARGET.

        Args:
            scans: the scan that shows the place (a point in mm, RAS+, or a voxel), and the other.
            options: checkpoint, out, point, voxel, organ, labels_query, labels_target,
                work, exhaustive, spacing, patch, overlap, sw_batch_size, device, amp, input_check,
                progress.
        """
        if options.keys() & {"help", "h"}:  # fire takes them for options of a command with many
            fire.Fire(Commands, command=["locate", "--", "--help"])
        print(locate(scans, options))

    def search(self, *query: Any, index: Any, **options: Any) -> None:
        """Find scans like a scan, or places like a place: ctfm search QUERY --index DIR -k 10.

        Args:
            query: a scan, or the name of one that is in the index.
            index: its folder; several with commas are searched as one.
            options: k, where, point, voxel, checkpoint, scans, out, same_scan, device,
                input_check.
        """
        print(search(query, index, options))

    def view(self, scan: str | None = None, **options: Any) -> None:
        """Look at a scan in the browser, and at places in other scans that are like one.

        Args:
            scan: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
            options: labels, heat, index, checkpoint, scans, k, port, browser, install, device,
                input_check.
        """
        if options.keys() & {"help", "h"}:  # fire takes them for options of a command with many
            fire.Fire(Commands, command=["view", "--", "--help"])
        print(view(scan, options))

    def compare(self, run_a: str, run_b: str, **options: Any) -> None:
        """Is one of two runs on the same cases better, and by how much?

        Args:
            run_a: metrics_cases.csv of an evaluation, or a folder that holds it.
            run_b: the same, of the other run.
            options: out, metric, seed, resamples.
        """
        from ctfm.evaluation import compare_folders

        print(call(compare_folders, str(run_a), str(run_b), **options))

    def lesions(self, predictions: str, references: str, **options: Any) -> None:
        """Count the tumours that were found, and the findings that are none.

        Args:
            predictions: folder of label maps (NIfTI), or one file.
            references: the same, called as the scans are.
            options: out, class_id, min_overlap, seed, resamples, workers.
        """
        from ctfm.evaluation import score_lesions

        print(call(score_lesions, str(predictions), str(references), **options))

    def pack(self, bundle: str, out: str = "dist", **options: Any) -> None:
        """Zip a bundle with a copy of this package, as the Model Zoo serves it.

        Args:
            bundle: bundle folder, such as bundles/ct_fm_whole_body_segmentation.
            out: folder for the zip, its sha256 and model_info.json.
            options: url_base, with_weights, overlay.
        """
        from ctfm.release import pack

        print(call(pack, bundle, out, **options))

    def verify(self, bundle: str) -> None:
        """Check a bundle folder or zip; one line a check.

        Args:
            bundle: bundle folder or zip.
        """
        from ctfm.release import verify_bundle

        verify_bundle(bundle)

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
