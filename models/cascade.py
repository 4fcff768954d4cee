"""Judge by the whole image alone where that is clear, and by all views where it is not.

Shape suffixes: B batch, V views, C channels, H, W pixels, D width of a feature, U images that are not clear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gapl.calibration import Calibration
from gapl.verdict import DecisionRule, decision_rule
from models.detector import Output, TowerHead


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

    def __call__(self, detector: TowerHead, pixels_BVCHW: Tensor) -> Output:
        """Return for each image what the pass says that decided it; the whole image is the last view.

        The logits are float64, and all of them those of `full`: it gives a clear image its fast score.
        """
        whole_BD = detector.feature(pixels_BVCHW[:, -1])
        fast = detector.head(whole_BD)
        fast_logit_B = fast.logit_B.double()
        unsure_N = self._rule().unsure(self.fast.apply(fast_logit_B.cpu().numpy()))
        by_whole_B = torch.from_numpy(~unsure_N).to(whole_BD.device)
        logit_B = (self.fast.a * fast_logit_B + self.fast.b - self.full.b) / self.full.a
        output = Output(logit_B, fast.embedding_BE, fast.attention_BP, by_whole_B)
        rows_U = torch.nonzero(~by_whole_B).squeeze(1)
        if not len(rows_U):
            return output
        better = detector.head(detector.add_crops(whole_BD[rows_U], pixels_BVCHW[rows_U, :-1]))
        return _replace_rows(output, rows_U, better)

    def _rule(self) -> DecisionRule:
        """Return the rule that both calibrations agree with outside of its band."""
        rules = [decision_rule(each) for each in (self.full, self.fast)]
        return DecisionRule(min(each.real_below for each in rules), max(each.threshold for each in rules))


def _replace_rows(output: Output, rows_U: Tensor, better: Output) -> Output:
    """Return the output with the logits, embeddings and attention of these rows taken from `better`."""

    def replaced(old_B: Tensor, new_U: Tensor) -> Tensor:
        return old_B.index_copy(0, rows_U, new_U.to(old_B.dtype))

    attention_BP = output.attention_BP
    if attention_BP is not None and better.attention_BP is not None:
        attention_BP = replaced(attention_BP, better.attention_BP)
    return output._replace(
        logit_B=replaced(output.logit_B, better.logit_B),
        embedding_BE=replaced(output.embedding_BE, better.embedding_BE),
        attention_BP=attention_BP,
    )
