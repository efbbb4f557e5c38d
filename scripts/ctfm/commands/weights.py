"""Commands on weights."""

from __future__ import annotations

from typing import Any

from ctfm.commands.calling import call

__all__ = ["Weights"]


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

    def extract(self, checkpoint: str, out: str) -> None:
        """Take the encoder out of a pretraining checkpoint, as the other bundles load it.

        Args:
            checkpoint: last.pt or epoch_0450.pt of the pretraining bundle, or any known layout.
            out: file to write, such as models/ct_fm_encoder.safetensors.
        """
        from ctfm import weights

        print(weights.convert(str(checkpoint), str(out), kind="encoder"))

    def inject(self, encoder: str, out: str, **network: Any) -> None:
        """Put a pretrained encoder into a new SegResNetDS and save it.

        Args:
            encoder: file, folder or repository id.
            out: file to write: .safetensors, or .pt as a bundle's models/model.pt.
            network: arguments of SegResNetDS that differ from the published ones.
        """
        from ctfm import weights

        print(call(weights.inject, encoder, out, **network))

    def verify(self, source: str, published: bool = True) -> None:
        """Say what a file holds, and whether it is sound.

        Args:
            source: file, folder or repository id.
            published: it has to be of the published architecture.
        """
        from ctfm import weights

        print(weights.verify(source, published=published))
