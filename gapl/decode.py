"""Decode images from their encoded bytes. What cannot be decoded raises UnreadableImage; nothing is skipped."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

# What Pillow raises for bytes, or for metadata, that are not what their format says.
_DAMAGE = (OSError, ValueError, RuntimeError, SyntaxError, EOFError, IndexError, OverflowError, struct.error)


class UnreadableImage(ValueError):
    """Raised for bytes that are not a whole image of a known format, and for images of too many pixels."""


@contextmanager
def opened(encoded: bytes) -> Iterator[Image.Image]:
    """Yield the image with its pixels not decoded yet. Whatever Pillow raises in the block is UnreadableImage.

    An image of more pixels than Pillow thinks safe is refused before it is decoded.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 million pixels and refuses above twice that. Its advice on palettes is ignored.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                yield image
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too many pixels: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not an image, or of a format that Pillow does not know") from error
    except _DAMAGE as error:
        raise UnreadableImage(f"damaged image: {error}") from error


def decode_image(encoded: bytes) -> Image.Image:
    """Return the first frame in RGB, as Pillow's `convert("RGB")` makes it; 16-bit grey stays as it is.

    Raises UnreadableImage, one line.
    """
    with opened(encoded) as image:
        return image.copy() if image.mode.startswith("I;16") else image.convert("RGB")


def to_rgb(image: Image.Image, *, grey16: str = "scale") -> Image.Image:
    """Return the image in RGB. `grey16` says how 16-bit grey becomes 8 bits.

    grey16  "scale" to the highest 8 bits, or "clip" at 255 as Pillow, and so the released code, does
    """
    if image.mode.startswith("I;16") and grey16 == "scale":
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
