"""RGB image -> random pixels for the tower, in training. Torchvision does the work.

Shape suffixes: C channels, H, W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from data.decode import to_rgb
from data.transforms import View

INTERPOLATIONS = (InterpolationMode.NEAREST, InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)


def train_view(name: str, *, size_px: int, mean: Sequence[float], std: Sequence[float]) -> View:
    """A random view by name, for images of any size. It draws from torch's generator. Image -> (3, H, W).

    crop       random crop, black padding when the image is smaller (stage 1; paper)
    crop_flip  the same, mirrored half of the time
    release    resize to 8/7 of the crop, the released code's random-state augmentation, random crop (stage 2)
    """
    if name not in TRAIN_VIEWS:
        raise ValueError(f"unknown train view {name!r}; choose from {', '.join(TRAIN_VIEWS)}")
    normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return v2.Compose([to_rgb, v2.PILToTensor(), *TRAIN_VIEWS[name](size_px), *normalise])


def _random_crop(size_px: int) -> list[Any]:
    return [v2.RandomCrop(size_px, pad_if_needed=True)]


def _random_state(size_px: int) -> list[Any]:
    resize_px = round(size_px * 8 / 7)  # 256 for a crop of 224
    return [v2.Resize(resize_px, antialias=True), RandomState(resize_px), *_random_crop(size_px)]


TRAIN_VIEWS: dict[str, Callable[[int], list[Any]]] = {
    "crop": _random_crop,
    "crop_flip": lambda size_px: [*_random_crop(size_px), v2.RandomHorizontalFlip()],
    "release": _random_state,
}


class RandomState(torch.nn.Module):
    """The released stage-2 augmentation: each op is drawn 0 to 2 times, all in random order, on uint8 images.

    The strengths of the release are not published as numbers here; those below keep the picture recognisable.
    """

    def __init__(self, side_px: int) -> None:
        super().__init__()
        margin = side_px // 8
        self.ops: list[Callable[[Tensor], Tensor]] = [
            _RandomJpeg(50, 100),
            _RandomInterpolation(lambda mode: v2.RandomResize(side_px, side_px + margin, mode, antialias=True)),
            v2.RandomCrop(side_px - margin, pad_if_needed=True),
            v2.RandomHorizontalFlip(p=1.0),
            v2.RandomVerticalFlip(p=1.0),
            _RandomInterpolation(
                lambda mode: v2.RandomResizedCrop(side_px, (0.6, 1.0), interpolation=mode, antialias=True)
            ),
            v2.RandomRotation(15, InterpolationMode.BILINEAR),
            v2.RandomAffine(0, translate=(0.1, 0.1)),
            v2.RandomAffine(0, shear=10, interpolation=InterpolationMode.BILINEAR),
            v2.Pad(margin // 2),
            v2.RandomErasing(p=1.0, scale=(0.02, 0.1)),
        ]

    def forward(self, image_CHW: Tensor) -> Tensor:
        times = torch.randint(0, 3, (len(self.ops),)).tolist()
        drawn = [op for op, count in zip(self.ops, times, strict=True) for _ in range(count)]
        for position in torch.randperm(len(drawn)).tolist():
            image_CHW = drawn[position](image_CHW)
        return image_CHW


class _RandomJpeg(torch.nn.Module):
    """JPEG in memory by Pillow, at a quality drawn from a range, both ends included."""

    def __init__(self, lowest: int, highest: int) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest

    def forward(self, image_CHW: Tensor) -> Tensor:
        quality = int(torch.randint(self.lowest, self.highest + 1, ()))
        encoded = io.BytesIO()
        functional.to_pil_image(image_CHW).save(encoded, "JPEG", quality=quality)
        with Image.open(encoded) as image:
            return functional.pil_to_tensor(image)


class _RandomInterpolation(torch.nn.Module):
    """One of several resizing ops, drawn anew for each image."""

    def __init__(self, make: Callable[[InterpolationMode], torch.nn.Module]) -> None:
        super().__init__()
        self.ops = torch.nn.ModuleList(make(mode) for mode in INTERPOLATIONS)

    def forward(self, image_CHW: Tensor) -> Tensor:
        chosen = int(torch.randint(len(self.ops), ()))
        resized: Tensor = self.ops[chosen](image_CHW)
        return resized
