"""Turn an image into a detector's input pixels by the evaluation view, which is deterministic.

It needs Pillow and NumPy only. The random views of training are in data/images/augment.py.

Shape suffixes: C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from gapl.decode import to_rgb
from gapl.pixels import PixelSpec

View = Callable[[Image.Image], np.ndarray]


def eval_view(pixel: PixelSpec) -> View:
    """Return the evaluation view of a PixelSpec: optional resize, centre crop, normalise.

    The view maps an image of any mode and size to a float32 array of shape (3, size_px, size_px).
    """
    mean_C11 = np.array(pixel.mean, dtype=np.float32).reshape(3, 1, 1)
    std_C11 = np.array(pixel.std, dtype=np.float32).reshape(3, 1, 1)

    def view(image: Image.Image) -> np.ndarray:
        levels_HWC = np.asarray(centre_crop(_resize(to_rgb(image, grey16=pixel.grey16), pixel), pixel.size_px))
        pixels_CHW = levels_HWC.transpose(2, 0, 1).astype(np.float32, order="C")
        pixels_CHW /= 255  # in place, in this order: a detector's scores depend on every rounding
        pixels_CHW -= mean_C11
        pixels_CHW /= std_C11
        return pixels_CHW

    return view


def _resize(image: Image.Image, pixel: PixelSpec) -> Image.Image:
    """Resize the image where its PixelSpec asks for it."""
    if pixel.resize_px is not None:
        return resize_short_side(image, pixel.resize_px, pixel.interpolation)
    if pixel.small_image == "resize" and min(image.size) < pixel.size_px:
        return resize_short_side(image, pixel.size_px, pixel.interpolation)
    return image


def resize_short_side(image: Image.Image, size_px: int, interpolation: str) -> Image.Image:
    """Resize the image so that its short side is `size_px`; the long side is rounded down."""
    short, long = sorted(image.size)
    other = int(size_px * long / short)
    size = (size_px, other) if image.width <= image.height else (other, size_px)
    return image.resize(size, Image.Resampling[interpolation.upper()])


def centre_crop(image: Image.Image, size_px: int) -> Image.Image:
    """Cut a square from the middle; outside of a smaller image it is black, as in torchvision's CenterCrop."""

    def start(length: int) -> int:
        return round((length - size_px) / 2) if length >= size_px else -((size_px - length) // 2)

    left, top = start(image.width), start(image.height)
    return image.crop((left, top, left + size_px, top + size_px))
