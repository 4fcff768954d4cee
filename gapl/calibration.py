"""Turn logits into scores, and say what scores mean: the calibration that a detector file stores.

Shape suffix: N images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

METHODS = ("temperature", "platt")
BALANCED = "balanced"


@dataclass(frozen=True)
class Calibration:
    """How logits become scores, score = sigmoid(a * logit + b), and which scores are called what.

    method            "temperature", where b is 0, or "platt"
    operating_points  thresholds by name: an image is called fake from that score on. "fpr1" calls at most 1 % of
                      real images fake and "fpr5" at most 5 %; from "balanced" on, a fake is likelier
    band_low, band_high   ends of the unsure band, which belong to it; equal where there is no band
    alpha             at most this share of real images is called fake, and of fakes called real, outside of the
                      band. It is a share of all images of the class, unsure ones included
    n_real, n_fake    number of held-out images that the calibration was fitted to
    ece_before, ece_after   expected calibration error on these images, in [0, 1]
    data_sha256       checksum of the held-out images and their labels
    note              one line about the fit, or nothing
    """

    method: str
    a: float
    b: float
    operating_points: Mapping[str, float] = field(hash=False)
    band_low: float
    band_high: float
    alpha: float
    n_real: int
    n_fake: int
    ece_before: float
    ece_after: float
    data_sha256: str
    note: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown calibration method {self.method!r}; choose from {', '.join(METHODS)}")
        if not 0 < self.a < math.inf or not math.isfinite(self.b) or (self.method == "temperature" and self.b):
            raise ValueError(f"{self.method} with a = {self.a}, b = {self.b}; a is above 0, temperature has no b")
        if not self.operating_points:
            raise ValueError("a calibration has at least one operating point")
        errors = {"ece_before": self.ece_before, "ece_after": self.ece_after}
        for name, value in (*self.operating_points.items(), *errors.items()):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a number in [0, 1]")
        if not 0 <= self.band_low <= self.band_high <= 1:
            raise ValueError(f"band from {self.band_low} to {self.band_high}; expected 0 <= low <= high <= 1")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha is {self.alpha}; an error rate is above 0 and below 0.5")
        if self.n_real < 1 or self.n_fake < 1:
            raise ValueError(f"{self.n_real} real images and {self.n_fake} fakes; expected some of both")
        if len(self.data_sha256) != 64 or set(self.data_sha256) - set("0123456789abcdef"):
            raise ValueError(f"data_sha256 is {self.data_sha256!r}; expected 64 hexadecimal digits")
        if not self.note.isprintable():
            raise ValueError("the note of a calibration is one printable line")

    def threshold(self, name: str) -> float:
        """Return the threshold of an operating point. Raises ValueError when there is none of that name."""
        if name not in self.operating_points:
            raise ValueError(f"unknown operating point {name!r}; choose from {', '.join(self.operating_points)}")
        return self.operating_points[name]

    def apply(self, logit_N: np.ndarray) -> np.ndarray:
        """Return P(fake) as float64, where both classes are as frequent as the held-out images were weighted."""
        return _sigmoid(self.a * np.asarray(logit_N, dtype=np.float64) + self.b)


def score_of(logit_N: np.ndarray, calibration: Calibration | None = None) -> np.ndarray:
    """Return the scores of logits, P(fake) as float64: calibrated, or their sigmoid without a calibration."""
    if calibration is not None:
        return calibration.apply(logit_N)
    return _sigmoid(np.asarray(logit_N, dtype=np.float64))


def _sigmoid(x_N: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), computed so that it never overflows. NaN, of an unreadable image, stays NaN."""
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0.0, -x_N))
