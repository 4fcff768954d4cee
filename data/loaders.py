"""Manifests -> batches: which image when, decoded and viewed in worker processes, reproducible from a seed.

Shape suffixes: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.decode import UnreadableImage, decode_image
from data.records import Label, Manifest, Record
from data.transforms import View, draw_seed, seeded

SAMPLINGS = ("shuffle", "class", "source")


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why."""

    record: Record
    reason: str


@dataclass(frozen=True)
class Batch:
    """labels_B is float32, 1 for fake. Images that could not be read are in `failures` and in nothing else."""

    pixels_BCHW: Tensor
    labels_B: Tensor
    records: list[Record]
    sizes: list[tuple[int, int]]
    failures: list[Failure]


class ImageDataset(Dataset[Any]):
    """Draws of a manifest: (index, seed) -> a viewed image; a seed of None is for deterministic views."""

    def __init__(self, manifest: Manifest, view: View, draws: Sequence[tuple[int, int | None]]) -> None:
        self.manifest, self.view, self.draws = manifest, view, draws

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, position: int) -> tuple[Record, tuple[int, int], Tensor] | Failure:
        index, seed = self.draws[position]
        record = self.manifest.records[index]
        try:
            image = decode_image(record.read_bytes())
        except (UnreadableImage, OSError) as error:
            return Failure(record, str(error))
        pixels_CHW = self.view(image) if seed is None else seeded(self.view, image, seed=seed)
        return record, image.size, pixels_CHW


def collate(samples: Sequence[tuple[Record, tuple[int, int], Tensor] | Failure]) -> Batch:
    failures = [sample for sample in samples if isinstance(sample, Failure)]
    read = [sample for sample in samples if not isinstance(sample, Failure)]
    return Batch(
        torch.stack([pixels_CHW for _, _, pixels_CHW in read]) if read else torch.empty(0),
        torch.tensor([float(record.label) for record, _, _ in read]),
        [record for record, _, _ in read],
        [size for _, size, _ in read],
        failures,
    )


def ordered_batches(
    manifest: Manifest, view: View, *, batch_size: int, num_workers: int, seed: int | None = None
) -> DataLoader[Any]:
    """Every image once, in the manifest's order. `seed` is for random views: the same one, the same views."""
    draws = [(index, None if seed is None else draw_seed(seed, index)) for index in range(len(manifest))]
    return _loader(ImageDataset(manifest, view, draws), batch_size, num_workers, drop_last=False)


def train_batches(
    manifest: Manifest,
    view: View,
    *,
    batch_size: int,
    num_workers: int,
    sampling: str,
    seed: int,
    epoch: int,
) -> DataLoader[Any]:
    """One epoch of random views. Same arguments, same batches, whatever the number of workers."""
    order = epoch_order(manifest, sampling=sampling, seed=draw_seed(seed, epoch))
    draws = [(index, draw_seed(seed, epoch, position)) for position, index in enumerate(order)]
    drop_last = len(draws) > batch_size  # a last batch of one or two images would be all noise
    return _loader(ImageDataset(manifest, view, draws), batch_size, num_workers, drop_last=drop_last)


def batches_per_epoch(num_images: int, batch_size: int) -> int:
    """How many batches train_batches gives for that many images."""
    return max(1, num_images // batch_size)


def epoch_order(manifest: Manifest, *, sampling: str, seed: int) -> list[int]:
    """Indices of as many draws as there are images.

    shuffle  every image once
    class    both classes equally often; the smaller class repeats
    source   both classes equally often; within a class, a generator or photo source of n images is drawn
             with weight sqrt(n), so that large ones do not drown small ones
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    if sampling == "shuffle":
        return torch.randperm(len(manifest), generator=generator).tolist()
    if sampling not in SAMPLINGS:
        raise ValueError(f"unknown sampling {sampling!r}; choose from {', '.join(SAMPLINGS)}")
    per_class = math.ceil(len(manifest) / 2)
    halves = [
        _class_draws(manifest, label, per_class, by_source=sampling == "source", generator=generator)
        for label in Label
    ]
    return [index for pair in zip(*halves, strict=True) for index in pair][: len(manifest)]


def _class_draws(
    manifest: Manifest, label: Label, count: int, *, by_source: bool, generator: torch.Generator
) -> list[int]:
    indices = [i for i, record in enumerate(manifest) if record.label == label]
    if not by_source:
        return list(_repeat_shuffled(indices, count, generator))
    of_source: dict[str, list[int]] = {}
    for index in indices:
        of_source.setdefault(manifest.records[index].generator, []).append(index)
    weights = torch.tensor([math.sqrt(len(members)) for members in of_source.values()])
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    members = list(of_source.values())
    # Within a source, every image comes once before any comes again.
    decks = [_repeat_shuffled(members[s], int((chosen == s).sum()), generator) for s in range(len(members))]
    return [next(decks[source]) for source in chosen.tolist()]


def _repeat_shuffled(indices: list[int], count: int, generator: torch.Generator) -> Iterator[int]:
    while count > 0:
        order = torch.randperm(len(indices), generator=generator).tolist()[:count]
        count -= len(order)
        yield from (indices[i] for i in order)


def _loader(dataset: ImageDataset, batch_size: int, num_workers: int, *, drop_last: bool) -> DataLoader[Any]:
    # Its own generator: making a loader must not move torch's global one.
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=min(num_workers, len(dataset)),
        collate_fn=collate,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )
