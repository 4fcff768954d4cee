"""Turn encoded images into what detectors see of them: each is decoded once for all degradations and views.

Shape suffixes: B images that could be read, C channels, H, W pixels.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.images.degrade import content_seed
from data.images.views import eval_tensor_view
from data.loading.samples import Sample
from gapl.decode import UnreadableImage, decode_image, to_rgb
from gapl.pixels import PixelSpec

Degrade = Callable[..., Image.Image]  # (image, seed=...) -> image


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The facts about one image. `error` says why it could not be decoded, or is empty."""

    content_sha256: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    num_bytes: int = 0
    error: str = ""


@dataclass(frozen=True)
class VariantBatch:
    """`images` tells of every image; pixels[degradation][spec] is (B, C, H, W) of those without an error."""

    images: list[ImageInfo]
    pixels: dict[str, dict[PixelSpec, Tensor]] = field(default_factory=dict)

    def pin_memory(self) -> VariantBatch:
        """Return a copy in pinned memory; a DataLoader calls it where there is a GPU."""
        pinned = {
            name: {spec: pixels_BCHW.pin_memory() for spec, pixels_BCHW in of_spec.items()}
            for name, of_spec in self.pixels.items()
        }
        return VariantBatch(self.images, pinned)


class VariantDataset(Dataset[Any]):
    """Turn lists of samples into VariantBatches, in whatever process a loader runs it.

    degradations  by name; None leaves the image as it is. The seed of a random one is from the image's content.
    specs         of the detectors that will look at the images
    """

    def __init__(self, degradations: Mapping[str, Degrade | None], specs: Iterable[PixelSpec]) -> None:
        self.degradations = degradations
        self.views = {spec: eval_tensor_view(spec) for spec in specs}

    def __getitems__(self, samples: Sequence[Sample]) -> VariantBatch:
        seen = [self._see(sample) for sample in samples]
        infos = [info for info, _ in seen]
        readable = [pixels for _, pixels in seen if pixels is not None]
        if not readable:
            return VariantBatch(infos)
        pixels = {  # what is stacked is dropped: a batch may be as large as there is room for
            name: {spec: torch.stack([each[name].pop(spec) for each in readable]) for spec in self.views}
            for name in self.degradations
        }
        return VariantBatch(infos, pixels)

    def _see(self, sample: Sample) -> tuple[ImageInfo, dict[str, dict[PixelSpec, Tensor]] | None]:
        """Return the facts about an image, and what detectors see of it; None when it cannot be read."""
        info, image = _open(sample)
        if image is None:
            return info, None
        pixels = {}
        try:
            for name, degrade in self.degradations.items():
                shown = image if degrade is None else _degraded(image, degrade, info)
                pixels[name] = {spec: view(shown) for spec, view in self.views.items()}
        except UnreadableImage as error:  # of damage that shows in conversion alone
            return ImageInfo(info.content_sha256, num_bytes=info.num_bytes, error=str(error)), None
        return info, pixels


def _open(sample: Sample) -> tuple[ImageInfo, Image.Image | None]:
    """Return the facts about the image, and the image itself or None when it cannot be read."""
    try:
        encoded = sample.read_bytes()
    except OSError as error:
        return ImageInfo(error=error.strerror or str(error)), None
    sha256 = hashlib.sha256(encoded).hexdigest()
    try:
        image = decode_image(encoded)
    except UnreadableImage as error:
        return ImageInfo(sha256, num_bytes=len(encoded), error=str(error)), None
    with Image.open(io.BytesIO(encoded)) as header:
        format = header.format or ""
    return ImageInfo(sha256, image.width, image.height, format, len(encoded)), image


def _degraded(image: Image.Image, degrade: Degrade, info: ImageInfo) -> Image.Image:
    return degrade(to_rgb(image), seed=content_seed(info.content_sha256))
