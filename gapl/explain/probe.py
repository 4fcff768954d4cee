"""What a detector says of other pixels than those of its views: of a tile, or of a view with a part covered.

Shape suffixes: N pixels that are probed, V views, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

import numpy as np
from PIL import Image

from gapl.detector import Detector, Seen
from gapl.pixels import PixelSpec
from gapl.views import eval_view

BATCH = 8  # more at once take more memory


def has_whole(detector: Detector) -> bool:
    """Tell whether the detector judges by the view "whole", alone or beside crops."""
    return bool(detector.info.config.whole_layers)


def normalising(pixel: PixelSpec) -> Callable[[Image.Image], np.ndarray]:
    """Return what makes pixels_CHW of a square RGB image whose side is that of a crop."""
    return eval_view(replace(pixel, views=("centre",), resize_px=None))


def logits_of(detector: Detector, pixels: Iterable[np.ndarray]) -> np.ndarray:
    """Return logit_N, float64, of any number of pixels_CHW, one view alone, or pixels_VCHW, a crop and the whole.

    A detector with the view "whole" takes one view alone for that.
    """
    remaining = iter(pixels)
    found = []
    while batch := [Seen(each, ()) for each in islice(remaining, BATCH)]:
        outcome = detector.compute(batch)
        assert outcome.by_whole_B is None, "explore() refuses detectors that judge by the whole first"
        found.append(outcome.logit_B)
    return np.concatenate(found)
