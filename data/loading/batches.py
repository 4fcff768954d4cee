"""Make batches of samples: decode and view images, as the worker processes of a loader do.

Shape suffixes: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.images.views import TensorView, seeded
from data.loading.samples import Sample
from data.records import Record
from data.seeds import draw_seed
from gapl.decode import UnreadableImage, decode_image


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why."""

    record: Record
    reason: str


@dataclass(frozen=True)
class Batch:
    """The images of a batch, or of a micro-batch, that could be read.

    pixels_BCHW  float32
    labels_B     float32, 1 for fake
    records      of the B images
    sizes        (width, height) of the B images in pixels, before they were viewed
    failures     the images that could not be read; they are in nothing else
    """

    pixels_BCHW: Tensor
    labels_B: Tensor
    records: list[Record]
    sizes: list[tuple[int, int]]
    failures: list[Failure]

    @property
    def inputs(self) -> Tensor:
        """What a detector takes in. Batches of features have the same property."""
        return self.pixels_BCHW

    def pin_memory(self) -> Batch:
        """Return a copy in pinned memory; a DataLoader calls it where there is a GPU."""
        return replace(self, pixels_BCHW=self.pixels_BCHW.pin_memory(), labels_B=self.labels_B.pin_memory())


@dataclass(frozen=True)
class _Viewed:
    """An image that could be read: its size before it was viewed, and its view."""

    record: Record
    size: tuple[int, int]
    pixels_CHW: Tensor


def view_samples(samples: Sequence[Sample], view: TensorView, *, replace_unreadable: bool) -> Batch:
    """Decode and view samples. Those that fail are left out, or replaced from their class in the batch.

    The replacement is another view of an image that could be read, so that the batch stays as large and as
    balanced as it was meant. Where the class has none, the batch is shorter.
    """
    viewed = [_view(sample, view) for sample in samples]
    failures = [each for each in viewed if isinstance(each, Failure)]
    if failures and replace_unreadable:
        viewed = [_replace(i, samples, viewed, view) for i in range(len(viewed))]
    read = [each for each in viewed if isinstance(each, _Viewed)]
    return Batch(
        torch.stack([each.pixels_CHW for each in read]) if read else torch.empty(0),
        torch.tensor([float(each.record.label) for each in read]),
        [each.record for each in read],
        [each.size for each in read],
        failures,
    )


def _view(sample: Sample, view: TensorView) -> _Viewed | Failure:
    try:
        image = decode_image(sample.read_bytes())
        pixels_CHW = view(image) if sample.seed is None else seeded(view, image, seed=sample.seed)
    except (UnreadableImage, OSError) as error:
        return Failure(sample.record, str(error))
    return _Viewed(sample.record, image.size, pixels_CHW)


def _replace(
    i: int, samples: Sequence[Sample], viewed: Sequence[_Viewed | Failure], view: TensorView
) -> _Viewed | Failure:
    """Return what was viewed of sample `i`; if it failed, another view of an image of its class."""
    if isinstance(viewed[i], _Viewed):
        return viewed[i]
    label = samples[i].record.label
    pairs = zip(samples, viewed, strict=True)
    others = [sample for sample, each in pairs if isinstance(each, _Viewed) and sample.record.label == label]
    if not others:
        return viewed[i]
    seed = draw_seed(samples[i].seed or 0, i)
    return _view(replace(others[seed % len(others)], seed=seed), view)


class SampleDataset(Dataset[Any]):
    """Make batches of lists of samples, in whatever process a loader runs it."""

    def __init__(self, view: TensorView, *, replace_unreadable: bool) -> None:
        self.view, self.replace_unreadable = view, replace_unreadable

    def __getitems__(self, samples: Sequence[Sample]) -> Batch:
        return view_samples(samples, self.view, replace_unreadable=self.replace_unreadable)
