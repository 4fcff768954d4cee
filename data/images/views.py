"""Views that return tensors, as batches need them: the evaluation view, and any random view under a seed.

Shape suffixes: V views, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from gapl.pixels import PixelSpec
from gapl.views import eval_view

TensorView = Callable[[Image.Image], Tensor]


def eval_tensor_view(pixel: PixelSpec) -> TensorView:
    """Return the evaluation view of a PixelSpec: float32 (3, H, W), or (V, 3, H, W) where there are several."""
    view = eval_view(pixel)
    return lambda image: torch.from_numpy(view(image))


def seeded(view: TensorView, image: Image.Image, *, seed: int) -> Tensor:
    """Apply a random view under a seed: the result is the same in every process and order."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 2 ms for devices that are not used
        return view(image)
