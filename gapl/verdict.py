"""Turn a detector's logits into verdicts: which scores are called real, fake or unsure, and the warnings.

Shape suffix: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gapl.calibration import Calibration, score_of
from gapl.decode import SEVERAL_FRAMES, transparency
from gapl.pixels import PixelSpec

SEEN_TRANSPARENT = 0.01  # the share from which a verdict warns of transparency
PLAIN_LEVELS = 2.0  # of 255: a picture whose levels vary less, as a standard deviation, is of a single colour
PLAIN_WARNING = "of nearly a single colour: there is little to judge by"
FRAMES_WARNING = "has several frames: only the first was judged"

LABELS = ("fake", "real", "unsure")


@dataclass(frozen=True)
class Verdict:
    """What a detector says of one image.

    score       P(fake), in [0, 1]
    logit       the detector's raw output, before any calibration
    label       "fake" (made by a generator), "real" (not made by one), or "unsure"; only a calibrated
                detector is unsure
    threshold   the score above which an image is called fake (without an unsure band: from which)
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
    def leaning(self) -> str:
        """Return the label, or the likelier class where the label is "unsure"."""
        return self.likelier if self.label == "unsure" else self.label

    @property
    def confidence(self) -> float:
        """Return the probability of the label, or of the likelier class where the label is "unsure"."""
        return self.score if self.leaning == "fake" else 1 - self.score


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

    notices  warnings that every verdict of this detector carries
    """

    calibration: Calibration | None
    rule: DecisionRule
    notices: tuple[str, ...] = ()

    def verdicts(self, logits_N: np.ndarray, warnings_N: Sequence[tuple[str, ...]]) -> list[Verdict]:
        """Return a verdict for each logit, given the warnings about its image."""
        scores_N = score_of(logits_N, self.calibration)
        judged = zip(scores_N, logits_N, self.rule.labels(scores_N), warnings_N, strict=True)
        return [
            Verdict(
                score=float(score),
                logit=float(logit),
                label=str(label),
                threshold=self.rule.threshold,
                real_below=self.rule.real_below,
                warnings=self.notices + warnings,
            )
            for score, logit, label, warnings in judged
        ]


def image_warnings(image: Image.Image, pixel: PixelSpec) -> tuple[str, ...]:
    """Return what to know of an image, as `decode_image` returns it, before relying on a verdict of it."""
    found = []
    if min(image.size) < pixel.size_px:
        found.append(small_image_warning(pixel, *map(str, image.size)))
    if (share := transparency(image)) >= SEEN_TRANSPARENT:
        found.append(transparency_warning(pixel, f"{share:.0%}"))
    if image.info.get(SEVERAL_FRAMES):
        found.append(FRAMES_WARNING)
    return tuple(found)


def pixel_warnings(pixels: np.ndarray, pixel: PixelSpec) -> tuple[str, ...]:
    """Return what to know of what a detector looks at: pixels_CHW or pixels_VCHW, normalised by its PixelSpec."""
    axes = tuple(axis for axis in range(pixels.ndim) if axis != pixels.ndim - 3)
    deviation_C = 255 * np.array(pixel.std) * pixels.std(axis=axes, dtype=np.float64)
    return (PLAIN_WARNING,) if (deviation_C < PLAIN_LEVELS).all() else ()


def small_image_warning(pixel: PixelSpec, width: str, height: str) -> str:
    """Return what the warning of a small image says."""
    how = "padded with black" if pixel.small_image == "pad" else "enlarged"
    return f"smaller than {pixel.size_px} px ({width} x {height} px) and {how}: less certain"


def transparency_warning(pixel: PixelSpec, share: str) -> str:
    """Return what the warning of a transparent image says."""
    how = "shown on white" if pixel.conversion == "shown" else "judged by what lies below"
    return f"{share} of it is transparent and {how}"
