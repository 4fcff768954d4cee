"""Run a detector on pixels, or its head on features: the only place where a detector judges images.

Shape suffixes: B batch, E embedding, P prototypes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.detector import Output
from models.precision import autocast


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
