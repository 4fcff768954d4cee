"""Random views of training: an image -> random pixels for the tower. Torchvision does the work.

Shape suffixes: C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from data.choices import EVAL, PAIRS
from data.images.degrade import recompress
from data.images.deliver import RandomDelivery
from data.images.views import TensorView
from gapl.decode import to_rgb
from gapl.views import MAX_ASPECT, reduce_by_powers

INTERPOLATIONS = (InterpolationMode.NEAREST, InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)


def train_view(name: str, *, size_px: int, mean: Sequence[float], std: Sequence[float]) -> TensorView:
    """Return a random view by name: an image of any size -> float32 (3, H, W). It draws from torch's generator.

    The views of SCALED_VIEWS return (2, 3, H, W): a crop and the whole image, for detectors that have both.

    eval       centre crop, as in evaluation: not random
    crop       random crop, black padding when the image is smaller (stage 1; paper)
    crop_flip  the same, mirrored half of the time
    release    resize to 8/7 of the crop, the released code's random-state augmentation, random crop (stage 2)
    recompress  three times in five saved anew as JPEG or WebP of quality 50 to 98; then crop_flip
    reencode   half of the time enlarged or reduced (0.6 to 1.3 times, not below the crop); seven times in ten
               saved anew as JPEG or WebP of quality 50 to 98; then crop_flip. Both classes get traces of handling
    scales     a random crop, a quarter of the time after shrinking by a power of two, and a crop of the whole,
               resized to 8/7 of the crop; both or none are mirrored
    delivered  half of the time delivered in a random form (data/images/deliver.py); then scales
    pairs      (2, 2, 3, H, W): scales of the image as it is, and scales of it delivered in a random form

    Raises ValueError for another name.
    """
    if name not in TRAIN_VIEWS:
        raise ValueError(f"unknown train view {name!r}; choose from {', '.join(TRAIN_VIEWS)}")
    normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return v2.Compose([to_rgb, v2.PILToTensor(), *TRAIN_VIEWS[name](size_px), *normalise])


def _random_crop(size_px: int) -> list[Any]:
    return [v2.RandomCrop(size_px, pad_if_needed=True)]


def _random_state(size_px: int) -> list[Any]:
    resize_px = round(size_px * 8 / 7)  # 256 for a crop of 224
    return [v2.Resize(resize_px, antialias=True), RandomState(size_px), *_random_crop(size_px)]


def _saved_anew(*, p: float) -> v2.RandomApply:
    """Save the image anew with probability p, by a random codec at a random quality from 50 to 98."""
    codecs = [_RandomCodec(50, 98, "JPEG"), _RandomCodec(50, 98, "WEBP")]
    return v2.RandomApply([v2.RandomChoice(codecs, p=[2, 1])], p=p)


def _reencode(size_px: int) -> list[Any]:
    return [
        v2.RandomApply(
            [_RandomInterpolation(lambda mode: _RandomScale(0.6, 1.3, size_px, mode), INTERPOLATIONS)], p=0.5
        ),
        _saved_anew(p=0.7),
        *TRAIN_VIEWS["crop_flip"](size_px),
    ]


TRAIN_VIEWS: dict[str, Callable[[int], list[Any]]] = {
    EVAL: lambda size_px: [v2.CenterCrop(size_px)],
    "crop": _random_crop,
    "crop_flip": lambda size_px: [*_random_crop(size_px), v2.RandomHorizontalFlip()],
    "release": _random_state,
    "recompress": lambda size_px: [_saved_anew(p=0.6), *TRAIN_VIEWS["crop_flip"](size_px)],
    "reencode": _reencode,
    "scales": lambda size_px: [_BothScales(size_px)],
    "delivered": lambda size_px: [v2.RandomApply([RandomDelivery()], p=0.5), _BothScales(size_px)],
    PAIRS: lambda size_px: [_Pair(RandomDelivery(), _BothScales(size_px))],
}


class _Pair(torch.nn.Module):
    """View an image as it is and changed: uint8 (3, H, W) -> two views, stacked."""

    def __init__(self, change: torch.nn.Module, view: torch.nn.Module) -> None:
        super().__init__()
        self.change, self.view = change, view

    def forward(self, image_CHW: Tensor) -> Tensor:
        return torch.stack([self.view(image_CHW), self.view(self.change(image_CHW))])


class _BothScales(torch.nn.Module):
    """Cut a crop of the image and one of the whole image in a small size: uint8 (3, H, W) -> (2, 3, S, S)."""

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.size_px, self.whole_px = size_px, round(size_px * 8 / 7)
        self.crop = v2.RandomCrop(size_px)

    def forward(self, image_CHW: Tensor) -> Tensor:
        whole_CHW = self._resized(image_CHW, self.whole_px)
        if min(image_CHW.shape[-2:]) < self.size_px:
            image_CHW = self._resized(image_CHW, self.size_px)
        elif float(torch.rand(())) < 0.25:
            image_CHW = functional.pil_to_tensor(reduce_by_powers(functional.to_pil_image(image_CHW)))
        both = torch.stack([self.crop(image_CHW), self.crop(whole_CHW)])
        return functional.horizontal_flip(both) if float(torch.rand(())) < 0.5 else both

    @staticmethod
    def _resized(image_CHW: Tensor, short_px: int) -> Tensor:
        limit_px = MAX_ASPECT * min(image_CHW.shape[-2:])  # as in evaluation
        middle_CHW = functional.center_crop(image_CHW, [min(side, limit_px) for side in image_CHW.shape[-2:]])
        resized_CHW: Tensor = functional.resize(middle_CHW, [short_px], InterpolationMode.BICUBIC, antialias=True)
        return resized_CHW


class RandomState(torch.nn.Module):
    """The augmentation of the released stage 2: each op 0 to 2 times, all in random order, on uint8 images.

    Ops and strengths are the released code's, but for what only Pillow images can do there: of its six
    interpolations three are left for the resized crop, and half of its JPEGs are OpenCV's.
    """

    def __init__(self, crop_px: int) -> None:
        super().__init__()
        bilinear = InterpolationMode.BILINEAR
        largest_px = round(1.228 * crop_px)
        self.ops: list[Callable[[Tensor], Tensor]] = [
            _RandomCodec(75, 100),
            _RandomInterpolation(
                lambda mode: v2.RandomResize(crop_px + 1, largest_px + 1, mode, antialias=True),
                (bilinear, InterpolationMode.BICUBIC),
            ),
            v2.RandomCrop(crop_px, pad_if_needed=True),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            _RandomInterpolation(lambda mode: _RandomZoom(crop_px, mode), INTERPOLATIONS),
            v2.RandomRotation(15, bilinear),
            v2.RandomAffine(0, translate=(0.1, 0.1), interpolation=bilinear),
            v2.RandomAffine(0, shear=(-15, 15, -15, 15), interpolation=bilinear),
            _RandomFrame(),
            _RandomCutout(),
        ]

    def forward(self, image_CHW: Tensor) -> Tensor:
        times = torch.randint(0, 3, (len(self.ops),)).tolist()
        drawn = [op for op, count in zip(self.ops, times, strict=True) for _ in range(count)]
        for position in torch.randperm(len(drawn)).tolist():
            image_CHW = drawn[position](image_CHW)
        return image_CHW


class _RandomCodec(torch.nn.Module):
    """Save the image in memory and read it again, at a random quality from a range, both ends included."""

    def __init__(self, lowest: int, highest: int, format: str = "JPEG") -> None:
        super().__init__()
        self.lowest, self.highest, self.format = lowest, highest, format

    def forward(self, image_CHW: Tensor) -> Tensor:
        quality = int(torch.randint(self.lowest, self.highest + 1, ()))
        saved = recompress(functional.to_pil_image(image_CHW), quality=quality, format=self.format)
        return functional.pil_to_tensor(saved)


class _RandomScale(torch.nn.Module):
    """Scale both sides by a random factor from a range; a larger image never below `least_px`."""

    def __init__(self, smallest: float, largest: float, least_px: int, mode: InterpolationMode) -> None:
        super().__init__()
        self.smallest, self.largest, self.least_px, self.mode = smallest, largest, least_px, mode

    def forward(self, image_CHW: Tensor) -> Tensor:
        factor = self.smallest + (self.largest - self.smallest) * float(torch.rand(()))
        least = min(1.0, self.least_px / min(image_CHW.shape[-2:]))
        size = [max(1, round(max(factor, least) * side)) for side in image_CHW.shape[-2:]]
        scaled: Tensor = functional.resize(image_CHW, size, self.mode, antialias=True)
        return scaled


class _RandomInterpolation(torch.nn.Module):
    """Apply one of several resizing ops, drawn anew for each image."""

    def __init__(
        self, make: Callable[[InterpolationMode], torch.nn.Module], modes: Sequence[InterpolationMode]
    ) -> None:
        super().__init__()
        self.ops = torch.nn.ModuleList(make(mode) for mode in modes)

    def forward(self, image_CHW: Tensor) -> Tensor:
        chosen = int(torch.randint(len(self.ops), ()))
        resized: Tensor = self.ops[chosen](image_CHW)
        return resized


class _RandomZoom(v2.RandomResizedCrop):
    """Cut out nine tenths of the picture or more, and resize the short side, so that proportions stay."""

    def __init__(self, side_px: int, mode: InterpolationMode) -> None:
        super().__init__(side_px, scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3), interpolation=mode, antialias=True)
        self.side_px = side_px

    def forward(self, image_CHW: Tensor) -> Tensor:
        cropped_CHW = functional.crop(image_CHW, **self.make_params([image_CHW]))
        return functional.resize(cropped_CHW, [self.side_px], self.interpolation, antialias=True)


class _RandomFrame(torch.nn.Module):
    """Add borders of one grey, each up to a twentieth of the side, and resize the picture to its size before."""

    def forward(self, image_CHW: Tensor) -> Tensor:
        height, width = image_CHW.shape[-2:]
        shares = (0.05 * torch.rand(4)).tolist()
        borders = [int(share * side) for share, side in zip(shares, (width, height) * 2, strict=True)]
        framed_CHW = functional.pad(image_CHW, borders, fill=int(torch.randint(256, ())))
        return functional.resize(framed_CHW, [height, width], InterpolationMode.BILINEAR, antialias=True)


class _RandomCutout(torch.nn.Module):
    """Cover a small rectangle with one grey, half of the time."""

    def forward(self, image_CHW: Tensor) -> Tensor:
        grey = float(torch.randint(256, ()))
        erase = v2.RandomErasing(0.5, scale=(0.02, 0.06), ratio=(0.3, 3.3), value=grey)
        erased_CHW: Tensor = erase(image_CHW)
        return erased_CHW
