"""Degrade images as happens to them on the way to a detector, at a stated strength: RGB image -> RGB image.

The robustness matrix names a degradation in text ("jpeg:75"); training's augmentation calls the same functions.
SUITE is what the matrix holds, and DELIVERIES the forms in which pictures reach people, in plain words.
What is random is drawn from a seed, so that an image meets the same noise in every run.

Shape suffixes: H, W pixels, C channels.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, features

from data.images import forms
from data.images.forms import scaled_size
from gapl.views import centre_crop

CLEAN = "none"

# Drawn from by `screenshot` and `social`: usual displays, ratios of device to page pixels, long sides of uploads.
DISPLAYS_PX = ((1366, 768), (1920, 1080), (2560, 1440))
PIXEL_RATIOS = (1.0, 1.25, 1.5, 2.0)
PAGE_GREYS = (255, 245, 32, 0)
MAX_MARGIN = 0.1
UPLOAD_LONG_SIDES_PX = (1080, 1280, 1600, 2048)
UPLOAD_QUALITIES = (70, 90)

# What `messenger`, `thumbnail` and `enlarged_thumbnail` do, without chance.
MESSENGER_LONG_SIDE_PX, MESSENGER_QUALITY = 1280, 70
THUMBNAIL_QUALITY, ENLARGED_QUALITY = 80, 85
ENLARGED_TO_PX = 512
ALIGNED_SHORT_SIDE_PX = 512

# Options of Pillow. Lossy WebP is always 4:2:0; one thread, since images are worked on side by side.
CODECS: dict[str, dict[str, Any]] = {
    "JPEG": {"subsampling": "4:2:0"},
    "WEBP": {},
    "AVIF": {"subsampling": "4:2:0", "max_threads": 1},
}
WEBP_SIDE_PX = 16383  # the longest that the format can hold


# ---------------------------------------------------------------------------------------------------------
# Primitives


def encode(image: Image.Image, *, format: str, quality: int) -> bytes:
    """Encode an image by Pillow as lossy JPEG, WebP or AVIF, with colours at half the resolution (4:2:0)."""
    encoded = io.BytesIO()
    image.save(encoded, format, quality=quality, **CODECS[format])
    return encoded.getvalue()


def recompress(image: Image.Image, *, quality: int, format: str = "JPEG") -> Image.Image:
    """Write the image to memory in a lossy format and read it again. What WebP cannot hold is shrunk before."""
    if format == "WEBP" and max(image.size) > WEBP_SIDE_PX:
        image = forms.long_side(image, size_px=WEBP_SIDE_PX)
    with Image.open(io.BytesIO(encode(image, format=format, quality=quality))) as decoded:
        return decoded.convert("RGB")


def resize(image: Image.Image, *, factor: float) -> Image.Image:
    """Scale both sides by a factor, bicubic, with antialiasing when the image shrinks."""
    return image.resize(scaled_size(image.size, factor), Image.Resampling.BICUBIC)


def rescale(image: Image.Image, *, factor: float) -> Image.Image:
    """Resize by a factor and back to the size before, both bicubic."""
    return resize(image, factor=factor).resize(image.size, Image.Resampling.BICUBIC)


def crop(image: Image.Image, *, share: float, seed: int) -> Image.Image:
    """Cut out a window with `share` of each side, anywhere in the image."""
    size = scaled_size(image.size, share)
    generator = np.random.default_rng(seed)
    left, top = (
        int(generator.integers(0, whole - kept + 1)) for whole, kept in zip(image.size, size, strict=True)
    )
    return image.crop((left, top, left + size[0], top + size[1]))


def blur(image: Image.Image, *, sigma_px: float) -> Image.Image:
    """Apply a Gaussian blur, which Pillow makes of three box filters of the same variance."""
    return image.filter(ImageFilter.GaussianBlur(sigma_px))


def noise(image: Image.Image, *, sigma_levels: float, seed: int) -> Image.Image:
    """Add independent Gaussian noise to every pixel and channel, in grey levels of 255, rounded and clipped."""
    pixels_HWC = np.asarray(image, dtype=np.float32)
    drawn_HWC = np.random.default_rng(seed).standard_normal(pixels_HWC.shape, dtype=np.float32)
    noisy_HWC = np.rint(pixels_HWC + sigma_levels * drawn_HWC).clip(0, 255)
    return Image.fromarray(noisy_HWC.astype(np.uint8))


def gamma(image: Image.Image, *, exponent: float) -> Image.Image:
    """Map levels to (level / 255) ** exponent: below 1 brighter, above 1 darker."""
    curve = [round(255 * (level / 255) ** exponent) for level in range(256)]
    return image.point(curve * 3)


def screenshot(image: Image.Image, *, seed: int) -> Image.Image:
    """Show the picture as a browser does, with some of the page around it.

    It is shrunk to fit a random display, resampled bilinearly at a random ratio of device to page pixels, and
    stands on a plain grey with margins up to 10 % of the side. A screenshot is stored as PNG, which changes no
    pixel, so nothing is encoded here.
    """
    generator = np.random.default_rng(seed)
    display = DISPLAYS_PX[generator.integers(len(DISPLAYS_PX))]
    fit = min(1.0, *(room / side for room, side in zip(display, image.size, strict=True)))
    shown_size = scaled_size(image.size, fit * PIXEL_RATIOS[generator.integers(len(PIXEL_RATIOS))])
    grey = PAGE_GREYS[generator.integers(len(PAGE_GREYS))]
    left, top, right, bottom = (
        int(share * side) for share, side in zip(generator.uniform(0, MAX_MARGIN, 4), shown_size * 2, strict=True)
    )
    width, height = shown_size
    page = Image.new("RGB", (left + width + right, top + height + bottom), (grey,) * 3)
    page.paste(image.resize(shown_size, Image.Resampling.BILINEAR), (left, top))
    return page


def social(image: Image.Image, *, seed: int) -> Image.Image:
    """Upload once or, half of the time, twice: limit the long side, then save as JPEG 4:2:0 at quality 70 to 90.

    The limit (1080, 1280, 1600 or 2048 px) and the quality are drawn anew for each upload.
    """
    generator = np.random.default_rng(seed)
    for _ in range(int(generator.integers(1, 3))):
        limit_px = int(generator.choice(UPLOAD_LONG_SIDES_PX))
        quality = int(generator.integers(UPLOAD_QUALITIES[0], UPLOAD_QUALITIES[1], endpoint=True))
        if max(image.size) > limit_px:
            image = image.resize(scaled_size(image.size, limit_px / max(image.size)), Image.Resampling.LANCZOS)
        image = recompress(image, quality=quality)
    return image


def messenger(image: Image.Image) -> Image.Image:
    """Send by a usual messenger: limit the long side to 1,280 px, then save as JPEG of quality 70."""
    return recompress(forms.long_side(image, size_px=MESSENGER_LONG_SIDE_PX), quality=MESSENGER_QUALITY)


def thumbnail(image: Image.Image, *, size_px: int) -> Image.Image:
    """Shrink until the long side is `size_px`, then save as JPEG of quality 80."""
    return recompress(forms.long_side(image, size_px=size_px), quality=THUMBNAIL_QUALITY)


def enlarged_thumbnail(image: Image.Image, *, size_px: int) -> Image.Image:
    """Shrink to a long side of `size_px`, enlarge to one of 512 px, bilinear, then save as JPEG of quality 85."""
    shown = forms.enlarged_thumbnail(image, size_px=size_px, shown_px=ENLARGED_TO_PX)
    return recompress(shown, quality=ENLARGED_QUALITY)


def aligned(image: Image.Image, *, quality: int) -> Image.Image:
    """Shrink to a short side of 512 px and save as JPEG, so that size and encoder tell no classes apart."""
    return recompress(forms.short_side(image, size_px=ALIGNED_SHORT_SIDE_PX), quality=quality)


def square(image: Image.Image, *, quality: int) -> Image.Image:
    """Shrink as `aligned` does, cut out the centre square and save as JPEG, so that shapes tell nothing either.

    As there, nothing is enlarged: the square of a picture with a short side below 512 px is smaller.
    """
    shrunk = forms.short_side(image, size_px=ALIGNED_SHORT_SIDE_PX)
    return recompress(centre_crop(shrunk, min(shrunk.size)), quality=quality)


# ---------------------------------------------------------------------------------------------------------
# By name


@dataclass(frozen=True)
class Family:
    """Degradations that differ in strength alone.

    change           (image, strength, seed) -> image
    unit             of the strength; a family without one has no strength
    lowest, highest  strengths that are allowed
    whole            only whole numbers are allowed
    needs            what Pillow must be built with, as PIL.features names it
    """

    change: Callable[[Image.Image, float, int], Image.Image]
    unit: str = ""
    lowest: float = 0
    highest: float = 0
    whole: bool = False
    needs: str = ""

    @property
    def is_available(self) -> bool:
        return not self.needs or bool(features.check(self.needs))

    def described(self, name: str) -> str:
        """Return how a degradation of the family is written, with the strengths that are allowed."""
        return f"{name}:{self.lowest:g}..{self.highest:g} ({self.unit})" if self.unit else name


FAMILIES = {
    CLEAN: Family(lambda image, _, seed: image.copy()),
    "jpeg": Family(lambda image, x, seed: recompress(image, quality=int(x)), "quality", 1, 100, whole=True),
    "webp": Family(
        lambda image, x, seed: recompress(image, quality=int(x), format="WEBP"), "quality", 0, 100, True, "webp"
    ),
    "avif": Family(
        lambda image, x, seed: recompress(image, quality=int(x), format="AVIF"), "quality", 0, 100, True, "avif"
    ),
    "resize": Family(lambda image, x, seed: resize(image, factor=x), "factor, to stay", 0.1, 4),
    "rescale": Family(lambda image, x, seed: rescale(image, factor=x), "factor, and back", 0.1, 1),
    "crop": Family(lambda image, x, seed: crop(image, share=x, seed=seed), "share of each side", 0.1, 1),
    "blur": Family(lambda image, x, seed: blur(image, sigma_px=x), "sigma in px", 0, 20),
    "noise": Family(lambda image, x, seed: noise(image, sigma_levels=x, seed=seed), "sigma in levels", 0, 100),
    "gamma": Family(lambda image, x, seed: gamma(image, exponent=x), "exponent", 0.1, 10),
    "screenshot": Family(lambda image, _, seed: screenshot(image, seed=seed)),
    "social": Family(lambda image, _, seed: social(image, seed=seed)),
    "short": Family(
        lambda image, x, seed: forms.short_side(image, size_px=int(x)), "px, short side", 16, 8192, whole=True
    ),
    "messenger": Family(lambda image, _, seed: messenger(image)),
    "thumbnail": Family(
        lambda image, x, seed: thumbnail(image, size_px=int(x)), "px, long side", 16, 2048, whole=True
    ),
    "enlarged_thumbnail": Family(
        lambda image, x, seed: enlarged_thumbnail(image, size_px=int(x)),
        "px, long side",
        16,
        ENLARGED_TO_PX,
        whole=True,
    ),
    "page": Family(lambda image, _, seed: forms.page(image, seed=seed), needs="freetype2"),
    "corner": Family(
        lambda image, x, seed: forms.corner(image, share=x, which=seed % 4), "share of each side", 0.1, 1
    ),
    "collage": Family(lambda image, _, seed: forms.collage(image)),
    "grey": Family(lambda image, _, seed: forms.grey(image)),
    "vivid": Family(lambda image, x, seed: forms.vivid(image, factor=x), "factor", 1, 3),
    "caption": Family(lambda image, _, seed: forms.caption(image, seed=seed), needs="freetype2"),
    "letterbox": Family(lambda image, _, seed: forms.letterbox(image)),
    "aligned": Family(lambda image, x, seed: aligned(image, quality=int(x)), "quality", 1, 100, whole=True),
    "square": Family(lambda image, x, seed: square(image, quality=int(x)), "quality", 1, 100, whole=True),
}


@dataclass(frozen=True)
class Degradation:
    """A family at one strength. Raises ValueError for an unknown family or a strength that it does not have."""

    family: str
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown degradation {self.family!r}; choose from {_allowed()}")
        family, strength = FAMILIES[self.family], self.strength
        if not family.is_available:
            raise ValueError(f"{self.family} is not available: this Pillow was built without {family.needs}")
        if (strength is None) == bool(family.unit):
            given = "no strength" if strength is None else f"strength {strength:g}"
            raise ValueError(f"{self.family} with {given}; write {family.described(self.family)}")
        if strength is not None and (
            not family.lowest <= strength <= family.highest or (family.whole and strength % 1)
        ):
            number = " in whole numbers" if family.whole else ""
            raise ValueError(
                f"{self.family} of strength {strength:g}; allowed is {family.described(self.family)}{number}"
            )

    @property
    def name(self) -> str:
        """Return the text that parse_degradation reads, such as "jpeg:75"."""
        return self.family if self.strength is None else f"{self.family}:{self.strength:.12g}"

    def __call__(self, image: Image.Image, *, seed: int) -> Image.Image:
        """Return a new RGB image; the given one stays as it is. The seed is not negative, see content_seed."""
        if image.mode != "RGB":
            raise ValueError(f"a degradation takes an image in mode RGB, not {image.mode}")
        return FAMILIES[self.family].change(image, self.strength or 0.0, seed)


def parse_degradation(text: str) -> Degradation:
    """Parse "jpeg:75" or "social". Raises ValueError that names what is allowed."""
    family, strength = split_name(text.strip())
    if ":" in text and (strength is None or not math.isfinite(strength)):
        number = text.strip().partition(":")[2]
        raise ValueError(f"degradation {text!r}: {number!r} is no number; choose from {_allowed()}")
    return Degradation(family, strength)


def split_name(name: str) -> tuple[str, float | None]:
    """Return the family in a degradation's name and the strength, None without one.

    Nothing is refused: a report may name what this version, or this Pillow, does not have.
    """
    family, _, number = name.partition(":")
    try:
        return family, float(number)
    except ValueError:
        return family, None


def content_seed(content_sha256: str) -> int:
    """Return the seed of an image: the first 60 bits of the SHA-256 of its file."""
    return int(content_sha256[:15], 16)


@functools.cache
def _allowed() -> str:
    return ", ".join(family.described(name) for name, family in FAMILIES.items())


# What a robustness matrix holds, and the points of its curves.
CURVES: dict[str, tuple[float, ...]] = {
    "jpeg": (100, 95, 90, 80, 70, 60, 50, 40, 30),
    "webp": (90, 80, 70, 50, 30),
    "avif": (80, 60, 40),
    "resize": (0.25, 0.5, 0.75, 1.5, 2),
    "rescale": (0.75, 0.5, 0.25),
    "crop": (0.9, 0.8, 0.6, 0.4),
    "blur": (0.5, 1, 2, 3),
    "noise": (2, 5, 10, 20),
    "gamma": (0.6, 0.8, 1.25, 1.6),
}
SUITE = (
    Degradation(CLEAN),
    *(
        Degradation(family, strength)
        for family, strengths in CURVES.items()
        if FAMILIES[family].is_available
        for strength in strengths
    ),
    Degradation("screenshot"),
    Degradation("social"),
)

# The forms in which pictures reach people, as tables write them.
DELIVERIES = {
    words: Degradation(*split_name(name))
    for words, name in (
        ("as it is", CLEAN),
        ("JPEG 75", "jpeg:75"),
        ("JPEG 40", "jpeg:40"),
        ("WebP 60", "webp:60"),
        ("short side 512", "short:512"),
        ("messenger (1,280 px, quality 70)", "messenger"),
        ("thumbnail of 256 px", "thumbnail:256"),
        ("thumbnail of 128 px enlarged to 512", "enlarged_thumbnail:128"),
        ("enlarged by 1.5", "resize:1.5"),
        ("shown in a screenshot", "page"),
        ("corner of 60 %", "corner:0.6"),
        ("collage of two by two", "collage"),
        ("grey", "grey"),
        ("stronger colours and contrast", "vivid:1.4"),
        ("caption", "caption"),
        ("letterbox", "letterbox"),
    )
    if FAMILIES[split_name(name)[0]].is_available
}
# What `benchmarks.py run --degrade` calls by one word.
SETS = {"suite": SUITE, "deliveries": tuple(DELIVERIES.values())}


def described(names: Iterable[str]) -> dict[str, str]:
    """Return how a table writes each degradation: in words if all of them are DELIVERIES, else by its name.

    So the cells of one table look alike.
    """
    names = list(names)
    words = {degradation.name: text for text, degradation in DELIVERIES.items()}
    return {name: words[name] for name in names} if set(names) <= words.keys() else {name: name for name in names}
