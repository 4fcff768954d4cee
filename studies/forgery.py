"""A photograph -> the same with one region replaced, and where that is.

Shape suffixes: H, W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from gapl.views import centre_crop

SIDE_PX = 560  # of the square images; 16 tiles of 224 px that overlap by half
REGION = (0.25, 0.4)  # least and most of its sides, as shares of the image's
FEATHER_PX = 4.0
LANCZOS, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST


class Forgery(NamedTuple):
    """An image, and which of its pixels are replaced: mask_HW, booleans."""

    image: Image.Image
    mask_HW: np.ndarray


def square(image: Image.Image) -> Image.Image | None:
    """Return the middle square of an RGB image, shrunk to SIDE_PX; None of a smaller image."""
    side = min(image.size)
    return None if side < SIDE_PX else centre_crop(image, side).resize((SIDE_PX, SIDE_PX), LANCZOS)


def forge(photograph: Image.Image, *, way: str, fake: Image.Image, generator: np.random.Generator) -> Forgery:
    """Replace a rectangle of a photograph, with a soft edge, in one of WAYS.

    Its sides and its middle are drawn; what lies outside of the photograph is cut off. So the middle of a picture
    is replaced hardly more often than the rest.

    photograph, fake  squares of SIDE_PX
    """
    width, height = (round(share * SIDE_PX) for share in generator.uniform(*REGION, size=2))
    left, top = (int(generator.integers(SIDE_PX)) - side // 2 for side in (width, height))
    box = (left, top, left + width, top + height)
    hard = Image.new("L", photograph.size)
    hard.paste(255, box)
    soft = hard.filter(ImageFilter.GaussianBlur(FEATHER_PX))
    replaced = Image.composite(WAYS[way](photograph, fake, np.asarray(soft) > 0), photograph, soft)
    return Forgery(replaced, np.asarray(hard) > 0)


def _pasted(photograph: Image.Image, fake: Image.Image, inside_HW: np.ndarray) -> Image.Image:
    return fake


def _upsampled(resampling: Image.Resampling) -> Callable[[Image.Image, Image.Image, np.ndarray], Image.Image]:
    def upsampled(photograph: Image.Image, fake: Image.Image, inside_HW: np.ndarray) -> Image.Image:
        half = (photograph.width // 2, photograph.height // 2)
        return photograph.resize(half, LANCZOS).resize(photograph.size, resampling)

    return upsampled


def _inpainted(photograph: Image.Image, fake: Image.Image, inside_HW: np.ndarray) -> Image.Image:
    from skimage.restoration import inpaint_biharmonic

    filled_HWC = inpaint_biharmonic(np.asarray(photograph) / 255, inside_HW, channel_axis=-1)
    return Image.fromarray((255 * filled_HWC).round().clip(0, 255).astype(np.uint8))


# What is in the region: the same place of a fake; the photograph itself, halved and doubled again, as the
# up-samplers of generators do; or what scikit-image fills a hole with (biharmonic equation).
WAYS: dict[str, Callable[[Image.Image, Image.Image, np.ndarray], Image.Image]] = {
    "fake": _pasted,
    "Lanczos": _upsampled(LANCZOS),
    "nearest": _upsampled(NEAREST),
    "inpainted": _inpainted,
}
