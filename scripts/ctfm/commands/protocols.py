"""The commands that run published evaluations."""

from __future__ import annotations

from typing import Any

from ctfm.commands.calling import call

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
        from ctfm import protocols

        print(call(protocols.organ_mnist, checkpoints, str(data), **options))
