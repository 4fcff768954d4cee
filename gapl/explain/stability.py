"""Whether a verdict stays when the image is saved anew, as happens on its way to people."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from gapl.verdict import Verdict

if TYPE_CHECKING:
    from gapl.detector import Detector

LEAST_HOLDING = 6  # of the six re-saves: with fewer, a verdict is taken as unsure
LONGEST_PX = {"JPEG": 65500, "WEBP": 16383}  # sides that these formats can hold

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


class Resave(NamedTuple):
    """A re-save of an image, and what the detector makes of it."""

    name: str
    score: float
    label: str


@dataclass(frozen=True)
class Stability:
    """What the re-saves of an image say of its verdict.

    holds  in how many of them the verdict holds, see `holds`
    label  of the verdict; "unsure" where it holds in fewer than LEAST_HOLDING. The verdict itself stays
    """

    resaves: tuple[Resave, ...]
    holds: int
    label: str

    def as_json(self) -> dict[str, Any]:
        """Return the object `stable` of an explanation."""
        resaves = [each._asdict() for each in self.resaves]
        return {"resaves": resaves, "holds": self.holds, "label": self.label}


def check_stability(detector: Detector, image: Image.Image, verdict: Verdict) -> Stability:
    """Judge each re-save of an RGB image, by all views that the detector has, one after the other.

    verdict  of the detector, on the image as it is
    """
    resaves = tuple(_judged(detector, name, save(image)) for name, save in RESAVES.items())
    num = sum(holds(verdict, each.label) for each in resaves)
    return Stability(resaves, num, verdict.label if num >= LEAST_HOLDING else "unsure")


def _judged(detector: Detector, name: str, image: Image.Image) -> Resave:
    (verdict,) = detector.judge([detector.see(image)])
    return Resave(name, verdict.score, verdict.label)


def holds(verdict: Verdict, label: str) -> bool:
    """Tell whether a verdict holds where a re-save has this label: unless the label is the opposite class.

    An unsure verdict counts as the class that it leans to. A label that becomes unsure is no opposite.
    """
    return label in (verdict.leaning, "unsure")


# ---------------------------------------------------------------------------------------------------------
# Re-saves: each takes an RGB image and returns a new one, the same in every run.


def _encoded(image: Image.Image, *, format: str, quality: int) -> Image.Image:
    """Save in a lossy format, colours at half the resolution (4:2:0). What the format cannot hold is shrunk."""
    if (excess := max(image.size) / LONGEST_PX[format]) > 1:
        image = _scaled(image, 1 / excess, BICUBIC)
    encoded = io.BytesIO()
    image.save(encoded, format, quality=quality)
    with Image.open(encoded, formats=[format]) as decoded:
        return decoded.convert("RGB")


def _scaled(image: Image.Image, factor: float, resampling: Image.Resampling) -> Image.Image:
    width, height = (max(1, round(factor * length)) for length in image.size)
    return image.resize((width, height), resampling)


def _halved_and_back(image: Image.Image) -> Image.Image:
    return _scaled(image, 0.5, BICUBIC).resize(image.size, BICUBIC)


def _cropped(image: Image.Image) -> Image.Image:
    left, top = (round(0.05 * length) for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


RESAVES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 90": lambda image: _encoded(image, format="JPEG", quality=90),
    "JPEG 75": lambda image: _encoded(image, format="JPEG", quality=75),
    "half size and back": _halved_and_back,
    "WebP 80": lambda image: _encoded(image, format="WEBP", quality=80),
    "cropped by 5 %": _cropped,
    "screenshot": lambda image: _scaled(image, 0.8, BILINEAR),  # at a zoom of 80 %, saved without loss
}
