"""Deliver a picture as people meet it: shrunk, enlarged, sent by a messenger, in a page, in a collage. RGB -> RGB.

`DELIVERIES` of data/images/degrade.py names the sixteen forms that are measured; `deliver` draws one of them with
random strengths, for training. What is random is drawn from a generator, so that an image meets the same in every
run.
"""

from __future__ import annotations


import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

LANCZOS, BILINEAR = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR
SENT_LONG_SIDE_PX, SENT_QUALITY = 1280, 70  # what a usual messenger does to a picture
PAGE_PX = (1366, 900)
PAGE_COLOURS = (((255, 255, 255), (32, 33, 36)), ((24, 26, 27), (220, 220, 220)), ((240, 242, 245), (28, 30, 33)))
WORDS = "the of a picture was seen here on our page and more than any other we like this one today because it is".split()


def short_side(image: Image.Image, *, size_px: int) -> Image.Image:
    """Shrink the picture until its short side is `size_px`; a smaller one stays as it is."""
    return _scaled(image, min(1.0, size_px / min(image.size)))


def long_side(image: Image.Image, *, size_px: int) -> Image.Image:
    """Shrink the picture until its long side is `size_px`; a smaller one stays as it is."""
    return _scaled(image, min(1.0, size_px / max(image.size)))


def enlarged_thumbnail(image: Image.Image, *, size_px: int, shown_px: int = 512) -> Image.Image:
    """Make a thumbnail whose long side is `size_px`, and enlarge it to a long side of `shown_px`, bilinear."""
    small = long_side(image, size_px=size_px)
    factor = shown_px / max(small.size)
    return small.resize(_sides(small, factor), BILINEAR)


def corner(image: Image.Image, *, share: float, which: int) -> Image.Image:
    """Cut out one of the four corners, with `share` of each side."""
    width, height = _sides(image, share)
    left = (image.width - width) * (which % 2)
    top = (image.height - height) * (which // 2 % 2)
    return image.crop((left, top, left + width, top + height))


def collage(image: Image.Image, *, gap_px: int = 8) -> Image.Image:
    """Show the picture four times, two by two, at half its size: as it is, mirrored, upside down, and both."""
    tile = _scaled(image, 0.5)
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
    draw.text((bar_px // 4, image.height - bar_px), _line(generator, 8), "white", ImageFont.load_default(bar_px * 0.6))
    return shown


def letterbox(image: Image.Image, *, share: float = 0.125) -> Image.Image:
    """Put black bars, each with `share` of the height, above and below the picture."""
    bar_px = round(share * image.height)
    return ImageOps.expand(image, (0, bar_px), "black")


def page(image: Image.Image, *, seed: int) -> Image.Image:
    """Show the picture in a web page, with a bar, a heading and lines of text, and take the whole window.

    The picture takes half to nine tenths of the window's height or width, bilinear. The window is stored as PNG,
    which changes no pixel, so nothing is encoded here.
    """
    generator = np.random.default_rng(seed)
    back, ink = PAGE_COLOURS[generator.integers(len(PAGE_COLOURS))]
    window = Image.new("RGB", PAGE_PX, back)
    draw = ImageDraw.Draw(window)
    draw.rectangle((0, 0, PAGE_PX[0], 60), fill=tuple(level // 2 + 64 for level in back))
    draw.text((24, 18), _line(generator, 3), ink, ImageFont.load_default(18))
    room = generator.uniform(0.5, 0.9)
    shown = image.resize(
        _sides(image, min(room * PAGE_PX[0] / image.width, room * (PAGE_PX[1] - 100) / image.height)), BILINEAR
    )
    left, top = int(generator.integers(0, PAGE_PX[0] - shown.width + 1)), 80
    for start in (24, left + shown.width + 24):  # text beside the picture, where there is room
        room_px = (left if start == 24 else PAGE_PX[0]) - start - 24
        for y in range(top, PAGE_PX[1] - 20, 26):
            if room_px > 60:
                draw.text((start, y), _line(generator, max(1, room_px // 60)), ink, ImageFont.load_default(15))
    window.paste(shown, (left, top))
    for y in range(top + shown.height + 12, PAGE_PX[1] - 20, 26):
        draw.text((max(24, left), y), _line(generator, 9), ink, ImageFont.load_default(15))
    return window


def _line(generator: np.random.Generator, num_words: int) -> str:
    return " ".join(generator.choice(WORDS, num_words)).capitalize()


def _sides(image: Image.Image, factor: float) -> tuple[int, int]:
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    return image if factor == 1 else image.resize(_sides(image, factor), LANCZOS)
