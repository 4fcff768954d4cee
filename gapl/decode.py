"""Decode images from their encoded bytes. What cannot be decoded raises UnreadableImage; nothing is skipped."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image


class UnreadableImage(ValueError):
    """Raised for bytes that are not a whole image of a known format, and for images of too many pixels."""


def decode_image(encoded: bytes) -> Image.Image:
    """Return the first frame in RGB, as Pillow's `convert("RGB")` makes it; 16-bit grey stays as it is.

    Raises UnreadableImage, one line.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 million pixels and refuses above twice that. Its advice on palettes is ignored.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                return image.copy() if image.mode.startswith("I;16") else image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too many pixels: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not an image, or of a format that Pillow does not know") from error
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError, IndexError, OverflowError) as error:
        raise UnreadableImage(f"damaged image: {error}") from error


def to_rgb(image: Image.Image, *, grey16: str = "scale") -> Image.Image:
    """Return the image in RGB. `grey16` says how 16-bit grey becomes 8 bits.

    grey16  "scale" to the highest 8 bits, or "clip" at 255 as Pillow, and so the released code, does
    """
    if image.mode.startswith("I;16") and grey16 == "scale":
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
