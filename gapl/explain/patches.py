"""Where in a view: how much the logit falls when a part of the view is covered (Zeiler, Fergus 2014).

Shape suffixes: N places of the cover, C channels, H, W pixels, or patches in a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from gapl.detector import Detector
from gapl.explain.probe import has_whole, logits_of, normalising
from gapl.views import centre_crop, resize_for_crops, show_whole

PATCHES = 14  # along each side of the view: those of a ViT-B/16
COVER, STEP = 4, 2  # in patches
STARTS = range(-1, PATCHES - STEP, STEP)  # symmetric, so that the covers at the edges stand out of the view

Box = tuple[int, int, int, int]  # left, top, width, height
Logits = Callable[[Iterable[np.ndarray]], np.ndarray]  # pixels_CHW, any number of them -> logit_N


@dataclass(frozen=True)
class PatchMap:
    """What each patch of a view does for P(fake).

    box     where the view is, in pixels of the image; it begins outside of one that is padded
    map_HW  how far the logit falls when the patch is covered: above 0 where it speaks for fake
    """

    box: Box
    map_HW: np.ndarray

    def enlarged(self, factor: int) -> PatchMap:
        """Return the same for an image that was shrunk by a factor before."""
        left, top, width, height = (factor * length for length in self.box)
        return PatchMap((left, top, width, height), self.map_HW)

    def as_json(self) -> dict[str, Any]:
        """Return the object `patches` of an explanation."""
        return {"box": list(self.box), "map": self.map_HW.round(4).tolist()}


def map_patches(detector: Detector, image: Image.Image) -> PatchMap:
    """Cover parts of an RGB image in the view "whole"; of a detector without that view, in its centre crop.

    The detector judges by this view alone. What is covered is blurred.
    """
    crop, box = view_of(detector, image)
    normalise = normalising(detector.pixel)
    map_HW = occlude(partial(logits_of, detector), normalise(crop), cover_CHW=normalise(blurred(crop)))
    return PatchMap(box, map_HW)


def view_of(detector: Detector, image: Image.Image) -> tuple[Image.Image, Box]:
    """Return the view that is covered, and where it is in the image."""
    scaled = (show_whole if has_whole(detector) else resize_for_crops)(image, detector.pixel)
    side = detector.pixel.size_px * min(image.size) / min(scaled.size)
    left, top = (round((length - side) / 2) for length in image.size)
    return centre_crop(scaled, detector.pixel.size_px), (left, top, round(side), round(side))


def blurred(view: Image.Image) -> Image.Image:
    """Return a view without what is smaller than a patch."""
    return view.filter(ImageFilter.GaussianBlur(view.width / PATCHES))


def occlude(logits: Logits, pixels_CHW: np.ndarray, *, cover_CHW: np.ndarray) -> np.ndarray:
    """Return map_HW: the mean fall of the logit over those places of a square cover that hide the patch.

    logits     pixels_CHW, any number of them -> logit_N
    cover_CHW  what is seen in the place of the pixels that are covered
    """
    edges = np.linspace(0, pixels_CHW.shape[-1], PATCHES + 1).round().astype(int)
    places = [tuple(slice(max(0, start), start + COVER) for start in each) for each in product(STARTS, repeat=2)]

    def covered() -> Iterator[np.ndarray]:
        for rows, columns in places:
            inside = (..., _in_pixels(rows, edges), _in_pixels(columns, edges))
            changed_CHW = pixels_CHW.copy()
            changed_CHW[inside] = cover_CHW[inside]
            yield changed_CHW

    own, *of_covered = logits(chain([pixels_CHW], covered()))
    sum_HW, times_HW = np.zeros((2, PATCHES, PATCHES))
    for place, logit in zip(places, of_covered, strict=True):
        sum_HW[place] += own - logit
        times_HW[place] += 1
    return sum_HW / times_HW


def _in_pixels(patches: slice, edges: np.ndarray) -> slice:
    return slice(edges[patches.start], edges[min(patches.stop, PATCHES)])
