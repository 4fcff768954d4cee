"""Turn a detector's logits into verdicts: which scores are called real, fake or unsure, and the warnings.

Shape suffix: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gapl.calibration import Calibration, score_of
from gapl.pixels import PixelSpec


@dataclass(frozen=True)
class Verdict:
    """What a detector says of one image.

    score       P(fake), in [0, 1]
    logit       the detector's raw output, before any calibration
    label       "fake" (made by a generator), "real" (not made by one), or "unsure"; only a calibrated
                detector is unsure
    threshold   the score from which an image is called fake
    real_below  the score below which an image is called real; less than `threshold` where there is an unsure band
    warnings    what to know before relying on the verdict
    """

    score: float
    logit: float
    label: str
    threshold: float
    real_below: float
    warnings: tuple[str, ...] = ()

    @property
    def likelier(self) -> str:
        """Return the class that the score makes likelier, "real" or "fake", whatever the thresholds say."""
        return "fake" if self.score >= 0.5 else "real"

    @property
    def confidence(self) -> float:
        """Return the probability of the label, or of the likelier class where the label is "unsure"."""
        sure_of = self.likelier if self.label == "unsure" else self.label
        return self.score if sure_of == "fake" else 1 - self.score


@dataclass(frozen=True)
class DecisionRule:
    """Which scores are called what. The only place that compares a score with the unsure band.

    Scores below `real_below` are real and scores above `threshold` are fake. Between the two, both ends included,
    scores are unsure; where the two are equal there is no band, and a score of exactly `threshold` is fake.
    """

    real_below: float
    threshold: float

    @property
    def has_band(self) -> bool:
        return self.real_below < self.threshold

    def unsure(self, scores_N: np.ndarray) -> np.ndarray:
        """Return which of the scores are unsure, as booleans of the same shape."""
        scores_N = np.asarray(scores_N)
        return self.has_band & (self.real_below <= scores_N) & (scores_N <= self.threshold)

    def labels(self, scores_N: np.ndarray) -> np.ndarray:
        """Return "real", "fake" or "unsure" for each score. Raises ValueError for one outside of [0, 1]."""
        scores_N = np.asarray(scores_N, dtype=np.float64)
        if not ((scores_N >= 0) & (scores_N <= 1)).all():
            raise ValueError(f"scores from {scores_N.min()} to {scores_N.max()}; a score is in [0, 1]")
        decided_N = np.where(scores_N >= self.threshold, "fake", "real")
        return np.where(self.unsure(scores_N), "unsure", decided_N)


def decision_rule(
    calibration: Calibration | None, *, threshold: float = 0.5, operating_point: str | None = None
) -> DecisionRule:
    """Return the rule of a detector: the band of its calibration, or its plain threshold without one.

    With an `operating_point` of the calibration, such as "fpr1", its threshold alone decides.
    Raises ValueError when there is no such operating point.
    """
    if operating_point is not None:
        if calibration is None:
            raise ValueError(f"operating point {operating_point!r}: this detector is not calibrated and has none")
        threshold = calibration.threshold(operating_point)
    elif calibration is not None:
        return DecisionRule(calibration.band_low, calibration.band_high)
    return DecisionRule(threshold, threshold)


@dataclass(frozen=True)
class Judge:
    """Everything between a detector's logits and its verdicts.

    pixel    how images became pixels: decides which images were too small
    notices  warnings that every verdict of this detector carries
    """

    calibration: Calibration | None
    rule: DecisionRule
    pixel: PixelSpec
    notices: tuple[str, ...] = ()

    def verdicts(self, logits_N: np.ndarray, sizes_px: Sequence[tuple[int, int]]) -> list[Verdict]:
        """Return a verdict for each logit, given the (width, height) of its image."""
        scores_N = score_of(logits_N, self.calibration)
        judged = zip(scores_N, logits_N, self.rule.labels(scores_N), sizes_px, strict=True)
        return [
            Verdict(
                score=float(score),
                logit=float(logit),
                label=str(label),
                threshold=self.rule.threshold,
                real_below=self.rule.real_below,
                warnings=self.notices + small_image_warnings(self.pixel, *size_px),
            )
            for score, logit, label, size_px in judged
        ]


def small_image_warnings(pixel: PixelSpec, width: int, height: int) -> tuple[str, ...]:
    """Return the warning about an image that is smaller than the detector's crop, or nothing."""
    if min(width, height) >= pixel.size_px:
        return ()
    return (small_image_warning(pixel, str(width), str(height)),)


def small_image_warning(pixel: PixelSpec, width: str, height: str) -> str:
    """Return what that warning says."""
    how = "padded with black" if pixel.small_image == "pad" else "enlarged"
    return f"smaller than {pixel.size_px} px ({width} x {height} px) and {how}: less certain"
