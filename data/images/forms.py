"""Change a picture as happens on its way to people: shrunk, cut, in a web page, in a collage. RGB -> RGB.

Each function returns a new image, whatever its size, and encodes nothing. `DELIVERIES` of data/images/degrade.py
says which of them are measured at what strength; data/images/deliver.py draws them with random strengths.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

LANCZOS, BILINEAR = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR
PAGE_PX = (1366, 900)
PAGE_BAR_PX, PAGE_MARGIN_PX, PAGE_LINE_PX = 60, 24, 26
PAGE_COLOURS = (  # of the page and of its text
    ((255, 255, 255), (32, 33, 36)),
    ((24, 26, 27), (220, 220, 220)),
    ((240, 242, 245), (28, 30, 33)),
)
WORD_PX = 60  # room that a word of a page takes, roughly
WORDS = "the of a picture was seen here on our page and more than any other we like this one today because it is"


def short_side(image: Image.Image, *, size_px: int) -> Image.Image:
    """Shrink the picture until its short side is `size_px`; a smaller one stays as it is."""
    return _reduced(image, min(1.0, size_px / min(image.size)))


def long_side(image: Image.Image, *, size_px: int) -> Image.Image:
    """Shrink the picture until its long side is `size_px`; a smaller one stays as it is."""
    return _reduced(image, min(1.0, size_px / max(image.size)))


def enlarged_thumbnail(image: Image.Image, *, size_px: int, shown_px: int) -> Image.Image:
    """Make a thumbnail whose long side is `size_px`, and enlarge it to a long side of `shown_px`, bilinear."""
    small = long_side(image, size_px=size_px)
    factor = shown_px / max(small.size)
    return small.resize(scaled_size(small.size, factor), BILINEAR)


def corner(image: Image.Image, *, share: float, which: int) -> Image.Image:
    """Cut out one of the four corners, with `share` of each side."""
    width, height = scaled_size(image.size, share)
    left = (image.width - width) * (which % 2)
    top = (image.height - height) * (which // 2 % 2)
    return image.crop((left, top, left + width, top + height))


def collage(image: Image.Image, *, gap_px: int = 8) -> Image.Image:
    """Show the picture four times, two by two, at half its size: as it is, mirrored, upside down, and both."""
    tile = _reduced(image, 0.5)
    page = Image.new("RGB", (2 * tile.width + gap_px, 2 * tile.height + gap_px), "white")
    right, below = tile.width + gap_px, tile.height + gap_px
    page.paste(tile, (0, 0))
    page.paste(ImageOps.mirror(tile), (right, 0))
    page.paste(ImageOps.flip(tile), (0, below))
    page.paste(ImageOps.flip(ImageOps.mirror(tile)), (right, below))
    return page


def grey(image: Image.Image) -> Image.Image:
    """Take the colours away."""
    return image.convert("L").convert("RGB")


def vivid(image: Image.Image, *, factor: float) -> Image.Image:
    """Make colours and contrast stronger by a factor, as a filter of a phone does."""
    return ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(factor)).enhance(factor)


def caption(image: Image.Image, *, seed: int) -> Image.Image:
    """Write a line of text over a dark bar at the picture's lower edge."""
    generator = np.random.default_rng(seed)
    shown = image.copy()
    bar_px = max(12, image.height // 10)
    draw = ImageDraw.Draw(shown)
    draw.rectangle((0, image.height - bar_px, image.width, image.height), fill="black")
    font = ImageFont.load_default(bar_px * 0.6)
    draw.text((bar_px // 4, image.height - bar_px), _line(generator, 8), "white", font)
    return shown


def letterbox(image: Image.Image, *, share: float = 0.125) -> Image.Image:
    """Put black bars, each with `share` of the height, above and below the picture."""
    bar_px = round(share * image.height)
    return ImageOps.expand(image, (0, bar_px), "black")


def page(image: Image.Image, *, seed: int) -> Image.Image:
    """Show the picture in a web page, with a bar, a heading and lines of text, and take the whole window.

    The picture takes half to nine tenths of the window's width or height, bilinear. The window is stored as PNG,
    which changes no pixel, so nothing is encoded here.
    """
    generator = np.random.default_rng(seed)
    back, ink = PAGE_COLOURS[generator.integers(len(PAGE_COLOURS))]
    width, height = PAGE_PX
    window = Image.new("RGB", PAGE_PX, back)
    draw = ImageDraw.Draw(window)
    red, green, blue = (level // 2 + 64 for level in back)
    draw.rectangle((0, 0, width, PAGE_BAR_PX), fill=(red, green, blue))
    draw.text((PAGE_MARGIN_PX, 18), _line(generator, 3), ink, ImageFont.load_default(18))
    room = generator.uniform(0.5, 0.9)
    shown = image.resize(
        scaled_size(image.size, min(room * width / image.width, room * (height - 100) / image.height)), BILINEAR
    )
    left, top = int(generator.integers(0, width - shown.width + 1)), PAGE_BAR_PX + 20
    font = ImageFont.load_default(15)
    for start, end in ((0, left), (left + shown.width, width)):  # text beside the picture, where there is room
        room_px = end - start - 2 * PAGE_MARGIN_PX
        for y in range(top, height - 20, PAGE_LINE_PX):
            if room_px > WORD_PX:
                draw.text((start + PAGE_MARGIN_PX, y), _line(generator, room_px // WORD_PX), ink, font)
    window.paste(shown, (left, top))  # over text that was too long
    for y in range(top + shown.height + 12, height - 20, PAGE_LINE_PX):
        draw.text((max(PAGE_MARGIN_PX, left), y), _line(generator, 9), ink, font)
    return window


def _line(generator: np.random.Generator, num_words: int) -> str:
    return " ".join(generator.choice(WORDS.split(), num_words)).capitalize()


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return (width, height) times a factor in whole pixels, at least 1."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _reduced(image: Image.Image, factor: float) -> Image.Image:
    return image.copy() if factor == 1 else image.resize(scaled_size(image.size, factor), LANCZOS)
