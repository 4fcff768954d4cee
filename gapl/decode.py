"""Encoded bytes -> image. What cannot be decoded raises UnreadableImage; it is never skipped in silence."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image


class UnreadableImage(ValueError):
    """The bytes are not a whole image of a known format, or there are too many pixels."""


def decode_image(encoded: bytes) -> Image.Image:
    """The first frame in RGB by Pillow's `convert("RGB")`, as the release does; 16-bit grey stays as it is."""
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 million pixels and refuses above twice that; its palette advice is no concern.
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
    """In RGB. 16-bit grey is scaled to 8 bits; "clip" is what Pillow, and so the released code, makes of it."""
    if image.mode.startswith("I;16") and grey16 == "scale":
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
