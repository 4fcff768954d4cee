"""Turn an image into a detector's input pixels by the evaluation view, which is deterministic.

It needs Pillow and NumPy only. The random views of training are in data/images/augment.py.

Shape suffixes: V views, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from gapl.decode import to_rgb
from gapl.pixels import REDUCED_PX, PixelSpec

View = Callable[[Image.Image], np.ndarray]

MAX_ASPECT = 100  # of the part that is resized, long side to short side
QUARTERS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # their middles, as shares of the sides


def eval_view(pixel: PixelSpec) -> View:
    """Return the evaluation view of a PixelSpec: crops of the image, normalised.

    The view maps an image of any mode and size to a float32 array of shape (3, size_px, size_px), or of shape
    (V, 3, size_px, size_px) where the PixelSpec has several views.
    """
    mean_C11 = np.array(pixel.mean, dtype=np.float32).reshape(3, 1, 1)
    std_C11 = np.array(pixel.std, dtype=np.float32).reshape(3, 1, 1)

    def normalised(crop: Image.Image) -> np.ndarray:
        pixels_CHW = np.asarray(crop).transpose(2, 0, 1).astype(np.float32, order="C")
        pixels_CHW /= 255  # in place, in this order: a detector's scores depend on every rounding
        pixels_CHW -= mean_C11
        pixels_CHW /= std_C11
        return pixels_CHW

    def view(image: Image.Image) -> np.ndarray:
        seen = [normalised(crop) for crop in crops(to_rgb(image, conversion=pixel.conversion), pixel)]
        return seen[0] if len(seen) == 1 else np.stack(seen)

    return view


def crops(image: Image.Image, pixel: PixelSpec) -> Iterator[Image.Image]:
    """Yield the crops of an RGB image that the views of a PixelSpec name, in their order."""
    for view in pixel.views:
        if view == "quarters":
            yield from quarters(resize_for_crops(image, pixel), pixel.size_px)
        else:
            scaled = _SCALES[view](image, pixel)
            yield centre_crop(scaled, pixel.size_px)


def reduce_by_powers(image: Image.Image, least_px: int = REDUCED_PX) -> Image.Image:
    """Shrink by the largest power of two that leaves a short side of `least_px` or more, by averaging pixels."""
    factor = 1 << max(0, (min(image.size) // least_px).bit_length() - 1)
    return image.reduce(factor) if factor > 1 else image


def show_whole(image: Image.Image, pixel: PixelSpec) -> Image.Image:
    """Resize the short side to 8/7 of the crop, so that the crop shows most of the image."""
    return resize_short_side(image, round(pixel.size_px * 8 / 7), pixel.interpolation)


def quarters(image: Image.Image, size_px: int) -> Iterator[Image.Image]:
    """Yield a crop around the middle of each quarter, moved inside where the image is small."""
    for across, down in QUARTERS:
        left = min(max(0, round(across * image.width - size_px / 2)), max(0, image.width - size_px))
        top = min(max(0, round(down * image.height - size_px / 2)), max(0, image.height - size_px))
        yield image.crop((left, top, left + size_px, top + size_px))


def resize_for_crops(image: Image.Image, pixel: PixelSpec) -> Image.Image:
    """Resize the image where its PixelSpec asks for it."""
    if pixel.resize_px is not None:
        return resize_short_side(image, pixel.resize_px, pixel.interpolation)
    if pixel.small_image == "resize" and min(image.size) < pixel.size_px:
        return resize_short_side(image, pixel.size_px, pixel.interpolation)
    return image


_SCALES: dict[str, Callable[[Image.Image, PixelSpec], Image.Image]] = {
    "centre": resize_for_crops,
    "reduced": lambda image, pixel: resize_for_crops(reduce_by_powers(image), pixel),
    "whole": show_whole,
}


def resize_short_side(image: Image.Image, size_px: int, interpolation: str) -> Image.Image:
    """Resize the image so that its short side is `size_px`; the long side is rounded down.

    Of a strip only the middle is resized: one of 65,000 x 1 px would take gigabytes.
    """
    long_px = MAX_ASPECT * min(image.size)
    left, top = (max(0, side - long_px) // 2 for side in image.size)
    if left or top:
        image = image.crop((left, top, image.width - left, image.height - top))
    short, long = sorted(image.size)
    other = int(size_px * long / short)
    size = (size_px, other) if image.width <= image.height else (other, size_px)
    return image.resize(size, Image.Resampling[interpolation.upper()])


def centre_crop(image: Image.Image, size_px: int) -> Image.Image:
    """Cut a square from the middle; outside of a smaller image it is black, as in torchvision's CenterCrop."""
    left, top = (centre_start(length, size_px) for length in image.size)
    return image.crop((left, top, left + size_px, top + size_px))


def centre_start(length: int, size_px: int) -> int:
    """Return where the middle `size_px` of a length start; below 0 where the length is shorter."""
    return round((length - size_px) / 2) if length >= size_px else -((size_px - length) // 2)
