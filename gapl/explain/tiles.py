"""Where in an image: tiles at the resolution of a detector's crops, each with a P(fake) of its own.

Shape suffixes: V views, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gapl.calibration import score_of
from gapl.detector import Detector
from gapl.explain.probe import has_whole, logits_of, normalising
from gapl.pixels import PixelSpec
from gapl.views import centre_start, eval_view, resize_for_crops

MAX_TILES = 36

Size = tuple[int, int]  # width, height


class Tile(NamedTuple):
    """Where a tile starts, in pixels of the image, and its P(fake)."""

    left: int
    top: int
    score: float


@dataclass(frozen=True)
class TileMap:
    """The tiles of an image, in rows from the top left.

    reduced_by  the power of two that the image was shrunk by before it was cut
    side        of each tile, in pixels of the image
    tiles       at most MAX_TILES. They cover the image, but for strips that are too long for so many
    """

    reduced_by: int
    side: int
    tiles: tuple[Tile, ...]

    def enlarged(self, factor: int) -> TileMap:
        """Return the same for an image that was shrunk by a factor before: its last pixels may be parts."""
        tiles = tuple(Tile(factor * left, factor * top, score) for left, top, score in self.tiles)
        return TileMap(factor * self.reduced_by, factor * self.side, tiles)

    def as_json(self) -> dict[str, Any]:
        """Return the object `tiles` of an explanation."""
        return {"reduced_by": self.reduced_by, "side": self.side, "tiles": [list(tile) for tile in self.tiles]}


def map_tiles(detector: Detector, image: Image.Image) -> TileMap:
    """Judge an RGB image tile by tile.

    The detector is given each tile as its only crop, and the whole image beside it if it has that view. Scores are
    by the calibration of all its views, whichever it judges by; it was fitted to other crops than one tile.
    """
    size_px = detector.pixel.size_px
    scaled = resize_for_crops(image, detector.pixel)
    grid = Grid.of(image.size, detector.pixel, scaled=scaled.size)
    reduced = scaled.reduce(grid.reduced_by) if grid.reduced_by > 1 else scaled
    normalise = normalising(detector.pixel)
    whole_CHW = eval_view(detector.pixel.fast())(image) if has_whole(detector) else None

    def pixels() -> Iterator[np.ndarray]:
        for left, top in grid.corners:
            tile_CHW = normalise(reduced.crop((left, top, left + size_px, top + size_px)))
            yield tile_CHW if whole_CHW is None else np.stack([tile_CHW, whole_CHW])

    is_fast = has_whole(detector) and detector.pixel.num_views == 1
    calibration = detector.info.full_calibration if is_fast else detector.info.calibration
    scores = score_of(logits_of(detector, pixels()), calibration)
    places = map(grid.in_image, grid.corners)
    tiles = tuple(Tile(*place, float(score)) for place, score in zip(places, scores, strict=True))
    return TileMap(grid.reduced_by, grid.side, tiles)


@dataclass(frozen=True)
class Grid:
    """Where the tiles of an image are.

    size        of the image
    scaled      its size at the resolution of the detector's crops, before it is reduced
    corners     (left, top) of each tile in the reduced image; below 0 where a smaller one is padded
    """

    size: Size
    scaled: Size
    reduced_by: int
    size_px: int
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, size: Size, pixel: PixelSpec, *, scaled: Size) -> Grid:
        """Lay tiles over an image: one where it is smaller than a tile, else so that they cover it."""
        is_small = max(size) < pixel.size_px
        reduced_by = 1 if is_small else _reduction(scaled, pixel.size_px)
        lengths = math.ceil(scaled[0] / reduced_by), math.ceil(scaled[1] / reduced_by)
        counts = (1, 1) if is_small else _counts(lengths, pixel.size_px)
        lefts, tops = (_starts(*each, pixel.size_px) for each in zip(lengths, counts, strict=True))
        corners = tuple((left, top) for top, left in product(tops, lefts))
        return cls(size, scaled, reduced_by, pixel.size_px, corners)

    @property
    def _scale(self) -> float:
        """Return how many pixels of the image one of the reduced image is."""
        return self.reduced_by * min(self.size) / min(self.scaled)

    @property
    def side(self) -> int:
        return round(self._scale * self.size_px)

    def in_image(self, corner: tuple[int, int]) -> tuple[int, int]:
        """Return the corner of a tile in pixels of the image."""
        left, top = (self._place(start, axis) for axis, start in enumerate(corner))
        return left, top

    def _place(self, start: int, axis: int) -> int:
        margin = (self.size[axis] - self._scale / self.reduced_by * self.scaled[axis]) / 2  # of strips
        place = round(margin + self._scale * start)
        return min(place, self.size[axis] - self.side) if place > 0 else place  # the last pixels may be parts


def _reduction(size: Size, size_px: int) -> int:
    """Return the least power of two that lets MAX_TILES cover the image; the short side stays that of a tile."""
    factor = 1
    while math.prod(_covering(size, factor * size_px)) > MAX_TILES and min(size) >= 2 * factor * size_px:
        factor *= 2
    return factor


def _covering(size: Size, side: int) -> list[int]:
    return [math.ceil(length / side) for length in size]


def _counts(size: Size, size_px: int) -> list[int]:
    """Return how many tiles there are across and down: enough to cover, then up to an overlap by half."""
    counts = _covering(size, size_px)
    long = int(size[1] > size[0])
    counts[long] = min(counts[long], MAX_TILES // counts[1 - long])

    def step(axis: int) -> float:
        return (size[axis] - size_px) / max(1, counts[axis] - 1)

    def can_grow(axis: int) -> bool:
        return step(axis) > size_px / 2 and (counts[axis] + 1) * counts[1 - axis] <= MAX_TILES

    while axes := [axis for axis in (0, 1) if can_grow(axis)]:
        counts[max(axes, key=step)] += 1
    return counts


def _starts(length: int, count: int, size_px: int) -> list[int]:
    if count == 1:
        return [centre_start(length, size_px)]
    return [round(start) for start in np.linspace(0, length - size_px, count)]
