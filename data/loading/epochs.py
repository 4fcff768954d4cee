"""Draw the epochs of a manifest: which image comes when, on which rank, reproducible from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

from data.choices import SAMPLINGS
from data.images.views import TensorView
from data.loading.batches import SampleDataset
from data.loading.loader import batch_loader
from data.loading.plan import ALONE, BatchPlan, Rank
from data.loading.samples import Sample
from data.records import Manifest
from data.seeds import draw_seed
from gapl.labels import Label

Draw = TypeVar("Draw")


def ordered_batches(
    manifest: Manifest, view: TensorView, *, batch_size: int, num_workers: int, rank: Rank = ALONE
) -> DataLoader[Any]:
    """Batch every image once, by a view that is not random, in the manifest's order.

    Of several ranks, each takes every `world_size`-th image.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least 1 image, not {batch_size}")
    samples = list(map(Sample, manifest.records[rank.index :: rank.world_size]))
    batches = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    dataset = SampleDataset(view, replace_unreadable=False)
    return batch_loader(dataset, batches, num_workers=min(num_workers, len(batches)))


def train_batches(
    manifest: Manifest, view: TensorView, plan: BatchPlan, *, sampling: str, epoch: int, first_batch: int = 0
) -> DataLoader[Any]:
    """Make one epoch of random views from `first_batch` on: this rank's micro-batches, `micro_batches` a batch.

    Same arguments, same batches, whatever the number of workers; and what all ranks have together is the batches
    of a single one.
    """
    order = epoch_order(manifest, sampling=sampling, seed=draw_seed(plan.seed, epoch))
    samples = [
        Sample(manifest.records[index], draw_seed(plan.seed, epoch, position))
        for position, index in enumerate(order)
    ]
    batches = split_batches(samples, plan, first_batch=first_batch)
    dataset = SampleDataset(view, replace_unreadable=True)
    return batch_loader(dataset, batches, num_workers=min(plan.num_workers, len(batches)))


def split_batches(draws: Sequence[Draw], plan: BatchPlan, *, first_batch: int = 0) -> list[list[Draw]]:
    """Cut the draws into batches, and return this rank's micro-batches of them from `first_batch` on.

    A rank's part of a batch is contiguous, so that pairs of a real and a fake image stay together. A last short
    batch, which would be all noise, is left out, unless it is the only one.

    Raises ValueError when a batch has too few images for the ranks.
    """
    rank, micro_batches = plan.rank, plan.micro_batches
    in_all = micro_batches * rank.world_size
    size = min(plan.batch_size, len(draws)) // in_all
    if size < 1:
        raise ValueError(
            f"{len(draws)} training images in batches of {plan.batch_size} are too few for {in_all} micro-batches "
            f"({rank.world_size} processes, {micro_batches} each)"
        )
    starts = range(first_batch * size * in_all, len(draws) - size * in_all + 1, size * in_all)
    mine = [
        start + (rank.index * micro_batches + number) * size for start in starts for number in range(micro_batches)
    ]
    return [list(draws[start : start + size]) for start in mine]


def batches_per_epoch(num_images: int, batch_size: int) -> int:
    """Return how many batches train_batches makes of that many images."""
    return max(1, num_images // batch_size)


def epoch_order(manifest: Manifest, *, sampling: str, seed: int) -> list[int]:
    """Return indices of as many draws as there are images.

    shuffle  every image once
    class    both classes equally often; the smaller class repeats
    source   both classes equally often; within a class, a generator or real source of n images is drawn
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
    assert indices, "require_both_classes comes first"
    while count > 0:
        order = torch.randperm(len(indices), generator=generator).tolist()[:count]
        count -= len(order)
        yield from (indices[i] for i in order)
