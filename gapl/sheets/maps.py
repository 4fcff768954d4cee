"""The picture of a sheet, and over it the maps of where its score comes from.

Lengths are pixels of the image as shown. A part is orange where it speaks more for a fake than the median part of
the image, and blue where it speaks less for one; nothing is said by colour alone: the captions have the numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from string import Template
from typing import Any, NamedTuple

from PIL import Image

from gapl.gallery import markup
from gapl.thumbnail import shrink

LONG_SIDE_PX = 1024  # of the picture, at most
FULL = 0.5  # the difference of logits that has full colour, or the largest one: weak maps look weak
LEAST, MOST = 1e-6, 1 - 1e-6  # of a score, whose logit is taken

_FIGURE = Template(
    '<figure class="picture"><div class="stack">$picture<svg class="maps" viewBox="0 0 $width $height"'
    ' preserveAspectRatio="none" aria-hidden="true">$maps</svg></div>\n$controls'
    '<figcaption><p class="facts">$facts</p>$captions</figcaption></figure>\n'
)
_CONTROLS = Template(
    '<form id="layers"><fieldset><legend>Over the picture</legend>$choices</fieldset>'
    '<label class="field" id="strength" hidden>Strength <input type="range" min="10" max="100" value="60"></label>'
    "</form>\n"
)
_CHOICE = Template('<label><input type="radio" name="layer" id="show-$name"$checked> $name</label>')
_LEGEND = (
    '<p class="legend"><span>{low}</span><svg aria-hidden="true"><rect class="low" width="100%" height="10"/>'
    '<rect class="high" width="100%" height="10"/></svg><span>{high}</span></p>'
)
# What fades is the colour: in the middle of the scale, the picture is seen as it is.
_FADING = (
    '<svg class="defined" aria-hidden="true"><defs>'
    '<linearGradient id="low"><stop offset="0"/><stop offset=".5" stop-opacity="0"/></linearGradient>'
    '<linearGradient id="high"><stop offset=".5" stop-opacity="0"/><stop offset="1"/></linearGradient>'
    "</defs></svg>"
)


class Cell(NamedTuple):
    """A part of a map, and what it says beside the other parts: from -1, more for real, to 1, more for fake."""

    left: float
    top: float
    right: float
    bottom: float
    value: float
    said: str


class Layer(NamedTuple):
    """A map, its name, and its caption, as HTML."""

    name: str
    shapes: str
    caption: str


def figure(image: Image.Image, where: Mapping[str, Any], *, name: str) -> str:
    """Return the picture of an RGB image with its maps, of which a reader chooses one.

    where   as docs/result.schema.json has it; empty: there are no maps
    name    of the image, escaped
    """
    width, height = image.size
    thumbnail = shrink(image.copy(), long_side_px=LONG_SIDE_PX)
    smaller = "" if thumbnail.size == (width, height) else ", shown in {:,} x {:,} px".format(*thumbnail.size)
    layers = [_patches(where["patches"]), _tiles(where["tiles"], width, height)] if where else []
    return _FIGURE.substitute(
        picture=markup.picture(thumbnail, alt=name),
        width=width,
        height=height,
        maps="".join(f'<g class="{each.name}">{each.shapes}</g>' for each in layers),
        controls=_controls(layers) if layers else "",
        facts=f"{width:,} x {height:,} px{smaller}",
        captions="".join(f'<div class="about-{each.name}">{each.caption}</div>' for each in layers),
    )


def _controls(layers: Sequence[Layer]) -> str:
    names = [*(each.name for each in layers), "none"]
    choices = "".join(_CHOICE.substitute(name=name, checked=" checked" * (name == names[0])) for name in names)
    return _CONTROLS.substitute(choices=choices) + _FADING


def _rect(cell: Cell) -> str:
    size = f'width="{cell.right - cell.left:g}" height="{cell.bottom - cell.top:g}"'
    look = f'class="{"fake" if cell.value > 0 else "real"}" fill-opacity="{min(1.0, abs(cell.value)):.2f}"'
    return f'<rect x="{cell.left:g}" y="{cell.top:g}" {size} {look}><title>{cell.said}</title></rect>'


# ---------------------------------------------------------------------------------------------------------
# Tiles


def _tiles(tiles: Mapping[str, Any], width: int, height: int) -> Layer:
    """Return the map of what the detector says of each tile."""
    caption = (
        "<p>The detector judged each tile as if it were all that it sees closely. Orange: a higher score than the "
        f"middle one. Blue: a lower one. {_spread(tiles)}</p>"
    )
    legend = _LEGEND.format(low="lower than the middle one", high="higher")
    return Layer("tiles", "".join(map(_rect, _cells(tiles, width, height))), legend + caption)


def _logit(score: float) -> float:
    score = min(max(score, LEAST), MOST)
    return math.log(score / (1 - score))


def _spread(tiles: Mapping[str, Any]) -> str:
    """Return how many tiles there are, of which size, and their scores."""
    scores = [score for _, _, score in tiles["tiles"]]
    reduced = tiles["reduced_by"]
    side = f"{tiles['side'] / reduced:.0f} px" + (f" of the image reduced by {reduced:g}" if reduced > 1 else "")
    if len(scores) == 1:
        return f"One tile of {side}: score {scores[0]:.2f}."
    spread = f"from {min(scores):.2f} to {max(scores):.2f}, the middle one {statistics.median(scores):.2f}"
    return f"{len(scores)} tiles of {side}: scores {spread}."


def _cells(tiles: Mapping[str, Any], width: int, height: int) -> Iterator[Cell]:
    """Yield the rectangles that the edges of all tiles make, each with the mean score of the tiles over it."""
    side = tiles["side"]
    boxes = [
        (max(left, 0), max(top, 0), min(left + side, width), min(top + side, height), score)
        for left, top, score in tiles["tiles"]  # that of an image which was padded stands out of it
    ]
    middle = _logit(statistics.median(score for *_, score in boxes))
    full = max(FULL, *(abs(_logit(score) - middle) for *_, score in boxes))
    columns = sorted({edge for left, _, right, _, _ in boxes for edge in (left, right)})
    rows = sorted({edge for _, top, _, bottom, _ in boxes for edge in (top, bottom)})
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            scores = [score for x, y, to_x, to_y, score in boxes if x <= left < to_x and y <= top < to_y]
            if scores:
                score = statistics.fmean(scores)
                yield Cell(left, top, right, bottom, (_logit(score) - middle) / full, f"score {score:.2f}")


# ---------------------------------------------------------------------------------------------------------
# Patches


def _patches(patches: Mapping[str, Any]) -> Layer:
    """Return the map of what covering each patch does to the score."""
    left, top, width, height = patches["box"]
    map_HW = patches["map"]
    values = [value for row in map_HW for value in row]
    middle = statistics.median(values)
    full = max(FULL, *(abs(value - middle) for value in values))
    high, wide = height / len(map_HW), width / len(map_HW[0])
    cells = [
        Cell(
            left + wide * x,
            top + high * y,
            left + wide * (x + 1),
            top + high * (y + 1),
            (value - middle) / full,
            f"covered, the logit changes by {-value:+.2f}",
        )
        for y, row in enumerate(map_HW)
        for x, value in enumerate(row)
    ]
    caption = (
        "<p>Parts of the small copy of the whole image, which is one of the detector's views, were covered, one "
        "after the other. Orange: covering that part lowers the score more than covering the median part, so it "
        f"speaks more for a fake. Blue: less. Covering changes the logit by {-max(values):+.2f} to "
        f"{-min(values):+.2f}. The frame is where that view ends. The verdict is by all views.</p>"
    )
    legend = _LEGEND.format(low="more for real", high="more for fake")
    frame = f'<rect class="view" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}"/>'
    return Layer("patches", "".join(map(_rect, cells)) + frame, legend + caption)
