"""Labels and scores -> the figures of this field, by scikit-learn.

Shape suffixes: N images, T thresholds, K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from sklearn.metrics import average_precision_score, log_loss, recall_score, roc_auc_score, roc_curve

from gapl.calibration import score_of

ECE_BINS = 15
SAME_SCORE = 1e-6  # a logit belongs to a score if its sigmoid is that close


@dataclass(frozen=True)
class Metrics:
    """Fractions in [0, 1] but for `nll`; None where a class is missing and the figure is not defined.

    real_accuracy  real images called real (specificity)      fake_accuracy  fakes called fake (recall)
    balanced_accuracy  their mean
    ap, auroc  of the ranking by score, independent of the threshold; fake is the positive class
    fpr_at_95_tpr  the lowest share of real images called fake at a threshold that finds 95 % of the fakes
    tpr_at_1_fpr, tpr_at_5_fpr  the highest share of fakes found with at most 1 %, 5 % of real images called fake
    nll  mean of -log P(label), natural logarithm      brier  mean of (P(fake) - label)^2
    ece  expected calibration error: 15 bins of P(fake) of equal width, the distance of a bin's mean P(fake) from
         its fraction of fakes, weighted by its images
    balanced_accuracy_oracle  the best over all thresholds on these very images, which no threshold set before
         could know; reached at threshold_oracle. oracle_gap: by how much it beats balanced_accuracy
    """

    n_real: int
    n_fake: int
    accuracy: float | None
    real_accuracy: float | None
    fake_accuracy: float | None
    balanced_accuracy: float | None
    ap: float | None
    auroc: float | None
    fpr_at_95_tpr: float | None = None
    tpr_at_1_fpr: float | None = None
    tpr_at_5_fpr: float | None = None
    nll: float | None = None
    brier: float | None = None
    ece: float | None = None
    balanced_accuracy_oracle: float | None = None
    oracle_gap: float | None = None
    threshold_oracle: float | None = None


# What is averaged: a mean of thresholds is no threshold.
RATES = tuple(item.name for item in fields(Metrics) if item.name not in ("n_real", "n_fake", "threshold_oracle"))


def compute_metrics(
    labels_N: np.ndarray, scores_N: np.ndarray, *, threshold: float, logits_N: np.ndarray | None = None
) -> Metrics:
    """Compute the figures of labelled scores; an image is called fake from `threshold` on.

    logits_N   NLL is computed from these if the scores are their sigmoid, since a score that rounds to 0 or 1 has
               a finite logit; otherwise from the scores, which are clipped

    Raises ValueError when a score is not finite.
    """
    _require_finite(scores_N)
    called_N = (scores_N >= threshold).astype(int)
    n_real, n_fake = (int((labels_N == label).sum()) for label in (0, 1))
    real = float(recall_score(labels_N, called_N, pos_label=0)) if n_real else None
    fake = float(recall_score(labels_N, called_N, pos_label=1)) if n_fake else None
    accuracy = float((called_N == labels_N).mean()) if len(labels_N) else None
    if real is None or fake is None:
        return Metrics(n_real, n_fake, accuracy, real, fake, None, None, None)
    balanced = (real + fake) / 2
    fpr_T, tpr_T, thresholds_T = roc_curve(labels_N, scores_N, drop_intermediate=False)
    oracle, at = _best_threshold(fpr_T, tpr_T, thresholds_T)
    return Metrics(
        n_real=n_real,
        n_fake=n_fake,
        accuracy=accuracy,
        real_accuracy=real,
        fake_accuracy=fake,
        balanced_accuracy=balanced,
        ap=float(average_precision_score(labels_N, scores_N)),
        auroc=float(roc_auc_score(labels_N, scores_N)),
        fpr_at_95_tpr=float(fpr_T[tpr_T >= 0.95].min()),
        tpr_at_1_fpr=float(tpr_T[fpr_T <= 0.01].max()),
        tpr_at_5_fpr=float(tpr_T[fpr_T <= 0.05].max()),
        nll=negative_log_likelihood(labels_N, scores_N, logits_N=logits_N),
        brier=float(np.square(scores_N - labels_N).mean()),
        ece=calibration_error(labels_N, scores_N),
        balanced_accuracy_oracle=oracle,
        oracle_gap=max(0.0, oracle - balanced),
        threshold_oracle=at,
    )


def _require_finite(scores_N: np.ndarray) -> None:
    if not np.isfinite(scores_N).all():
        raise ValueError("scores must be finite; leave out the images that could not be read")


def _best_threshold(fpr_T: np.ndarray, tpr_T: np.ndarray, thresholds_T: np.ndarray) -> tuple[float, float]:
    """Return the best balanced accuracy over the thresholds of a ROC curve, and where it is reached."""
    # The first threshold is infinity: all called real. All called fake, at the end, is as good.
    balanced_T = (tpr_T[1:] + 1 - fpr_T[1:]) / 2
    best = int(np.round(balanced_T, 12).argmax())  # of equals the highest threshold, whatever the last digits
    return float(balanced_T[best]), float(thresholds_T[1:][best])


def negative_log_likelihood(
    labels_N: np.ndarray, scores_N: np.ndarray, *, logits_N: np.ndarray | None = None
) -> float:
    """Return the NLL as `compute_metrics` describes it.

    -log sigmoid(x) is log(1 + exp(-x)), which does not overflow when it is computed by logaddexp.
    """
    if logits_N is not None and np.allclose(score_of(logits_N), scores_N, rtol=0, atol=SAME_SCORE):
        return float(np.logaddexp(0, np.where(labels_N == 1, -logits_N, logits_N)).mean())
    return float(log_loss(labels_N, scores_N, labels=[0, 1]))


def calibration_error(labels_N: np.ndarray, scores_N: np.ndarray, *, weights_N: np.ndarray | None = None) -> float:
    """Return the ECE that `Metrics` defines (Naeini et al. 2015, on P(fake)).

    A score of k / 15 is in the bin above.

    weights_N   how much each image counts; None means all alike
    """
    weights_N = np.ones(len(labels_N)) if weights_N is None else weights_N
    bin_N = np.minimum((scores_N * ECE_BINS).astype(int), ECE_BINS - 1)
    excess_K = np.bincount(bin_N, weights=weights_N * (scores_N - labels_N), minlength=ECE_BINS)
    return float(np.abs(excess_K).sum() / weights_N.sum())


def mean_metrics(parts: Sequence[Metrics]) -> Metrics:
    """Return the unweighted mean of each rate over the parts that have both classes, or over all if none has.

    Counts are summed over all parts; a mean has no threshold. The accuracy of a part with fakes only is a recall,
    which would flatter the mean.
    """
    averaged = [part for part in parts if part.balanced_accuracy is not None] or parts
    means: dict[str, float | None] = {}
    for name in RATES:
        values = [value for part in averaged if (value := getattr(part, name)) is not None]
        means[name] = float(np.mean(values)) if values else None
    return Metrics(sum(part.n_real for part in parts), sum(part.n_fake for part in parts), **means)
