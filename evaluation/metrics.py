"""Labels and scores -> the figures of this field, by scikit-learn.

Shape suffix: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

from evaluation.predict import ScoreRow


@dataclass(frozen=True)
class Metrics:
    """Fractions in [0, 1]; None where a class is missing and the figure is not defined.

    real_accuracy  photographs called real (specificity)      fake_accuracy  fakes called fake (recall)
    balanced_accuracy  their mean
    ap, auroc  of the ranking by score, independent of the threshold; fake is the positive class
    """

    n_real: int
    n_fake: int
    accuracy: float | None
    real_accuracy: float | None
    fake_accuracy: float | None
    balanced_accuracy: float | None
    ap: float | None
    auroc: float | None


RATES = tuple(item.name for item in fields(Metrics) if not item.name.startswith("n_"))


def compute_metrics(labels_N: np.ndarray, scores_N: np.ndarray, *, threshold: float) -> Metrics:
    """An image is called fake from `threshold` on. Scores must be finite."""
    if not np.isfinite(scores_N).all():
        raise ValueError("scores must be finite; leave out the images that could not be read")
    called_N = (scores_N >= threshold).astype(int)
    n_fake = int(labels_N.sum())
    n_real = len(labels_N) - n_fake
    both = n_real > 0 and n_fake > 0
    real = float(recall_score(labels_N, called_N, pos_label=0)) if n_real else None
    fake = float(recall_score(labels_N, called_N, pos_label=1)) if n_fake else None
    return Metrics(
        n_real=n_real,
        n_fake=n_fake,
        accuracy=float((called_N == labels_N).mean()) if len(labels_N) else None,
        real_accuracy=real,
        fake_accuracy=fake,
        balanced_accuracy=(real + fake) / 2 if real is not None and fake is not None else None,
        ap=float(average_precision_score(labels_N, scores_N)) if both else None,
        auroc=float(roc_auc_score(labels_N, scores_N)) if both else None,
    )


def mean_metrics(parts: Sequence[Metrics]) -> Metrics:
    """The unweighted mean of each rate over the parts that have both classes, or over all if none has.

    Counts are summed over all parts. A part with fakes only is a recall: it would flatter a mean accuracy.
    """
    averaged = [part for part in parts if part.balanced_accuracy is not None] or parts
    means: dict[str, float | None] = {}
    for name in RATES:
        values = [value for part in averaged if (value := getattr(part, name)) is not None]
        means[name] = float(np.mean(values)) if values else None
    return Metrics(sum(part.n_real for part in parts), sum(part.n_fake for part in parts), **means)


def rates_by_source(rows: Sequence[ScoreRow], *, threshold: float = 0.5) -> dict[str, dict[str, dict[str, float]]]:
    """ "fake" or "real" -> generator or photo source -> {"images", "accuracy"}: the share of its images that are
    called what they are."""
    calls: dict[str, dict[str, list[bool]]] = {"real": {}, "fake": {}}
    for row in sorted(rows, key=lambda row: row.generator):
        if not row.error:
            of_class = calls["fake" if row.label else "real"]
            of_class.setdefault(row.generator, []).append((row.score >= threshold) == bool(row.label))
    return {
        name: {source: {"images": len(right), "accuracy": sum(right) / len(right)} for source, right in of.items()}
        for name, of in calls.items()
    }


def metrics_of(rows: Sequence[ScoreRow], *, threshold: float = 0.5) -> Metrics:
    """Metrics of the rows that have a score."""
    read = [row for row in rows if not row.error]
    labels_N = np.array([row.label for row in read], dtype=int)
    return compute_metrics(labels_N, np.array([row.score for row in read]), threshold=threshold)
