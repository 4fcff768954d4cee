"""What speaks for a verdict inside one image: where, and whether it stays when the image is saved anew."""

from __future__ import annotations

from typing import Any

from gapl.decode import to_rgb
from gapl.detector import Detector, ImageInput, open_image
from gapl.explain.patches import map_patches
from gapl.explain.stability import check_stability
from gapl.explain.tiles import map_tiles

MOST_PIXELS = 25_000_000  # of an image; a larger one is shrunk by a power of two before it is explored


def explore(detector: Detector, image: ImageInput) -> dict[str, Any]:
    """Return the objects `where` and `stable` of an explanation. They change no verdict.

    Places are in pixels of the image as viewers show it; where the PixelSpec has the conversion "pillow", of the
    image that the detector sees, which is not turned upright.

    It takes up to 171 passes through the tower. An image of more than MOST_PIXELS is shrunk before, by the least
    power of two that leaves no more; places are still those of the image.

    Raises ValueError, one line, for a detector with views "auto", which judges by the whole image first, and what
    a call of the detector does.
    """
    opened = open_image(image)
    seen = [detector.see(opened)]
    outcome = detector.compute(seen)
    if outcome.by_whole_B is not None:
        raise ValueError("no image is explored with views auto; choose --views full or fast")
    (verdict,) = detector.verdicts(outcome, seen)
    factor = 1
    while opened.width * opened.height > MOST_PIXELS * factor**2:
        factor *= 2
    shown = to_rgb(opened, conversion=detector.pixel.conversion)
    if factor > 1:
        shown = shown.reduce(factor)
    where = {
        "tiles": map_tiles(detector, shown).enlarged(factor).as_json(),
        "patches": map_patches(detector, shown).enlarged(factor).as_json(),
    }
    return {"where": where, "stable": check_stability(detector, shown, verdict).as_json()}
