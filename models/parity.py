"""Judge an exported detector by the scores that torch gives to the same images.

Shape suffixes: N images, V views, C channels, H, W pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from gapl.calibration import Calibration, score_of
from gapl.info import DetectorInfo
from gapl.names import FAST, FULL
from gapl.verdict import decision_rule
from gapl.views import eval_view
from models.export import TOLERANCE
from models.run import run_detector

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)

NUM_NOISY = 64  # images, where a user brings none

Logits = Callable[[np.ndarray], np.ndarray]  # of an engine: pixels_1VCHW -> logit_1


@dataclass(frozen=True)
class Parity:
    """How near the verdicts of an exported detector are to those of torch, or how near they must be.

    difference  the largest of P(fake)
    flips       share of the images that get another label: real, fake or unsure
    auroc       by how much the AUROC differs; 0 where no labels are known
    balanced_accuracy   by how much it is lower, at the threshold; 0 where no labels are known
    """

    difference: float
    flips: float
    auroc: float
    balanced_accuracy: float = 1.0

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
# For a detector with calibrations of its own: it ranks as well and is as often right, whatever its scores are.
RANKS_AS_WELL = Parity(difference=math.inf, flips=1.0, auroc=0.002, balanced_accuracy=0.01)


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
        infos = {FULL: (checkpoint, 0)}
        if checkpoint.config.whole_layers and checkpoint.config.pixel.num_views > 1:
            infos[FAST] = (checkpoint.fast(), -1)

        def of_torch(pixels_1VCHW: np.ndarray) -> np.ndarray:
            tensor = torch.from_numpy(pixels_1VCHW)
            logit_1: np.ndarray = run_detector(checkpoint.detector, tensor, device="cpu").logit_B.numpy()
            return logit_1

        log.info("Torch judges %d images, by %s views", len(self.pixels), " and by ".join(infos))
        self._looks = {
            name: _Look(info, first, self._logits(of_torch, first)) for name, (info, first) in infos.items()
        }

    def _logits(self, engine: Logits, first_view: int) -> np.ndarray:
        """Return the logits of all images by an engine."""
        return np.concatenate([engine(np.ascontiguousarray(each[None, first_view:])) for each in self.pixels])

    def moved(self, info: DetectorInfo, engine: Logits) -> DetectorInfo:
        """Return `info` with the calibrations for an engine: those of torch, moved along a straight line.

        The line comes nearest to the logits of torch, by least squares on these images. Scores then mean on
        average what they meant, and the thresholds stay.

        Raises ValueError where a calibration is missing, or the engine ranks otherwise.
        """
        log.info("Its calibrations are moved to its own scores, by %d images", len(self.pixels))
        own = {name: self._moved(look, engine) for name, look in self._looks.items()}
        return replace(info, calibration=own[FULL], fast_calibration=own.get(FAST, info.fast_calibration))

    def _moved(self, look: _Look, engine: Logits) -> Calibration:
        if look.info.calibration is None:
            raise ValueError("the detector has no calibration that could be moved to the scores of the file")
        return _along(look.info.calibration, self._logits(engine, look.first_view), look.logit_N)

    def compare(self, engine: Logits, info: DetectorInfo | None = None) -> dict[str, Parity]:
        """Return for each look how near an engine comes.

        info  what gives it verdicts; None: what gives them to torch
        """
        log.info("What was exported judges the same images")
        infos = {} if info is None else {name: info.fast() if name == FAST else info for name in self._looks}
        return {
            name: self._compare(look, engine, infos.get(name, look.info)) for name, look in self._looks.items()
        }

    def _compare(self, look: _Look, engine: Logits, info: DetectorInfo) -> Parity:
        logit_N = self._logits(engine, look.first_view)
        if not np.isfinite(logit_N).all():
            return Parity(math.inf, 1.0, 1.0)
        scores = [score_of(*each) for each in ((logit_N, info.calibration), (look.logit_N, look.info.calibration))]
        rules = [decision_rule(each.calibration, threshold=each.threshold) for each in (info, look.info)]
        labels = [rule.labels(score_N) for rule, score_N in zip(rules, scores, strict=True)]
        auroc = lower = 0.0
        if self.labels is not None:
            from sklearn.metrics import balanced_accuracy_score, roc_auc_score

            found, expected = (roc_auc_score(self.labels, each) for each in (logit_N, look.logit_N))
            auroc = float(abs(found - expected))
            right, right_before = (
                balanced_accuracy_score(self.labels, score_N >= each.threshold)
                for score_N, each in zip(scores, (info, look.info), strict=True)
            )
            lower = max(0.0, float(right_before - right))
        return Parity(
            difference=float(np.abs(scores[0] - scores[1]).max()),
            flips=float((labels[0] != labels[1]).mean()),
            auroc=auroc,
            balanced_accuracy=lower,
        )


def _along(calibration: Calibration, logit_N: np.ndarray, torch_N: np.ndarray) -> Calibration:
    """Return a calibration of some logits that gives about the scores which another gives to those of torch."""
    spread = float(np.var(logit_N))
    slope = float(np.cov(logit_N, torch_N, bias=True)[0, 1]) / spread if spread > 0 else 0.0
    if not slope > 0:
        raise ValueError("what was exported does not rank the images as torch does; no calibration mends that")
    shift = float(torch_N.mean()) - slope * float(logit_N.mean())
    a, b = calibration.a * slope, calibration.a * shift + calibration.b
    note = "; ".join(filter(None, (calibration.note, f"moved to other logits, by {len(logit_N)} images")))
    return replace(calibration, method="platt", a=a, b=b, note=note)


# ---------------------------------------------------------------------------------------------------------
# What a file has to pass


@dataclass(frozen=True)
class Exam:
    """What an exported detector has to pass before it is kept.

    reference  what it is compared with
    limits     how near it must be
    fitted     of other images, by which its calibrations become its own; None: it keeps those of the detector
    """

    reference: Reference
    limits: Parity
    fitted: Reference | None = None

    def take(self, path: Path, info: DetectorInfo, engine: Logits) -> tuple[DetectorInfo, dict[str, Parity]]:
        """Return what the file is to say of its detector, which is `info` itself but for calibrations of its own.

        Also returns how near it is, by each look. Raises ValueError, one line, when that is not near enough.
        """
        try:
            own = None if self.fitted is None else self.fitted.moved(info, engine)
        except ValueError as error:
            raise ValueError(f"{path}: not written; {error}") from error
        found = self.reference.compare(engine, own)
        hint = "; give --calibration DIR, to judge it by labelled images" if self.limits == NEAR else ""
        for look, parity in found.items():
            if excess := parity.excess(self.limits):
                raise ValueError(f"{path}: not written; it differs from torch, by {look} views: {excess}{hint}")
        if own is None:
            return info, found
        flips = max(parity.flips for parity in found.values())
        told = (
            "its scores are not those of the detector that it was made of: "
            f"{flips:.1%} of {len(self.reference.pixels)} images got another verdict"
        )
        return replace(own, notice="; ".join(filter(None, (info.notice, told)))), found


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
