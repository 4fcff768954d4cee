"""Manifests -> batches: which image when, decoded and viewed in worker processes, reproducible from a seed.

Shape suffixes: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.choices import SAMPLINGS
from data.images.views import TensorView, seeded
from data.loading.handover import Lost, Place
from data.records import Manifest, Record
from data.seeds import draw_seed
from gapl.decode import UnreadableImage, decode_image
from gapl.labels import Label

LISTS_PER_WORKER = 2  # that a worker has in hand and before it
Draw = TypeVar("Draw")


@dataclass(frozen=True)
class Share:
    """This process among those that train together: `rank` of `world`."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """An image to be seen, by the view that `seed` stands for (None: a view that is not random).

    encoded   its bytes, where they are, or why they could not be read, when that was tried already
    """

    record: Record
    seed: int | None = None
    encoded: bytes | Place | Lost | None = None

    def read_bytes(self) -> bytes:
        """Raises OSError."""
        if self.encoded is None:
            return self.record.read_bytes()
        return self.encoded if isinstance(self.encoded, bytes) else self.encoded.read()


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

    def pin_memory(self) -> Batch:
        return replace(self, pixels_BCHW=self.pixels_BCHW.pin_memory(), labels_B=self.labels_B.pin_memory())


def view_samples(samples: Sequence[Sample], view: TensorView, *, replace_unreadable: bool) -> Batch:
    """The samples decoded and viewed; failed ones are left out, or replaced from their class in the batch.

    The replacement is another view of an image that could be read, so that the batch stays as large and as
    balanced as it was meant. Where the class has none, the batch is shorter.
    """
    seen = [_see(sample, view) for sample in samples]
    failures = [each for each in seen if isinstance(each, Failure)]
    if failures and replace_unreadable:
        seen = [_replace(i, samples, seen, view) for i in range(len(seen))]
    read = [each for each in seen if not isinstance(each, Failure)]
    return Batch(
        torch.stack([pixels_CHW for _, _, pixels_CHW in read]) if read else torch.empty(0),
        torch.tensor([float(record.label) for record, _, _ in read]),
        [record for record, _, _ in read],
        [size for _, size, _ in read],
        failures,
    )


Seen = tuple[Record, tuple[int, int], Tensor]


def _see(sample: Sample, view: TensorView) -> Seen | Failure:
    record, seed = sample.record, sample.seed
    try:
        image = decode_image(sample.read_bytes())
    except (UnreadableImage, OSError) as error:
        return Failure(record, str(error))
    return record, image.size, view(image) if seed is None else seeded(view, image, seed=seed)


def _replace(
    i: int, samples: Sequence[Sample], seen: Sequence[Seen | Failure], view: TensorView
) -> Seen | Failure:
    if not isinstance(failure := seen[i], Failure):
        return seen[i]
    label = failure.record.label
    others = [
        sample
        for sample, each in zip(samples, seen, strict=True)
        if not isinstance(each, Failure) and sample.record.label == label
    ]
    if not others:
        return failure
    seed = draw_seed(samples[i].seed or 0, i)
    return _see(replace(others[seed % len(others)], seed=seed), view)


class SampleDataset(Dataset[Any]):
    """Lists of samples -> batches, in whatever process a loader runs it."""

    def __init__(self, view: TensorView, *, replace_unreadable: bool) -> None:
        self.view, self.replace_unreadable = view, replace_unreadable

    def __getitems__(self, samples: Sequence[Sample]) -> Batch:
        return view_samples(samples, self.view, replace_unreadable=self.replace_unreadable)


class ManifestDataset(Dataset[Any]):
    """Lists of (index in the manifest, seed or None) -> batches."""

    def __init__(self, manifest: Manifest, view: TensorView, *, replace_unreadable: bool) -> None:
        self.records, self.view, self.replace_unreadable = manifest.records, view, replace_unreadable

    def __getitems__(self, draws: Sequence[tuple[int, int | None]]) -> Batch:
        samples = [Sample(self.records[index], seed) for index, seed in draws]
        return view_samples(samples, self.view, replace_unreadable=self.replace_unreadable)


def batch_loader(dataset: Dataset[Any], batches: Iterable[list[Any]], *, num_workers: int) -> DataLoader[Any]:
    """Each list is sent to a worker process and comes back as what the dataset makes of it, in order."""
    _end_workers_at_exit()
    return DataLoader(
        dataset,
        batch_sampler=batches,  # torch only iterates over it
        num_workers=num_workers,
        prefetch_factor=LISTS_PER_WORKER if num_workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: making a loader must not move torch's global one.
        generator=torch.Generator().manual_seed(0),
    )


def _leave_signals_to_parent(_worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach all processes of a group; the parent ends its workers when it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@cache
def _end_workers_at_exit() -> None:
    """An exception may hold a loader up to the interpreter's end, where multiprocessing sends SIGTERM to the
    workers, which ignore it, and waits for them."""
    atexit.register(_end_workers)


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises an error of its own
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _as_it_is(batch: Any) -> Any:
    return batch


def ordered_batches(
    manifest: Manifest,
    view: TensorView,
    *,
    batch_size: int,
    num_workers: int,
    share: Share = Share(),
) -> DataLoader[Any]:
    """Every image once by a view that is not random, in the manifest's order; of several processes, every
    `world`-th image."""
    if batch_size < 1:
        raise ValueError(f"a batch has at least 1 image, not {batch_size}")
    draws = [(index, None) for index in range(share.rank, len(manifest), share.world)]
    batches = [draws[start : start + batch_size] for start in range(0, len(draws), batch_size)]
    dataset = ManifestDataset(manifest, view, replace_unreadable=False)
    return batch_loader(dataset, batches, num_workers=min(num_workers, len(batches)))


def train_batches(
    manifest: Manifest,
    view: TensorView,
    *,
    batch_size: int,
    num_workers: int,
    sampling: str,
    seed: int,
    epoch: int,
    first_batch: int = 0,
    pieces: int = 1,
    share: Share = Share(),
) -> DataLoader[Any]:
    """One epoch of random views, from `first_batch` on: this process's part of every batch, in `pieces`.

    Same arguments, same batches, whatever the number of workers; and the parts of all processes together are
    the batches of one.
    """
    order = epoch_order(manifest, sampling=sampling, seed=draw_seed(seed, epoch))
    draws = [(index, draw_seed(seed, epoch, position)) for position, index in enumerate(order)]
    batches = split_batches(draws, batch_size=batch_size, first_batch=first_batch, pieces=pieces, share=share)
    dataset = ManifestDataset(manifest, view, replace_unreadable=True)
    return batch_loader(dataset, batches, num_workers=min(num_workers, len(batches)))


def split_batches(
    draws: Sequence[Draw], *, batch_size: int, first_batch: int, pieces: int, share: Share
) -> list[list[Draw]]:
    """`batch_size` draws after the other; of each this process's contiguous part (so that pairs of a real and a
    fake image stay together), cut in `pieces`.

    A last short batch, which would be all noise, is left out, unless it is the only one.
    """
    parts = pieces * share.world
    size = min(batch_size, len(draws)) // parts
    if size < 1:
        raise ValueError(
            f"{len(draws)} training images in batches of {batch_size} are too few for {parts} parts "
            f"({share.world} processes, {pieces} pieces each)"
        )
    starts = range(first_batch * size * parts, len(draws) - size * parts + 1, size * parts)
    mine = [start + (share.rank * pieces + piece) * size for start in starts for piece in range(pieces)]
    return [list(draws[start : start + size]) for start in mine]


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
    assert indices, "require_both_classes comes first"
    while count > 0:
        order = torch.randperm(len(indices), generator=generator).tolist()[:count]
        count -= len(order)
        yield from (indices[i] for i in order)
