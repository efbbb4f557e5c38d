"""Commands that turn predictions, of any model, into figures with intervals."""

from __future__ import annotations

from ctfm.commands.calling import report

__all__ = ["classification", "compare", "lesions"]


def classification(
    predictions: str,
    label: str,
    score: str,
    out: str,
    *,
    threshold: float = 0.5,
    youden: bool = False,
    sensitivity: float | bool | None = None,
    compare: str | None = None,
    positive: str | None = None,
    subject: str | None = None,
    id: str | None = None,
    logits: bool = False,
    calibration: str | None = None,
    bins: int = 10,
    seed: int = 0,
    resamples: int = 1000,
) -> None:
    """Score a table of two classes: AUROC, F1, calibration, …, with pictures; or compare two.

    Args:
        predictions: CSV, CSV.gz or Parquet with a row for each case
        label: column of the labels: 0 and 1, true and false, or two values with --positive
        score: column of probabilities, or of logits with --logits
        out: folder for tables, JSON and pictures
        threshold: of the operating point "fixed"
        youden: add the point with the largest sensitivity + specificity on these cases
        sensitivity: add the point that reaches this sensitivity on these cases; alone: 0.95
        compare: column of a second score of the same cases
        positive: the label that counts as 1
        subject: column of the subjects, where one has several cases: intervals and tests are then
            of a bootstrap over subjects
        id: column of the cases' names, none of which may come twice
        logits: the scores are logits
        calibration: calibration.json of the head CT triage: its temperature and operating points
        bins: bins of the calibration error
    """
    report("ctfm.evaluation.classification.rescoring:score_predictions", **locals())


def compare(
    run_a: str,
    run_b: str,
    *,
    out: str | None = None,
    metric: str = "dice",
    seed: int = 0,
    resamples: int = 1000,
) -> None:
    """Compare two runs on the same cases: is one better, and by how much?

    Args:
        run_a: metrics_cases.csv of an evaluation (lesions_cases.csv for a metric of lesions), or
            a folder that holds it
        run_b: the same, of the other run
        out: folder for compare.csv, compare.json and compare.png; default: no files
        metric: dice, nsd, asd_mm or hd95_mm; of lesions sensitivity or false_positives
    """
    report("ctfm.evaluation:compare_folders", **locals())


def lesions(
    predictions: str,
    references: str,
    *,
    out: str | None = None,
    class_id: int | None = None,
    min_overlap: float = 0.0,
    seed: int = 0,
    resamples: int = 1000,
    workers: int | None = None,
) -> None:
    """Score tumours one by one: per-lesion sensitivity and false positives.

    Args:
        predictions: folder of label maps (NIfTI), searched with its subfolders, or one file
        references: the same, called as the scans are
        out: folder for lesions.csv, lesions_cases.csv and lesions.json; default: no files
        class_id: id of tumour, such as 2 in Task03_Liver; default: every voxel above 0
        min_overlap: share of its voxels that the other mask must have, 0 to 1; 0: any voxel
    """
    report("ctfm.evaluation:score_lesions", **locals())
