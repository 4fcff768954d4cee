"""Run a detector on pixels, or its head on features: the only place where a detector judges images.

Shape suffixes: B batch, E embedding, P prototypes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from gapl.engine import Outcome
from models.casting import cast_frozen_linears
from models.detector import Output, TowerHead
from models.precision import autocast, dtype_of


def run_detector(
    forward: Callable[[Tensor], Output], inputs: Tensor, *, device: str, precision: str = "fp32"
) -> Output:
    """Return what a detector says of a batch. The logits are float64 on the CPU, the rest stays on the device.

    forward    a detector, for pixels_BCHW; or its head, for feature_BD
    device     where `forward` has its weights; the inputs are moved there
    precision  "fp32", "bf16" or "fp16", which the tower computes in

    Raises ValueError when a logit is not a finite number.
    """
    with torch.inference_mode(), autocast(torch.device(device).type, precision):
        output = forward(inputs.to(device, non_blocking=True))
    logit_B = output.logit_B.double().cpu()
    if not logit_B.isfinite().all():
        raise ValueError("the detector's score is not a number: its weights are those of no working detector")
    return output._replace(logit_B=logit_B)


def place_detector(detector: nn.Module, *, device: str, precision: str) -> None:
    """Move a detector to a device, with the tower's frozen weights in the type of the precision, in place."""
    detector.requires_grad_(False).to(device)
    if precision != "fp32":
        assert isinstance(detector, TowerHead)
        cast_frozen_linears(detector.tower, dtype_of(precision))


def engine_of(
    detector: nn.Module, *, device: str = "cpu", precision: str = "fp32"
) -> Callable[[np.ndarray], Outcome]:
    """Place a detector, and return what gapl.Detector calls an engine: pixels_BCHW or pixels_BVCHW -> Outcome."""
    place_detector(detector, device=device, precision=precision)

    def engine(pixels: np.ndarray) -> Outcome:
        output = run_detector(detector, torch.from_numpy(pixels), device=device, precision=precision)
        by_whole_B = None if output.by_whole_B is None else output.by_whole_B.cpu().numpy()
        feature_BD = None if output.feature_BD is None else output.feature_BD.float().cpu().numpy()
        return Outcome(output.logit_B.numpy(), output.embedding_BE.float().cpu().numpy(), feature_BD, by_whole_B)

    return engine
