"""Judge by the whole image alone where that is clear, and by all views where it is not: the rule.

Shape suffixes: B batch, V views, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gapl.calibration import Calibration
from gapl.engine import Outcome
from gapl.verdict import DecisionRule, decision_rule


@dataclass(frozen=True)
class Cascade:
    """How a detector with several views saves passes through its tower.

    full    calibration of the logits of all views
    fast    calibration of the logits of the whole image alone

    An image is clear where the fast score lies outside of the unsure bands of both calibrations, on the same side:
    then both call it the same, and only all views together say "unsure". It is not clear where `full` alone
    calls the fast score fake at an operating point: a threshold promises nothing of scores of another calibration.
    """

    full: Calibration
    fast: Calibration

    def clear(self, fast_logit_B: np.ndarray) -> np.ndarray:
        """Return which images are clear, as booleans, given their logits by the whole image alone."""
        rules = [decision_rule(each) for each in (self.full, self.fast)]
        both = DecisionRule(min(each.real_below for each in rules), max(each.threshold for each in rules))
        score_B = self.fast.apply(fast_logit_B)
        clear_B = ~both.unsure(score_B)
        for name, threshold in self.full.operating_points.items():
            theirs = self.fast.operating_points.get(name, math.inf)
            clear_B &= ~((threshold <= score_B) & (score_B < theirs))
        return clear_B

    def as_full(self, fast_logit_B: np.ndarray) -> np.ndarray:
        """Return, as float64, the logits to which `full` gives the fast scores."""
        return (self.fast.a * fast_logit_B.astype(np.float64) + self.fast.b - self.full.b) / self.full.a

    def judge(self, engine: Callable[[np.ndarray], Outcome], pixels_BVCHW: np.ndarray) -> Outcome:
        """Judge pixels by an engine; the whole image is the last view.

        The logits are float64, and all of them those of `full`: it gives a clear image its fast score.
        """
        fast = engine(pixels_BVCHW[:, -1:])
        clear_B = self.clear(fast.logit_B)
        outcome = fast._replace(logit_B=self.as_full(fast.logit_B), by_whole_B=clear_B)
        if not clear_B.all():
            better = engine(pixels_BVCHW[~clear_B])
            for rows_BX, better_UX in zip(outcome[:3], better[:3], strict=True):
                if rows_BX is not None:
                    rows_BX[~clear_B] = better_UX
        return outcome
