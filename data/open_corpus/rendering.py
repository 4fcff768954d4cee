"""How a picture of the open corpus becomes the image that is trained on: both classes alike, by a fixed rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from gapl.decode import opened
from gapl.files.atomic import replacing

FACTORS = (1, 2, 4, 8)
MIN_SHORT_SIDE_PX = 512  # of an image that was reduced
MAX_SIDE_PX = 1536
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Rendering:
    """The image of a picture, in RGB, and what the picture was: (width, height) upright in pixels, and format."""

    image: Image.Image
    original_size: tuple[int, int]
    original_format: str

    def save(self, path: Path) -> None:
        """Write the image as JPEG of full colour resolution, whole or not at all, without metadata."""
        bare = Image.frombytes("RGB", self.image.size, self.image.tobytes())
        with replacing(path) as scratch:
            bare.save(scratch, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def render(encoded: bytes, *, sha256: str) -> Rendering:
    """Return the picture upright, on white, reduced by a factor that its SHA-256 draws, cut to its centre.

    Raises UnreadableImage, one line.
    """
    with opened(encoded) as picture:
        original_format = picture.format or ""
        image = ImageOps.exif_transpose(picture)
        if image.has_transparency_data:  # as a web page shows it
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("RGB")
    size = image.size
    factor = draw_factor(size, sha256)
    if factor > 1:
        image = image.reduce(factor)
    return Rendering(_cut_centre(image), size, original_format)


def draw_factor(size: tuple[int, int], sha256: str) -> int:
    """Draw, by the hash, among the factors that leave a short side of MIN_SHORT_SIDE_PX or more; 1 always does."""
    allowed = [factor for factor in FACTORS if factor == 1 or min(size) / factor >= MIN_SHORT_SIDE_PX]
    return allowed[int(sha256[:8], 16) % len(allowed)]


def _cut_centre(image: Image.Image) -> Image.Image:
    width, height = (min(side, MAX_SIDE_PX) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
