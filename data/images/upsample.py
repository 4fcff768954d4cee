"""Rebuild a photograph by a simulated up-sampler of a generator, which leaves the traces that generators leave.

After AutoGAN (Zhang, Karaman, Chang 2019, "Detecting and simulating artifacts in GAN fake images"): the image is
halved without aliasing and up-sampled, so that its spectrum occurs twice along each axis. Unlike there, nothing is
trained: a seed draws weights near an interpolation kernel.

Shape suffixes: C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# What an up-sampled pixel takes from the second nearest pixel of the small image along each axis. Between
# repetition (0) and bilinear interpolation (1/4) the replicas are strong and the edges are not yet blocks.
FAR = 1 / 16
NEAR = 1 - FAR
WEIGHT_NOISE = 0.02


def transposed_conv(z_C1HW: Tensor, generator: torch.Generator) -> Tensor:
    """Double an image by a transposed convolution, kernel 4, stride 2: (C, 1, H, W) to (C, 1, 2H, 2W)."""
    taps = (FAR, NEAR, NEAR, FAR)
    kernel = _noisy(_outer(taps, taps)[None, None], generator)
    return functional.conv_transpose2d(_bordered(z_C1HW), kernel, stride=2, padding=3)


def nearest_conv(z_C1HW: Tensor, generator: torch.Generator) -> Tensor:
    """Double an image by repeating its pixels and a convolution, kernel 3: (C, 1, H, W) to (C, 1, 2H, 2W)."""
    taps = (FAR, 1 - 2 * FAR, FAR)
    repeated = functional.interpolate(z_C1HW, scale_factor=2, mode="nearest")
    return functional.conv2d(_bordered(repeated), _noisy(_outer(taps, taps)[None, None], generator))


def pixel_shuffle(z_C1HW: Tensor, generator: torch.Generator) -> Tensor:
    """Double an image by a convolution to four channels, kernel 3, that are interleaved: to (C, 1, 2H, 2W)."""
    phases = ((FAR, NEAR, 0.0), (0.0, NEAR, FAR))
    kernels = torch.stack([_outer(rows, columns) for rows in phases for columns in phases])[:, None]
    return functional.pixel_shuffle(functional.conv2d(_bordered(z_C1HW), _noisy(kernels, generator)), 2)


def _outer(rows: Sequence[float], columns: Sequence[float]) -> Tensor:
    # float64: the rounded pixels must not depend on the order in which a machine sums.
    return torch.outer(torch.tensor(rows, dtype=torch.float64), torch.tensor(columns, dtype=torch.float64))


def _noisy(kernel: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to the weights of a kernel and keep their sum, so that the mean brightness stays."""
    noise = torch.randn(kernel.shape, generator=generator, dtype=kernel.dtype)
    noisy = kernel + WEIGHT_NOISE * noise
    return noisy * (kernel.sum() / noisy.sum())


def _bordered(z_C1HW: Tensor) -> Tensor:
    # Zero padding would frame every fake with a dark line, a cue that is not the up-sampler's.
    return functional.pad(z_C1HW, (1, 1, 1, 1), mode="replicate")


UPSAMPLERS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "transposed_conv": transposed_conv,
    "nearest_conv": nearest_conv,
    "pixel_shuffle": pixel_shuffle,
}


def make_fake(image_HWC: NDArray[np.uint8], *, upsampler: str, seed: int) -> NDArray[np.uint8]:
    """Halve an image of even height and width, and double it again by one of UPSAMPLERS.

    The channels share their weights, so that a grey photograph stays grey.
    """
    x_C1HW = torch.tensor(image_HWC, dtype=torch.float64).permute(2, 0, 1)[:, None]
    z_C1HW = functional.interpolate(x_C1HW, scale_factor=0.5, mode="bicubic", antialias=True)
    y_C1HW = UPSAMPLERS[upsampler](z_C1HW, torch.Generator().manual_seed(seed))
    return y_C1HW.round().clamp(0, 255).to(torch.uint8)[:, 0].permute(1, 2, 0).contiguous().numpy()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: on small images, threads wait ten times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
