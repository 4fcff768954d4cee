"""Judge an exported detector by the scores that torch gives to the same images.

Shape suffixes: N images, V views, C channels, H, W pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from gapl.calibration import score_of
from gapl.info import DetectorInfo
from gapl.verdict import decision_rule
from gapl.views import eval_view
from models.export import TOLERANCE
from models.run import run_detector

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)

NUM_NOISY = 64  # images, where a user brings none


@dataclass(frozen=True)
class Parity:
    """How near the verdicts of an exported detector are to those of torch, or how near they must be.

    difference  the largest of P(fake)
    flips       share of the images that get another label: real, fake or unsure
    auroc       by how much the AUROC differs; 0 where no labels are known
    """

    difference: float
    flips: float
    auroc: float

    def excess(self, limits: Parity) -> str:
        """Return what is above the limits, or nothing."""
        found = [
            f"{name} {value:.2g}, at most {limit:.2g} is allowed"
            for name, value, limit in zip(vars(self), vars(self).values(), vars(limits).values(), strict=True)
            if not value <= limit
        ]
        return "; ".join(found)


EXACT = Parity(difference=TOLERANCE, flips=1.0, auroc=1.0)
NEAR = Parity(difference=1e-3, flips=1.0, auroc=1.0)  # for 16-bit weights, without labelled images
AS_GOOD = Parity(difference=math.inf, flips=0.005, auroc=0.002)


@dataclass(frozen=True)
class _Look:
    """Some of the views of all images, and what torch says of them."""

    info: DetectorInfo
    first_view: int
    logit_N: np.ndarray


class Reference:
    """What torch says of some images: by all views, and by the whole image alone where the detector can do so."""

    def __init__(
        self, checkpoint: Checkpoint, pixels: Sequence[np.ndarray], *, labels: Sequence[int] | None = None
    ) -> None:
        """Run the detector.

        pixels  of each image pixels_VCHW; pixels_CHW where the detector has one view
        labels  of each image, 0 real and 1 fake, some of both; None: not known
        """
        self.pixels = [each if each.ndim == 4 else each[None] for each in pixels]
        self.labels = labels
        infos = {"full": (checkpoint, 0)}
        if checkpoint.config.whole_layers and checkpoint.config.pixel.num_views > 1:
            infos["fast"] = (checkpoint.fast(), -1)

        def of_torch(pixels_1VCHW: np.ndarray) -> np.ndarray:
            tensor = torch.from_numpy(pixels_1VCHW)
            logit_1: np.ndarray = run_detector(checkpoint.detector, tensor, device="cpu").logit_B.numpy()
            return logit_1

        log.info("Torch judges %d images, by %s views", len(self.pixels), " and by ".join(infos))
        self._looks = {
            name: _Look(info, first, self._logits(of_torch, first)) for name, (info, first) in infos.items()
        }

    def _logits(self, engine: Callable[[np.ndarray], np.ndarray], first_view: int) -> np.ndarray:
        """Return the logits of all images by an engine: pixels_1VCHW -> logit_1."""
        return np.concatenate([engine(np.ascontiguousarray(each[None, first_view:])) for each in self.pixels])

    def compare(self, engine: Callable[[np.ndarray], np.ndarray]) -> dict[str, Parity]:
        """Return for "full", and "fast" where there is such a look, how near an engine comes."""
        log.info("What was exported judges the same images")
        return {name: self._compare(look, engine) for name, look in self._looks.items()}

    def _compare(self, look: _Look, engine: Callable[[np.ndarray], np.ndarray]) -> Parity:
        logit_N = self._logits(engine, look.first_view)
        if not np.isfinite(logit_N).all():
            return Parity(math.inf, 1.0, 1.0)
        calibration = look.info.calibration
        rule = decision_rule(calibration, threshold=look.info.threshold)
        scores = [score_of(each, calibration) for each in (logit_N, look.logit_N)]
        auroc = 0.0
        if self.labels is not None:
            from sklearn.metrics import roc_auc_score

            found, expected = (roc_auc_score(self.labels, each) for each in (logit_N, look.logit_N))
            auroc = float(abs(found - expected))
        return Parity(
            difference=float(np.abs(scores[0] - scores[1]).max()),
            flips=float((rule.labels(scores[0]) != rule.labels(scores[1])).mean()),
            auroc=auroc,
        )


def require(path: Path, found: Mapping[str, Parity], limits: Parity) -> None:
    """Raise ValueError, one line, when an exported detector is not near enough, by any look."""
    hint = "; give --calibration DIR, to judge it by labelled images" if limits == NEAR else ""
    for look, parity in found.items():
        if excess := parity.excess(limits):
            raise ValueError(f"{path}: not written; it differs from torch, by {look} views: {excess}{hint}")


def noisy_pixels(checkpoint: Checkpoint, images: Sequence[Image.Image]) -> Iterator[np.ndarray]:
    """Yield the pixels of images, then NUM_NOISY times those of one of them below more and more noise.

    The noisy ones have at most two views, which takes less time.
    """
    view = eval_view(checkpoint.config.pixel)
    plain = [view(image) for image in images]
    yield from plain
    generator = np.random.default_rng(0)
    for number in range(NUM_NOISY):
        pixels = plain[number % len(plain)]
        some = pixels[-2:] if pixels.ndim == 4 else pixels
        share = number / (NUM_NOISY - 1)
        noise = generator.standard_normal(some.shape).astype(np.float32)
        yield ((1 - share) * some + share * noise).astype(np.float32)
