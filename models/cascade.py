"""Judge by the whole image alone where that is clear, and by all views where it is not: with a detector of torch.

Shape suffixes: B batch, V views, C channels, H, W pixels, D width of a feature, U images that are not clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gapl.cascade import Cascade
from models.detector import Output


class Looking(Protocol):
    """What makes features of pixels, and judges by them."""

    def feature(self, pixels: Tensor, /) -> Tensor: ...
    def add_crops(self, whole: Tensor, crops: Tensor, /) -> Tensor: ...
    def head(self, feature: Tensor, /) -> Output: ...


@dataclass(frozen=True)
class WholeFirst:
    """The forward pass of a detector that judges by `rule`. It sends the whole image through the tower once."""

    rule: Cascade

    def __call__(self, detector: Looking, pixels_BVCHW: Tensor) -> Output:
        """Return for each image what the pass says that decided it; the whole image is the last view.

        The logits are float64, and all of them those of all views: a clear image has one of its fast score.
        """
        whole_BD = detector.feature(pixels_BVCHW[:, -1])
        fast = detector.head(whole_BD)
        fast_logit_B = fast.logit_B.double().cpu().numpy()
        by_whole_B = torch.from_numpy(self.rule.clear(fast_logit_B)).to(whole_BD.device)
        logit_B = torch.from_numpy(self.rule.as_full(fast_logit_B)).to(whole_BD.device)
        output = fast._replace(logit_B=logit_B, by_whole_B=by_whole_B)
        rows_U = torch.nonzero(~by_whole_B).squeeze(1)
        if not len(rows_U):
            return output
        better = detector.head(detector.add_crops(whole_BD[rows_U], pixels_BVCHW[rows_U, :-1]))
        return _replace_rows(output, rows_U, better)


def _replace_rows(output: Output, rows_U: Tensor, better: Output) -> Output:
    """Return the output with what was computed of these rows taken from `better`."""

    def replaced(old_B: Tensor | None, new_U: Tensor | None) -> Tensor | None:
        return old_B if old_B is None or new_U is None else old_B.index_copy(0, rows_U, new_U.to(old_B.dtype))

    return Output(
        *(replaced(*each) for each in zip(output, better, strict=True))  # type: ignore[arg-type]
    )
