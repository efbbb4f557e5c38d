"""The commands that run published evaluations."""

from __future__ import annotations

from typing import Any

from ctfm.commands.calling import call, join_numbers

__all__ = ["Protocols"]


class Protocols:
    """Run published evaluations of embeddings, on the data sets' own files."""

    def organmnist3d(self, *checkpoints: str, data: str, **options: Any) -> None:
        """Retrieval on OrganMNIST3D, beside encoders with random weights.

        Args:
            checkpoints: encoders: files, patterns in quotes, folders or repository ids.
            data: organmnist3d_64.npz as MedMNIST publishes it.
            options: out, random_seeds, batch_size, device, amp, seed, resamples.
        """
        from ctfm.protocols import run_organ_mnist

        print(call(run_organ_mnist, checkpoints, str(data), **options))

    def mir(self, *checkpoints: str, data: str, scans: str, **options: Any) -> None:
        """Retrieval on 3D-MIR: scans with lesions of the same kind; a stopped run goes on.

        Args:
            checkpoints: encoders: files, patterns in quotes, folders or repository ids.
            data: folder Data of 3D-MIR's repository.
            scans: folder below which the decathlon's tasks lie.
            options: out, random_seeds, batch_size, device, amp, input_check, seed, resamples.
        """
        from ctfm.protocols import run_mir

        print(call(run_mir, checkpoints, str(data), str(scans), **options))

    def semantic(self, *checkpoints: str, data: str, **options: Any) -> None:
        """Search each organ of each scan in each other one: distance in mm, share inside.

        Args:
            checkpoints: encoders: files, patterns in quotes, folders or repository ids.
            data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
            options: base_dir, split, classes, out, spacing, patch, overlap, random_seeds, scans,
                batch_size, device, amp, input_check, progress, seed, resamples.
        """
        from ctfm.protocols import run_semantic

        print(call(run_semantic, checkpoints, str(data), **options))

    def clustering(self, *checkpoints: str, data: str, **options: Any) -> None:
        """Cluster patches of organs of many scans: do clusters and organs agree?

        Args:
            checkpoints: encoders: files, patterns in quotes, folders or repository ids.
            data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
            options: base_dir, split, classes, out, places, spacing, patch, most, random_seeds,
                scans, batch_size, device, amp, input_check, progress, seed, resamples.
        """
        from ctfm.protocols import run_clustering

        print(call(run_clustering, checkpoints, str(data), **options))

    def stability(self, *checkpoints: str, pairs: str, **options: Any) -> None:
        """Test-retest pairs, and scans after a change; a stopped run goes on.

        Args:
            checkpoints: encoders: files, patterns in quotes, folders or repository ids.
            pairs: CSV with the columns first, second (and subject): files or DICOM folders.
            options: base_dir, out, changes, spacing, patch, overlap, random_seeds, batch_size,
                device, amp, input_check, progress, seed, resamples.
        """
        from ctfm.protocols import run_stability

        print(call(run_stability, checkpoints, str(pairs), **options))

    def saliency(self, *checkpoints: Any, **options: Any) -> None:
        """Cover parts of patches around organs: does the embedding depend on the organ?

        With --data, a datalist (JSON) of scans with labels: all organs. With --scan, one place of
        one scan: --point x,y,z (mm, RAS+), --voxel i,j,k, or --organ NAME with --labels FILE.

        Args:
            checkpoints: encoders: files, patterns in quotes, folders or repository ids.
            options: data, scan, point, voxel, organ, labels, base_dir, split, classes, out,
                pictures, spacing, patch, random_seeds, scans, batch_size, device, amp,
                input_check, progress, seed, resamples.
        """
        from ctfm.protocols import run_saliency

        files, numbers = join_numbers(checkpoints, options)
        print(call(run_saliency, [*files, *numbers], **options))
