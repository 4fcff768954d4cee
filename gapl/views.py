"""Image -> pixels for the tower, in evaluation. The only code that crops and normalises there.

Written with Pillow and NumPy alone, as the released code's view is, so that a verdict need not wait for
torchvision to be imported; training's random views are in data/images/augment.py.

Shape suffixes: C channels, H, W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gapl.decode import to_rgb

EVAL = "eval"  # the name of the view below, where a view is chosen by name

View = Callable[[Image.Image], Tensor]

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def eval_view(
    *,
    size_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    resize_px: int | None = None,
    interpolation: str = "bicubic",
    small_image: str = "pad",
    grey16: str = "scale",
) -> View:
    """The deterministic view of a PixelSpec: optional resize, centre crop, normalise. Image -> (3, H, W)."""
    mean_C11 = torch.tensor(mean).view(3, 1, 1)
    std_C11 = torch.tensor(std).view(3, 1, 1)

    def view(image: Image.Image) -> Tensor:
        image = to_rgb(image, grey16=grey16)
        if resize_px is not None:
            image = resize_short_side(image, resize_px, interpolation)
        elif small_image == "resize" and min(image.size) < size_px:
            image = resize_short_side(image, size_px, interpolation)
        pixels_HWC = torch.from_numpy(np.array(centre_crop(image, size_px)))
        return (pixels_HWC.permute(2, 0, 1).contiguous().float() / 255).sub_(mean_C11).div_(std_C11)

    return view


def resize_short_side(image: Image.Image, size_px: int, interpolation: str) -> Image.Image:
    short, long = sorted(image.size)
    other = int(size_px * long / short)
    size = (size_px, other) if image.width <= image.height else (other, size_px)
    return image.resize(size, RESAMPLING[interpolation])


def centre_crop(image: Image.Image, size_px: int) -> Image.Image:
    """A square from the middle; what lies outside a smaller image is black, as in torchvision's CenterCrop."""

    def start(length: int) -> int:
        return round((length - size_px) / 2) if length >= size_px else -((size_px - length) // 2)

    left, top = start(image.width), start(image.height)
    return image.crop((left, top, left + size_px, top + size_px))


def seeded(view: View, image: Image.Image, *, seed: int) -> Tensor:
    """The random view that `seed` stands for, whichever process or order it is drawn in."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 2 ms for devices that are not used
        return view(image)


def draw_seed(*parts: int) -> int:
    """One seed from several numbers (run, epoch, image), far apart for close inputs."""
    return random.Random(":".join(map(str, parts))).getrandbits(63)
