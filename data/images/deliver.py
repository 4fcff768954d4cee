"""Deliver a picture in a random form, as a training view: sent on, shown in a page, cut, enlarged, in a collage.

`DELIVERIES` of data/images/degrade.py are the same forms at fixed strengths, for measuring.

Shape suffixes: C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from data.images import forms
from data.images.degrade import FAMILIES, recompress, resize

SAVED_ANEW = 0.4  # the chance of a form that does not save the picture itself to be saved anew
MESSENGER_LONG_SIDES_PX = (960, 1080, 1280, 1600)
ENLARGED_LONG_SIDE_PX = 4096  # nothing is enlarged beyond it: a large photograph would take gigabytes


@dataclass(frozen=True)
class RandomForm:
    """One form of delivery at random strength.

    weight    how often it is drawn, beside the weights of the others
    change    (image, generator) -> image
    is_saved  the change ends with a lossy format
    """

    weight: float
    change: Callable[[Image.Image, np.random.Generator], Image.Image]
    is_saved: bool = False


def deliver(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return a new RGB image: the given one in a form drawn from RANDOM_FORMS, often saved anew after it.

    The image is in mode RGB. Qualities are 30 to 95, three times in four of JPEG and else of WebP.
    """
    if image.mode != "RGB":
        raise ValueError(f"a delivery takes an image in mode RGB, not {image.mode}")
    drawn = list(RANDOM_FORMS.values())
    weights = np.array([form.weight for form in drawn])
    form = drawn[generator.choice(len(drawn), p=weights / weights.sum())]
    delivered = form.change(image, generator)
    if form.is_saved or generator.random() >= SAVED_ANEW:
        return delivered
    return _saved(delivered, generator, format="JPEG" if generator.random() < 0.75 else "WEBP")


class RandomDelivery(torch.nn.Module):
    """Deliver an image, uint8 (3, H, W), in a random form; the result has a size of its own.

    Torch's generator seeds each draw, so that workers and continued runs draw as they do elsewhere in a view.
    Raises ValueError when this Pillow was built without what a form needs.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in RANDOM_FORMS:
            family = FAMILIES.get(name)
            if family and not family.is_available:
                raise ValueError(f"a random delivery draws {name}: this Pillow was built without {family.needs}")

    def forward(self, image_CHW: Tensor) -> Tensor:
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        return functional.pil_to_tensor(deliver(functional.to_pil_image(image_CHW), generator))


def _saved(image: Image.Image, generator: np.random.Generator, *, format: str) -> Image.Image:
    return recompress(image, quality=int(generator.integers(30, 96)), format=format)


def _messenger(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    sent = forms.long_side(image, size_px=int(generator.choice(MESSENGER_LONG_SIDES_PX)))
    return recompress(sent, quality=int(generator.integers(60, 85)))


def _thumbnail(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    small = forms.long_side(image, size_px=int(generator.integers(200, 420)))
    return recompress(small, quality=int(generator.integers(70, 95)))


def _enlarged_thumbnail(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    size_px, shown_px = int(generator.integers(128, 320)), int(generator.integers(448, 800))
    return forms.enlarged_thumbnail(image, size_px=size_px, shown_px=shown_px)


def _enlarged(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    limit = max(1.0, ENLARGED_LONG_SIDE_PX / max(image.size))
    return resize(image, factor=min(limit, generator.uniform(1.2, 2)))


def _corner(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    return forms.corner(image, share=generator.uniform(0.45, 0.8), which=int(generator.integers(4)))


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**62))


RANDOM_FORMS = {
    "jpeg": RandomForm(3, lambda image, draw: _saved(image, draw, format="JPEG"), is_saved=True),
    "webp": RandomForm(2, lambda image, draw: _saved(image, draw, format="WEBP"), is_saved=True),
    "short": RandomForm(2, lambda image, draw: forms.short_side(image, size_px=int(draw.integers(320, 900)))),
    "messenger": RandomForm(2, _messenger, is_saved=True),
    "thumbnail": RandomForm(2, _thumbnail, is_saved=True),
    "enlarged_thumbnail": RandomForm(1.5, _enlarged_thumbnail),
    "enlarged": RandomForm(1.5, _enlarged),
    "page": RandomForm(2, lambda image, draw: forms.page(image, seed=_seed(draw))),
    "corner": RandomForm(1.5, _corner),
    "collage": RandomForm(1.5, lambda image, _: forms.collage(image)),
    "grey": RandomForm(1, lambda image, _: forms.grey(image)),
    "vivid": RandomForm(1, lambda image, draw: forms.vivid(image, factor=draw.uniform(1.15, 1.6))),
    "caption": RandomForm(0.25, lambda image, draw: forms.caption(image, seed=_seed(draw))),
    "letterbox": RandomForm(0.25, lambda image, draw: forms.letterbox(image, share=draw.uniform(0.05, 0.2))),
}
