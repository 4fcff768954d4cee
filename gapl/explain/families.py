"""Which family of generators made a fake, where that can be told.

Shape suffixes: B batch, D width of a feature, F families.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapl.schema import is_name

WEIGHT, BIAS = "family_weight_FD", "family_bias_F"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class FamilySpec:
    """What is told of families beside the weights.

    names      of the families
    least      the probability from which a family is named
    precision  how often a named family was right, on sources that the detector had not seen
    coverage   the share of fakes of which one was named there
    """

    names: tuple[str, ...]
    least: float
    precision: float
    coverage: float

    def __post_init__(self) -> None:
        if not self.names or not all(map(is_name, self.names)):
            raise ValueError("families have names, which are short lines")
        if not all(0 <= each <= 1 for each in (self.least, self.precision, self.coverage)):
            raise ValueError("least, precision and coverage are in [0, 1]")


class Families:
    """A linear classifier of the features of fakes.

    width   D of the features that it reads
    """

    def __init__(self, spec: FamilySpec, *, weight_FD: np.ndarray, bias_F: np.ndarray) -> None:
        self.spec, self._weight_FD, self._bias_F = spec, weight_FD, bias_F
        self.width = weight_FD.shape[1]

    def probabilities(self, feature_BD: np.ndarray) -> np.ndarray:
        """Return probability_BF, which adds up to 1 for each image."""
        logit_BF = feature_BD @ self._weight_FD.T + self._bias_F
        power_BF: np.ndarray = np.exp(logit_BF - logit_BF.max(axis=1, keepdims=True))
        return power_BF / power_BF.sum(axis=1, keepdims=True)

    def name(self, feature_BD: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return for each image its family, or "unknown", with all probabilities; None where it is no fake."""
        return [
            self._answer(probability_F) if label == "fake" else None
            for probability_F, label in zip(self.probabilities(feature_BD), labels, strict=True)
        ]

    def _answer(self, probability_F: np.ndarray) -> dict[str, Any]:
        order = np.argsort(-probability_F)
        named = {self.spec.names[i]: float(probability_F[i]) for i in order}
        likeliest, probability = next(iter(named.items()))
        return {"name": likeliest if probability >= self.spec.least else UNKNOWN, "probabilities": named}
