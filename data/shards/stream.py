"""Stream training batches endlessly from parquet shards, each of which is read once a pass.

data/shards/order.py decides what is drawn and when; this module reads it. A unit is read from its first row on,
and no more than one window of each open unit is held. A rank owns whole parts of the stream.

Shape suffixes: D draws of a pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from data.images.views import TensorView
from data.loading.batches import Batch, SampleDataset
from data.loading.loader import batch_loader, read_ahead
from data.loading.plan import BatchPlan
from data.loading.samples import Sample
from data.seeds import draw_seed
from data.shards.index import ShardIndex
from data.shards.order import Lane, Order, make_lanes
from gapl.labels import Label
from gapl.shards.rows import Shard, read_rows

_LISTS_AHEAD = 2
Item = TypeVar("Item")


def stream_batches(
    index: ShardIndex, view: TensorView, plan: BatchPlan, order: Order, *, first_step: int
) -> Iterator[Batch]:
    """Yield this rank's micro-batches endlessly, `micro_batches` a step, of random views.

    The batch of a step joins the batches of all parts of the stream; a rank has the parts rank, rank + world size,
    ... In each part real and fake images alternate, so the smaller class is repeated more often. The same
    arguments give the same batches for any number of workers and, with the same number of parts, for any number of
    ranks. `first_step` steps are skipped without reading, except for what lies before the next row in each open
    row group. Each view of an image has a seed of its own.

    Memory: a window for each open unit, at most (parts of this rank) * 2 * open_shards of them, and the batches
    that are under way. An image that cannot be decoded is in Batch.failures, replaced by another of its class.

    Raises ValueError when the sizes do not divide, a class is missing or smaller than the number of parts, or the
    balance has no column; and, between batches, when a shard cannot be read.
    """
    check_sizes(plan, num_parts=order.num_parts)
    rank, per_part = plan.rank, plan.batch_size // order.num_parts
    lanes = make_lanes(index, order, seed=plan.seed)
    parts = [
        draw_samples(index, lanes[part], part=part, seed=plan.seed, first=first_step * per_part)
        for part in range(rank.index, order.num_parts, rank.world_size)
    ]
    size = plan.batch_size // (rank.world_size * plan.micro_batches)
    lists = read_ahead(split_steps(parts, per_part=per_part, size=size), depth=_LISTS_AHEAD)
    return iter(batch_loader(SampleDataset(view, replace_unreadable=True), lists, num_workers=plan.num_workers))


def check_sizes(plan: BatchPlan, *, num_parts: int) -> None:
    """Raise ValueError when a step cannot be cut evenly into the parts of a stream and into micro-batches."""
    size, world_size, micro_batches = plan.batch_size, plan.rank.world_size, plan.micro_batches
    if num_parts % world_size:
        raise ValueError(
            f"a stream of {num_parts} parts cannot be shared by {world_size} processes; choose a multiple"
        )
    in_all = f"{world_size} * {micro_batches} micro-batches"
    for divisor, name in ((num_parts, f"{num_parts} parts"), (world_size * micro_batches, in_all)):
        if size < 1 or divisor < 1 or size % divisor:
            raise ValueError(f"a batch of {size} cannot be cut in {name}; choose a multiple of {divisor}")


def draw_samples(
    index: ShardIndex, lanes: tuple[Lane, Lane], *, part: int, seed: int, first: int
) -> Iterator[Sample]:
    """Yield the samples of a part from number `first` on, endlessly; real and fake by turns."""
    # Half of the parts start with a fake, so that the parts' odd images are not all of one class.
    turn = part.bit_count()
    images = [read_lane(index, lanes[label], first=(first + (turn + label + 1) % 2) // 2) for label in Label]
    for number in itertools.count(first):
        position, encoded = next(images[(number + turn) % 2])
        yield Sample(index.record(position), draw_seed(seed, part, number), encoded)


def read_lane(index: ShardIndex, lane: Lane, *, first: int) -> Iterator[tuple[int, bytes]]:
    """Yield (position in the index, encoded image) of every draw from number `first` on."""
    for unit_D, position_D in lane.passes(first):
        readers: dict[int, UnitReader] = {}
        row_D = index.row_N[position_D]
        for unit, position, row in zip(unit_D, position_D, row_D, strict=True):
            if unit not in readers:
                readers[unit] = UnitReader(lane.units[unit].shard, row_D[unit_D == unit])
            yield int(position), readers[unit].take(int(row))
            if not readers[unit].uses:
                del readers[unit]
        assert not readers


class UnitReader:
    """Give the images of a shard by row, each as often as it occurs in `row_D`.

    It reads no further than it is asked to, and keeps an image only as long as it is needed again. Asked for rows
    window after window, it holds at most one window.
    """

    def __init__(self, shard: Shard, row_D: np.ndarray) -> None:
        rows, counts = np.unique(row_D, return_counts=True)
        self.shard = shard
        self.uses = dict(zip(rows.tolist(), counts.tolist(), strict=True))
        self.held: dict[int, bytes] = {}
        self.images = read_rows(shard, rows.tolist())

    def take(self, row: int) -> bytes:
        """Return the image of a row. Raises ValueError when the shard ends before it."""
        while row not in self.held:
            self._read_next()
        self.uses[row] -= 1
        if self.uses[row]:
            return self.held[row]
        del self.uses[row]
        return self.held.pop(row)

    def _read_next(self) -> None:
        try:
            row, self.held[row] = next(self.images)
        except StopIteration:
            raise ValueError(f"{self.shard.url} has fewer rows than when its index was read") from None


def split_steps(parts: Sequence[Iterator[Item]], *, per_part: int, size: int) -> Iterator[list[Item]]:
    """Yield step after step `per_part` items of each part, in lists of `size`."""
    while True:
        step = itertools.chain.from_iterable(itertools.islice(part, per_part) for part in parts)
        while items := list(itertools.islice(step, size)):
            yield items
