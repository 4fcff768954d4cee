"""An image in a small size, to be looked at by people."""

from __future__ import annotations

import io

from gapl.decode import decode_image, to_rgb

LONG_SIDE_PX = 160
JPEG_QUALITY = 80


def make_thumbnail(encoded: bytes, *, long_side_px: int = LONG_SIDE_PX) -> tuple[bytes, tuple[int, int]]:
    """Return a small JPEG of an image as viewers show it, and the (width, height) of that in pixels.

    Raises UnreadableImage, one line.
    """
    image = to_rgb(decode_image(encoded))
    image.thumbnail((long_side_px, long_side_px))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return jpeg.getvalue(), image.size
