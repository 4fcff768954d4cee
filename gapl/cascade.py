"""Judge by the whole image alone where that is clear, and by all views where it is not: the rule.

Shape suffixes: B batch, V views, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gapl.calibration import Calibration
from gapl.verdict import DecisionRule, decision_rule


@dataclass(frozen=True)
class Cascade:
    """How a detector with several views saves passes through its tower.

    full    calibration of the logits of all views
    fast    calibration of the logits of the whole image alone

    An image is clear where the fast score lies outside of the unsure bands of both calibrations, on the same side:
    then both call it the same, and only all views together say "unsure".
    """

    full: Calibration
    fast: Calibration

    def clear(self, fast_logit_B: np.ndarray) -> np.ndarray:
        """Return which images are clear, as booleans, given their logits by the whole image alone."""
        rules = [decision_rule(each) for each in (self.full, self.fast)]
        both = DecisionRule(min(each.real_below for each in rules), max(each.threshold for each in rules))
        return ~both.unsure(self.fast.apply(fast_logit_B))

    def as_full(self, fast_logit_B: np.ndarray) -> np.ndarray:
        """Return, as float64, the logits to which `full` gives the fast scores."""
        return (self.fast.a * fast_logit_B.astype(np.float64) + self.fast.b - self.full.b) / self.full.a

    def judge(self, engine: Callable[[np.ndarray], np.ndarray], pixels_BVCHW: np.ndarray) -> np.ndarray:
        """Return logit_B, given an engine that returns those of pixels; the whole image is the last view.

        The logits are float64, and all of them those of `full`: it gives a clear image its fast score.
        """
        fast_logit_B = engine(pixels_BVCHW[:, -1:])
        logit_B = self.as_full(fast_logit_B)
        unclear_B = ~self.clear(fast_logit_B)
        if unclear_B.any():
            logit_B[unclear_B] = engine(pixels_BVCHW[unclear_B])
        return logit_B
