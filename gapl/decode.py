"""Decode images from their encoded bytes. What cannot be decoded raises UnreadableImage; nothing is skipped."""

from __future__ import annotations

import importlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image

# What is tried, and in this order: reading most images then imports no more of Pillow than it must. Formats that
# start programs, such as EPS, are never tried.
USUAL = ["JPEG", "PNG", "GIF"]
FORMATS = [*USUAL, "BMP", "DIB", "PPM", "WEBP", "AVIF", "TIFF", "JPEG2000", "ICO", "QOI", "TGA", "HEIF", "JXL"]
# Formats that a package of their own reads: how files begin, from which byte on, the
# package, and its module that teaches Pillow.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_PLUGINS = {
    "HEIC": (tuple(b"ftyp" + brand for brand in _HEIC_BRANDS), 4, "pillow-heif", "pillow_heif"),
    "JPEG XL": ((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), 0, "pillow-jxl-plugin", "pillow_jxl"),
}
# What Pillow raises for bytes, or for metadata, that are not what their format says.
_DAMAGE = (
    OSError,
    ValueError,
    RuntimeError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    zlib.error,
)
SEVERAL_FRAMES = "several_frames"  # in the info of a decoded image: it is the first of several
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(ValueError):
    """Raised for bytes that are not a whole image of a known format, and for images of too many pixels."""


def allow_pixels(megapixels: float) -> None:
    """Read images of up to so many megapixels in this process, instead of the 179 that Pillow thinks safe."""
    Image.MAX_IMAGE_PIXELS = int(megapixels * 1e6 / 2)  # Pillow refuses above twice that


def most_pixels() -> int:
    """Return how many pixels an image may have."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def most_bytes() -> int:
    """Return how large a file may be: 2 GiB, or more where images may have so many pixels of 8 bytes."""
    return max(2 << 30, 8 * most_pixels())


def too_many_pixels() -> str:
    """Return how an image of more pixels is refused."""
    return f"too many pixels; images of at most {most_pixels() / 1e6:g} megapixels are read"


@contextmanager
def _refusing() -> Iterator[None]:
    """Make UnreadableImage of whatever Pillow raises in the block, or in the function."""
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 million pixels and refuses above twice that. Its advice on palettes is ignored.
            warnings.simplefilter("ignore")
            yield
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(too_many_pixels()) from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not an image, or of a format that is not read") from error
    except MemoryError as error:
        raise UnreadableImage("not enough memory for so large an image") from error
    except _DAMAGE as error:
        raise UnreadableImage(f"damaged image: {' '.join(str(error).split()) or type(error).__name__}") from error


@contextmanager
def opened(encoded: bytes) -> Iterator[Image.Image]:
    """Yield the image with its pixels not decoded yet. Whatever Pillow raises in the block is UnreadableImage.

    An image of more pixels than Pillow thinks safe is refused before it is decoded.
    """
    _learn_format(encoded)
    with _refusing(), Image.open(io.BytesIO(encoded), formats=_known_formats(encoded)) as image:
        yield image


def decode_image(encoded: bytes) -> Image.Image:
    """Return the first frame with its pixels as they are stored, of any mode that `to_rgb` takes.

    Raises UnreadableImage, one line.
    """
    with opened(encoded) as image:
        several = bool(getattr(image, "is_animated", False)) and image.format != "MPO"  # has previews, not frames
        frame = image.copy()
        if frame.mode == "I" and image.format in ("PNG", "PPM"):  # these hold no more than 16 bits
            frame = Image.fromarray(np.asarray(frame).astype(np.uint16))
    check_levels(frame)
    frame.info[SEVERAL_FRAMES] = several
    return frame


def check_levels(image: Image.Image) -> None:
    """Raise UnreadableImage when nobody can tell which levels of the image are black and white."""
    if image.mode == "I":
        raise UnreadableImage("32-bit whole numbers, whose white is not known; save it with 8 or 16 bits")
    if image.mode == "F":
        low, high = map(float, (np.asarray(image).min(), np.asarray(image).max()))
        if not 0 <= low <= high <= 1:
            found = f"floating-point levels from {low:g} to {high:g}"
            raise UnreadableImage(f"{found}; expected 0 (black) to 1 (white)")


@_refusing()
def to_rgb(image: Image.Image, *, conversion: str = "shown") -> Image.Image:
    """Return a decoded image in RGB, without metadata.

    conversion  "shown": as viewers show it, upright, on white where it is transparent, and with all its levels
                "pillow": by Pillow's convert("RGB") of the stored pixels, as the released code does; levels above
                255 become white, and what lies below transparent pixels is seen

    Raises UnreadableImage when what is seen only now is damaged, such as a palette.
    """
    if conversion == "shown":
        image = _on_white(_in_8_bits(_upright(image)))
    rgb = image.convert("RGB")
    rgb.info = {}  # with it, the orientation would be applied again
    return rgb


@_refusing()
def transparency(image: Image.Image) -> float:
    """Return the share of a decoded image that is transparent, in [0, 1]."""
    if not image.has_transparency_data or image.mode.startswith("I;16"):
        return 0.0
    return 1 - float(np.asarray(image.convert("RGBA").getchannel("A")).mean()) / 255


def image_format(start: bytes) -> str:
    """Return the format of an image file by its first 32 bytes; an empty text when it is none that is read.

    DIB and TGA are not told: nothing, or too little, in these bytes marks them.
    """
    start = start.ljust(32, b"\0")
    for name, (prefixes, at, _, _) in _PLUGINS.items():
        if start[at:].startswith(prefixes):
            return name
    Image.init()
    for name in FORMATS:
        accepts = Image.OPEN[name][1] if name in Image.OPEN and name != "DIB" else None
        # A text may begin with "P5", and with "Py" as well.
        if accepts and accepts(start) is True and (name != "PPM" or start[2:3].isspace()):
            return name
    return ""


def _known_formats(encoded: bytes) -> list[str]:
    """Return the formats to try. Pillow's modules for all of them are imported only where they are needed."""
    if encoded.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8")):
        return USUAL
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _learn_format(encoded: bytes) -> None:
    """Teach Pillow the format of an image before it meets it. Raises UnreadableImage without its package."""
    for name, (prefixes, at, package, module) in _PLUGINS.items():
        if encoded[at : at + 16].startswith(prefixes):
            try:
                plugin = importlib.import_module(module)
            except ImportError:
                missing = f"{name}, which needs the package {package}: pip install {package}"
                raise UnreadableImage(missing) from None
            if hasattr(plugin, "register_heif_opener"):
                plugin.register_heif_opener()


def _upright(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE:  # of the metadata, which viewers ignore, as Pillow's warnings are here
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grey by its highest 8 bits, and floating-point levels of 0 to 1 as 0 to 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(np.rint(np.asarray(image) * 255).astype(np.uint8))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
