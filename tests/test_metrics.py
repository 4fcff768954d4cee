"""Labels and scores -> figures."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import NDArray

from evaluation.metrics import Metrics, calibration_error, compute_metrics, mean_metrics

THRESHOLDED = ("accuracy", "real_accuracy", "fake_accuracy", "balanced_accuracy")


def test_by_hand() -> None:
    """Ranked: 0.9 fake, 0.8 real, 0.7 fake, 0.4 real, 0.3 fake, 0.1 real."""
    labels_N = np.array([1, 0, 1, 0, 1, 0])
    scores_N = np.array([0.9, 0.8, 0.7, 0.4, 0.3, 0.1])
    found = compute_metrics(labels_N, scores_N, threshold=0.5)
    expected = Metrics(
        n_real=3,
        n_fake=3,
        accuracy=4 / 6,
        real_accuracy=2 / 3,
        fake_accuracy=2 / 3,
        balanced_accuracy=2 / 3,
        ap=(1 / 1 + 2 / 3 + 3 / 5) / 3,
        auroc=(3 + 2 + 1) / 9,
    )
    named = ("n_real", "n_fake", *THRESHOLDED, "ap", "auroc")
    assert [getattr(found, name) for name in named] == pytest.approx([getattr(expected, name) for name in named])
    # One fake is above all real images; from 0.3 on, where all are found, so are two real images.
    assert found.tpr_at_1_fpr == found.tpr_at_5_fpr == pytest.approx(1 / 3)
    assert found.fpr_at_95_tpr == pytest.approx(2 / 3)
    # From 0.9, 0.7 and 0.3 on: (1/3 + 1) / 2, (2/3 + 2/3) / 2 and (1 + 1/3) / 2; the first is as good as any.
    assert (found.balanced_accuracy_oracle, found.threshold_oracle) == (pytest.approx(2 / 3), 0.9)
    assert found.oracle_gap == pytest.approx(0)
    assert found.brier == pytest.approx((0.1**2 + 0.8**2 + 0.3**2 + 0.4**2 + 0.7**2 + 0.1**2) / 6)
    assert found.nll == pytest.approx(-sum(math.log(p) for p in (0.9, 0.2, 0.7, 0.6, 0.3, 0.9)) / 6)


def test_as_scikit_learn_has_it() -> None:
    generator = np.random.default_rng(0)
    labels_N = (generator.random(200) < 0.3).astype(int)
    scores_N: NDArray[np.float64] = np.round(np.clip(generator.normal(0.4 + 0.2 * labels_N, 0.2), 0, 1), 2)
    found = compute_metrics(labels_N, scores_N, threshold=0.6)
    called_N = scores_N >= 0.6
    assert found.accuracy == pytest.approx(sklearn.metrics.accuracy_score(labels_N, called_N))
    assert found.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels_N, called_N))
    assert found.ap == pytest.approx(sklearn.metrics.average_precision_score(labels_N, scores_N))
    assert found.auroc == pytest.approx(sklearn.metrics.roc_auc_score(labels_N, scores_N))
    assert found.brier == pytest.approx(sklearn.metrics.brier_score_loss(labels_N, scores_N))
    assert found.nll == pytest.approx(sklearn.metrics.log_loss(labels_N, scores_N))
    every = [sklearn.metrics.balanced_accuracy_score(labels_N, scores_N >= t) for t in np.unique(scores_N)]
    assert found.balanced_accuracy_oracle == pytest.approx(max(every))
    at_best = compute_metrics(labels_N, scores_N, threshold=found.threshold_oracle or 0)
    assert (at_best.balanced_accuracy, at_best.oracle_gap) == (pytest.approx(max(every)), pytest.approx(0))
    assert found.oracle_gap == pytest.approx(max(every) - (found.balanced_accuracy or 0))
    assert found.accuracy != pytest.approx(found.balanced_accuracy, abs=0.01)
    assert (found.n_real, found.n_fake) == (int((labels_N == 0).sum()), int(labels_N.sum()))


def test_ranking_does_not_depend_on_the_threshold() -> None:
    labels_N, scores_N = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.15, 0.3])
    low, high = (compute_metrics(labels_N, scores_N, threshold=t) for t in (0.16, 0.5))
    assert low.ap == high.ap == 1
    assert low.auroc == high.auroc == 1
    assert (low.accuracy, high.accuracy) == (1, 0.5)


def test_score_at_the_threshold_is_fake() -> None:
    at = compute_metrics(np.array([0, 1]), np.array([0.5, 0.5]), threshold=0.5)
    above = compute_metrics(np.array([0, 1]), np.array([0.5, 0.5]), threshold=math.nextafter(0.5, 1))
    assert (at.real_accuracy, at.fake_accuracy) == (0, 1)
    assert (above.real_accuracy, above.fake_accuracy) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_operating_points_over_every_threshold(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels_N = generator.integers(2, size=300)
    scores_N = np.round(np.clip(generator.normal(0.3 + 0.4 * labels_N, 0.2), 0, 1), 2)
    rates = [
        ((scores_N >= t)[labels_N == 0].mean(), (scores_N >= t)[labels_N == 1].mean()) for t in (*scores_N, 2)
    ]
    found = compute_metrics(labels_N, scores_N, threshold=0.5)
    assert found.fpr_at_95_tpr == min(fpr for fpr, tpr in rates if tpr >= 0.95)
    assert found.tpr_at_1_fpr == max(tpr for fpr, tpr in rates if fpr <= 0.01)
    assert found.tpr_at_5_fpr == max(tpr for fpr, tpr in rates if fpr <= 0.05)


def test_useless_scores() -> None:
    found = compute_metrics(np.array([0, 0, 1]), np.full(3, 0.5), threshold=0.9)
    assert (found.fpr_at_95_tpr, found.tpr_at_1_fpr) == (1, 0)
    assert (found.balanced_accuracy_oracle, found.threshold_oracle, found.oracle_gap) == (0.5, 0.5, 0)


def test_calibration_error_by_hand() -> None:
    """Three of 15 bins hold images: of P(fake) 0, 0.5 +- 0.01 and 1."""
    labels_N = np.array([0, 0, 1, 0, 1, 1, 1, 0])
    scores_N = np.array([0.0, 0.02, 0.51, 0.49, 0.5, 1.0, 0.98, 1.0])
    expected = (2 * abs(0.01 - 0) + 3 * abs(0.5 - 2 / 3) + 3 * abs(2.98 / 3 - 2 / 3)) / 8
    assert calibration_error(labels_N, scores_N) == pytest.approx(expected)
    weights_N = np.array([3, 1, 1, 1, 1, 1, 1, 1])
    weighted = (0.02 + 3 * abs(0.5 - 2 / 3) + 3 * abs(2.98 / 3 - 2 / 3)) / 10
    assert calibration_error(labels_N, scores_N, weights_N=weights_N) == pytest.approx(weighted)


def test_scores_that_are_probabilities_are_calibrated() -> None:
    generator = np.random.default_rng(0)
    scores_N = generator.random(20_000)
    labels_N = (generator.random(20_000) < scores_N).astype(int)
    assert calibration_error(labels_N, scores_N) < 0.02
    assert calibration_error(1 - labels_N, scores_N) > 0.4


def test_likelihood_of_scores_that_round_to_one() -> None:
    logits_N, labels_N = np.array([50.0, -800.0]), np.array([0, 1])
    scores_N = np.array([1.0, 0.0])
    assert compute_metrics(labels_N, scores_N, threshold=0.5, logits_N=logits_N).nll == pytest.approx(425)
    clipped = sklearn.metrics.log_loss(labels_N, scores_N)
    assert compute_metrics(labels_N, scores_N, threshold=0.5).nll == pytest.approx(clipped)


def test_logits_that_are_not_those_of_calibrated_scores_are_not_taken() -> None:
    labels_N, scores_N = np.array([0, 1]), np.array([0.3, 0.6])
    found = compute_metrics(labels_N, scores_N, threshold=0.5, logits_N=np.array([-5.0, 5.0]))
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.6)) / 2)


@pytest.mark.parametrize(("label", "known"), [(0, "real_accuracy"), (1, "fake_accuracy")])
def test_single_class(label: int, known: str) -> None:
    found = asdict(compute_metrics(np.full(4, label), np.array([0.1, 0.4, 0.6, 0.9]), threshold=0.5))
    assert found.pop(known) == found.pop("accuracy") == 0.5
    assert {found.pop("n_real"), found.pop("n_fake")} == {0, 4}
    assert set(found.values()) == {None}


@pytest.mark.parametrize("label", [0, 1])
def test_single_class_that_is_all_right_or_all_wrong(label: int) -> None:
    for score in (0.0, 1.0):
        found = compute_metrics(np.full(3, label), np.full(3, score), threshold=0.5)
        assert found.accuracy == (1 if score == label else 0)


def test_no_images() -> None:
    found = compute_metrics(np.array([], dtype=int), np.array([]), threshold=0.5)
    assert found == Metrics(0, 0, *[None] * 6)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match="scores must be finite"):
        compute_metrics(np.array([0, 1]), np.array([0.5, score]), threshold=0.5)


def test_mean_leaves_out_what_has_one_class_only() -> None:
    both = [Metrics(10, 10, a, a, a, a, a, a) for a in (0.5, 0.9)]
    recall_only = Metrics(0, 50, 1.0, None, 1.0, None, None, None)
    mean = mean_metrics([both[0], recall_only, both[1]])
    assert [getattr(mean, name) for name in (*THRESHOLDED, "ap", "auroc")] == pytest.approx([0.7] * 6)
    assert (mean.n_real, mean.n_fake) == (20, 70)


def test_mean_has_no_threshold() -> None:
    parts = [compute_metrics(np.array([0, 1]), np.array([0.1, high]), threshold=0.5) for high in (0.4, 0.8)]
    mean = mean_metrics(parts)
    assert (mean.oracle_gap, mean.balanced_accuracy_oracle, mean.threshold_oracle) == (0.25, 1, None)


def test_mean_of_recalls_is_a_recall() -> None:
    parts = [Metrics(0, 10, a, None, a, None, None, None) for a in (0.2, 0.4)]
    mean = mean_metrics(parts)
    assert mean.fake_accuracy == mean.accuracy == pytest.approx(0.3)
    assert mean.balanced_accuracy is mean.ap is None
