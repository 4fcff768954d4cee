"""A detector's logit -> a probability, and a verdict that may be "unsure". What calibrate.py found, to be stored.

Needs NumPy alone, so that a single verdict need not wait for other libraries. Shape suffix: N images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from gapl.schema import build_spec

METHODS = ("temperature", "platt")
BALANCED = "balanced"
Verdict = Literal["real", "fake", "unsure"]


@dataclass(frozen=True)
class Calibration:
    """score = sigmoid(a * logit + b), and what scores mean.

    method            "temperature" (b = 0) or "platt"
    operating_points  name -> threshold; an image is called fake from it on. "fpr1" calls at most 1 % of
                      photographs fake, "fpr5" at most 5 %; from "balanced" on a fake is likelier
    band_low, band_high   scores between them, both ends included, are "unsure". Equal: there is no band, and an
                      image is fake from there on
    alpha             share of photographs called fake, and of fakes called real, at most, by `decide`. Of all
                      images of the class: those called "unsure" are in the denominator
    n_real, n_fake    held-out images that all this rests on
    ece_before, ece_after   expected calibration error on these images, in [0, 1]
    data_sha256       of the held-out images and their labels
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
            _check_unit_interval(name, value)
        if not 0 <= self.band_low <= self.band_high <= 1:
            raise ValueError(f"band from {self.band_low} to {self.band_high}; expected 0 <= low <= high <= 1")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha is {self.alpha}; an error rate is above 0 and below 0.5")
        if self.n_real < 1 or self.n_fake < 1:
            raise ValueError(f"{self.n_real} photographs and {self.n_fake} fakes; expected some of both")
        if len(self.data_sha256) != 64 or set(self.data_sha256) - set("0123456789abcdef"):
            raise ValueError(f"data_sha256 is {self.data_sha256!r}; expected 64 hexadecimal digits")
        if not self.note.isprintable():
            raise ValueError("the note of a calibration is one printable line")

    @property
    def has_band(self) -> bool:
        return self.band_low < self.band_high

    def threshold(self, name: str) -> float:
        if name not in self.operating_points:
            raise ValueError(f"unknown operating point {name!r}; choose from {', '.join(self.operating_points)}")
        return self.operating_points[name]

    def apply(self, logit_N: np.ndarray) -> np.ndarray:
        """P(fake), where both classes are as frequent as the held-out images were weighted. float64."""
        scaled_N = self.a * np.asarray(logit_N, dtype=np.float64) + self.b
        return np.exp(-np.logaddexp(0.0, -scaled_N))

    def decide(self, score: float) -> Verdict:
        """The verdict on a calibrated score. Raises ValueError when it is no probability."""
        _check_unit_interval("score", score)
        if self.has_band and self.band_low <= score <= self.band_high:
            return "unsure"
        return "fake" if score >= self.band_high else "real"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which keeps every bit of a float."""
        return asdict(self) | {"operating_points": dict(self.operating_points)}

    @classmethod
    def from_dict(cls, stored: Any) -> Calibration:
        """Raise ValueError when a field is missing, unknown, or not what it should be."""
        calibration: Calibration = build_spec(cls, stored)
        return calibration


def _check_unit_interval(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a number in [0, 1]")
