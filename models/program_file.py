"""Write a detector as a program of torch.export, NAME.pt2, when its verdicts are those of torch.

A program holds what torch computes, and the weights: whoever runs it needs torch, and none of this code.

    fp32   as in torch
    bf16   linear layers of the tower in bfloat16

Shape suffixes: B batch, V views, C channels, H, W pixels, D width of a feature, N crops of all images.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from gapl.files.atomic import replacing
from models.about import metadata_of, write_about
from models.casting import frozen_linears_in
from models.detector import TowerHead
from models.export import tensors_of
from models.parity import Exam, Parity
from models.precision import autocast, dtype_of
from models.program_engine import read_program

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class _Program(nn.Module):
    """A detector as torch.export takes it, for any number of images and of views.

    Which views are crops is data here, and their number a size that torch does not know: one view alone has none
    of them. A size that is computed from the number of views would have to be 2 or more.
    """

    def __init__(self, detector: TowerHead, *, precision: str) -> None:
        super().__init__()
        self.detector, self.precision = detector, precision

    def forward(self, pixels_BVCHW: Tensor) -> tuple[Tensor, ...]:
        with autocast("cpu", self.precision):  # inside, so that it is part of the program
            return self._outputs(pixels_BVCHW)

    def _outputs(self, pixels_BVCHW: Tensor) -> tuple[Tensor, ...]:
        detector = self.detector
        if not detector.whole_layers:
            return tensors_of(detector(pixels_BVCHW))
        num_images, num_views = pixels_BVCHW.shape[:2]
        whole_BD = detector.feature(pixels_BVCHW[:, -1:])
        is_crop_BV = torch.ones(num_images, num_views, dtype=torch.bool)
        is_crop_BV[:, -1] = False
        image_N, view_N = torch.nonzero(is_crop_BV, as_tuple=True)
        crops_ND = detector.tower(pixels_BVCHW[image_N, view_N], detector.feature_layers)
        sums_BD = torch.zeros(num_images, detector.crop_width).index_add(0, image_N, crops_ND)
        crops_BD = sums_BD / torch.clamp(torch.scalar_tensor(num_views - 1), min=1)
        return tensors_of(detector.head(torch.cat([crops_BD, whole_BD[:, detector.crop_width :]], dim=-1)))


def save_program(path: Path, checkpoint: Checkpoint, *, precision: str, exam: Exam) -> dict[str, Parity]:
    """Write a detector as NAME.pt2 and NAME.json; return how near its verdicts are.

    checkpoint   its LoRA is merged
    precision    of gapl.names.PROGRAM_PRECISIONS
    exam         what the file has to pass

    Raises ValueError when it does not; OSError when it cannot be written.
    """
    metadata = metadata_of(checkpoint, precision=precision)
    with replacing(path) as scratch:
        scratch.write_bytes(_exported(checkpoint.detector, metadata, precision=precision))
        _, _, run = read_program(scratch)
        info, found = exam.take(
            path, checkpoint, lambda pixels_BVCHW: run(pixels_BVCHW)["logit_B"].astype(np.float64)
        )
        if info is not checkpoint:
            metadata = metadata_of(info, precision=precision)
            scratch.write_bytes(_exported(checkpoint.detector, metadata, precision=precision))
    write_about(
        path.with_suffix(".json"), metadata, files=[path], parity=found, versions={"torch": version("torch")}
    )
    return found


def _exported(detector: TowerHead, metadata: Mapping[str, str], *, precision: str) -> memoryview:
    """Return the content of NAME.pt2 for a detector without LoRA."""
    log.info("Torch makes a program of the detector")
    size_px = detector.tower.spec.image_size
    sizes = {0: torch.export.Dim("B", min=1, max=4096), 1: torch.export.Dim("V", min=1, max=64)}
    example = torch.zeros(2, 3, 3, size_px, size_px)
    content = io.BytesIO()  # torch.export.save takes no file whose name has another suffix
    with frozen_linears_in(detector.tower, dtype_of(precision)), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are parts of larger tensors; each is stored whole
        module = _Program(detector, precision=precision).eval()
        program = torch.export.export(module, (example,), dynamic_shapes=(sizes,))
        torch.export.save(program, content, extra_files=dict(metadata))
    return content.getbuffer()
