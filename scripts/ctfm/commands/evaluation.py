"""Commands on predictions."""

from __future__ import annotations

from typing import Any

from ctfm.commands.calling import call

__all__ = ["Evaluate"]


class Evaluate:
    """Predictions, of whatever model, to figures with intervals."""

    def classification(
        self, predictions: str, label: str, score: str, out: str, **options: Any
    ) -> None:
        """Score a table of two classes: AUROC, F1, calibration, …, with pictures; or compare two.

        Args:
            predictions: CSV, CSV.gz or Parquet with a row for each case.
            label: column of the labels: 0 and 1, true and false, or two values with --positive.
            score: column of probabilities, or of logits with --logits.
            out: folder for tables, JSON and pictures.
            options: threshold, youden, sensitivity, compare, positive, subject, id, logits,
                calibration, bins, seed, resamples.
        """
        from ctfm.evaluation.classification.rescoring import score_predictions

        print(call(score_predictions, str(predictions), label, score, str(out), **options))
