"""Encoded bytes -> RGB image. What cannot be decoded raises UnreadableImage; it is never skipped in silence."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image


class UnreadableImage(ValueError):
    """The bytes are not a whole image of a known format, or there are too many pixels."""


def decode_rgb(encoded: bytes) -> Image.Image:
    """The first frame by Pillow's `convert("RGB")`, as the released code does; but 16-bit grey is scaled."""
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 million pixels and refuses above twice that; its palette advice is no concern.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                if image.mode.startswith("I;16"):  # which convert() clips at 255: all but black becomes white
                    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
                return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too many pixels: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not an image, or of a format that Pillow does not know") from error
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError, IndexError, OverflowError) as error:
        raise UnreadableImage(f"damaged image: {error}") from error
