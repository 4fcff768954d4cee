"""An image in a small size, to be looked at by people."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

from gapl.decode import decode_image, to_rgb

LONG_SIDE_PX = 160
JPEG_QUALITY = 80


class Thumbnail(NamedTuple):
    """A small JPEG of an image as viewers show it, and the (width, height) of that in pixels."""

    jpeg: bytes
    size: tuple[int, int]


def make_thumbnail(encoded: bytes, *, long_side_px: int = LONG_SIDE_PX) -> Thumbnail:
    """Return the thumbnail of an encoded image.

    Raises UnreadableImage, one line.
    """
    return shrink(to_rgb(decode_image(encoded)), long_side_px=long_side_px)


def shrink(image: Image.Image, *, long_side_px: int = LONG_SIDE_PX) -> Thumbnail:
    """Return an RGB image in a small size, and change it to that."""
    image.thumbnail((long_side_px, long_side_px))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return Thumbnail(jpeg.getvalue(), image.size)
