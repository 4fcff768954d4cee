"""An index of parquet shards -> endless training batches, balanced by class, read from the shards as they come.

Shards that are sorted by class and too large to be read at random still give mixed batches, because what is drawn
when, and reading it, are apart:

Order    a pure function of the index, the seed, the balance and the number of parts. A unit is the rows of one
         class in one row group. The units of a class are dealt to the parts once; in each part a lane of each
         class goes through its units in passes. The units of a pass form `open_shards` queues that are drawn from
         at random and end together, so that no row comes again before the pass is over; within a unit the rows
         are taken in ascending windows of about `window_mb`, shuffled inside a window.
Reading  a unit is read once a pass, from its first row on, and of each open unit no more than a window is held.

A process owns whole parts, and any number of processes that divides that of the parts draws the same batches.

Shape suffixes: N rows of the index, M rows of a class, U rows of a unit, D draws of a pass.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from data.choices import BALANCES
from data.images.views import TensorView
from data.loading.batches import LISTS_PER_WORKER, Batch, Sample, SampleDataset, Share, batch_loader
from data.loading.handover import PlacedLists
from data.seeds import draw_seed
from data.shards.index import ShardIndex
from data.shards.rows import Shard, read_rows
from gapl.labels import Label

MAX_COPIES = 4
_LISTS_AHEAD = 2
Item = TypeVar("Item")


def stream_batches(
    index: ShardIndex,
    view: TensorView,
    *,
    batch_size: int,
    pieces: int,
    num_workers: int,
    balance: str,
    seed: int,
    first_step: int,
    share: Share,
    num_parts: int | None = None,
    open_shards: int = 4,
    window_mb: float = 16,
) -> Iterator[Batch]:
    """Endless batches; every step is `pieces` of them, each of batch_size / (world * pieces) random views.

    The batch of a step is that of all parts (default: as many as processes), one after the other; this process
    has the parts rank, rank + world, ... In a part real and fake images alternate; the smaller class comes round
    more often. Same arguments, same batches, whatever the number of workers; and with the same `num_parts`,
    whatever the number of processes. `first_step` steps are skipped without reading, but for what lies before the
    next row in each open row group.

    balance  class         within a class every image is drawn once a pass
             generator     an image of a generator (or photo source) with n images is drawn 1/sqrt(n) as often, by
                           seeded chance in each pass; the generator in all, with weight sqrt(n)
             architecture  the same for the kinds of generators
    At most MAX_COPIES times a pass, though: copies are near each other, being read in one window. So a group of
    fewer than about (the class's images / the sum of all sqrt(n) / MAX_COPIES)^2 is drawn less often than its
    weight. Each view of an image has a seed of its own.

    Memory: a window for each open unit, at most (parts of this process) * 2 * open_shards of them, and the batches
    that are under way. An image that cannot be decoded is in Batch.failures, replaced by another of its class.

    Raises ValueError when the sizes do not divide, a class is missing or smaller than the number of parts, or the
    balance is unknown or without a column; and, between batches, when a shard cannot be read.
    """
    num_parts = share.world if num_parts is None else num_parts
    check_sizes(batch_size=batch_size, pieces=pieces, world=share.world, num_parts=num_parts)
    lanes = make_lanes(
        index, seed=seed, balance=balance, num_parts=num_parts, open_shards=open_shards, window_mb=window_mb
    )
    per_part = batch_size // num_parts
    parts = [
        draw_samples(index, lanes[part], part=part, seed=seed, first=first_step * per_part)
        for part in range(share.rank, num_parts, share.world)
    ]
    lists = split_steps(parts, per_part=per_part, size=batch_size // (share.world * pieces))
    ahead = read_ahead(lists, depth=_LISTS_AHEAD)
    if num_workers:
        ahead = PlacedLists(ahead, max_lists=1 + LISTS_PER_WORKER * num_workers)
    return iter(batch_loader(SampleDataset(view, replace_unreadable=True), ahead, num_workers=num_workers))


def check_sizes(*, batch_size: int, pieces: int, world: int, num_parts: int) -> None:
    """Raises ValueError when a step cannot be cut evenly."""
    if num_parts % world or num_parts < 1:
        raise ValueError(f"a stream of {num_parts} parts cannot be shared by {world} processes; choose a multiple")
    for divisor, name in ((num_parts, f"{num_parts} parts"), (world * pieces, f"{world} * {pieces} pieces")):
        if batch_size < 1 or divisor < 1 or batch_size % divisor:
            raise ValueError(f"a batch of {batch_size} cannot be cut in {name}; choose a multiple of {divisor}")


# ---------------------------------------------------------------------------------------------------------
# Order


@dataclass(frozen=True)
class Unit:
    """The rows of one class in one row group, or a range of them: read in one go.

    position_U   ascending, in the index
    weight_U     how often a row is drawn in a pass on average, at most MAX_COPIES
    window_rows  rows that are held, and shuffled, together
    """

    shard: Shard
    position_U: np.ndarray
    weight_U: np.ndarray
    window_rows: int

    def __len__(self) -> int:
        return len(self.position_U)

    def halves(self) -> tuple[Unit, Unit]:
        middle = len(self) // 2
        return (
            replace(self, position_U=self.position_U[:middle], weight_U=self.weight_U[:middle]),
            replace(self, position_U=self.position_U[middle:], weight_U=self.weight_U[middle:]),
        )

    def copies(self, rng: np.random.Generator) -> np.ndarray:
        """How often each row is drawn in a pass: the weight's integer part, and the rest by chance."""
        least_U = np.floor(self.weight_U).astype(np.int64)
        return least_U + (rng.random(len(self)) < self.weight_U - least_U)

    def shuffle(self, copies_U: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """position_D: window after window of the rows that are drawn at all, shuffled inside each."""
        window_U = (np.cumsum(copies_U > 0) - 1) // self.window_rows
        position_D, window_D = np.repeat(self.position_U, copies_U), np.repeat(window_U, copies_U)
        return position_D[np.lexsort((rng.random(len(position_D)), window_D))]


@dataclass(frozen=True)
class Lane:
    """The order in which one part of a stream draws the images of one class."""

    units: tuple[Unit, ...]
    open_shards: int
    seed: int

    def passes(self, first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The draws from number `first` on, endlessly, a pass at a time: unit_D (in `units`) and position_D."""
        for number in itertools.count():
            rng = np.random.default_rng(draw_seed(self.seed, number))
            copies = [unit.copies(rng) for unit in self.units]
            num_draws = sum(int(copies_U.sum()) for copies_U in copies)
            if first < num_draws:
                unit_D, position_D = self._order(copies, rng)
                yield unit_D[first:], position_D[first:]
            first = max(0, first - num_draws)

    def _order(self, copies: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        sizes = [int(copies_U.sum()) for copies_U in copies]
        queues = deal(sizes, rng.permutation(len(sizes)), num_hands=self.open_shards)
        one_by_one = list(itertools.chain.from_iterable(queues))
        unit_D = np.repeat(one_by_one, [sizes[unit] for unit in one_by_one])
        position_D = np.concatenate([self.units[unit].shuffle(copies[unit], rng) for unit in one_by_one])
        # Sorted times for each queue: all are drawn from, at random, from the start of the pass to its end. Were
        # the next unit opened wherever one ends, some would be left alone at the end of a pass.
        lengths = [sum(sizes[unit] for unit in units) for units in queues]
        time_D = np.concatenate([np.sort(rng.random(length)) for length in lengths])
        order_D = np.argsort(time_D, kind="stable")
        return unit_D[order_D], position_D[order_D]


def make_lanes(
    index: ShardIndex, *, seed: int, balance: str, num_parts: int, open_shards: int, window_mb: float
) -> list[tuple[Lane, Lane]]:
    """The (real, fake) lanes of each part. A part has of each class the same number of draws in a pass, to within
    a unit; where units are too few to be open, the largest are halved."""
    if open_shards < 1 or window_mb <= 0:
        raise ValueError(f"open_shards is at least 1 and window_mb above 0, not {open_shards} and {window_mb}")
    of_class, open_of_class = [], []
    for label in Label:
        units = find_units(index, label, balance, window_mb)
        open_of_class.append(open_in_part(len(units), num_parts=num_parts, open_shards=open_shards))
        # Two for each part at least, or one part would have twice the images of another.
        units = cut_units(units, num_parts * max(2, open_of_class[-1]))
        if len(units) < num_parts:
            raise ValueError(
                f"{index.name}: {len(units)} {label.name.lower()} images are too few for {num_parts} parts"
            )
        size_U = np.array([unit.weight_U.sum() for unit in units])
        shuffled = np.random.default_rng(draw_seed(seed, label)).permutation(len(units))
        largest_first = shuffled[np.argsort(-size_U[shuffled], kind="stable")]
        hands = deal(size_U, largest_first, num_hands=num_parts)
        of_class.append([tuple(units[unit] for unit in sorted(hand)) for hand in hands])
    open_real, open_fake = open_of_class
    return [
        (Lane(real, open_real, draw_seed(seed, part, 0)), Lane(fake, open_fake, draw_seed(seed, part, 1)))
        for part, (real, fake) in enumerate(zip(*of_class, strict=True))
    ]


def open_in_part(num_units: int, *, num_parts: int, open_shards: int) -> int:
    """How many units of a class a part has open: no more than there are for it, since to cut one is to read what
    lies before the cut for nothing; but all parts together have at least `open_shards`, for the mixing."""
    return max(-(-open_shards // num_parts), min(open_shards, num_units // num_parts))


def find_units(index: ShardIndex, label: Label, balance: str, window_mb: float) -> list[Unit]:
    """The rows of a class, by row group."""
    position_M = np.flatnonzero(index.label_N == label)
    if not len(position_M):
        raise ValueError(f"{index.name}: no {label.name.lower()} images; both classes are needed")
    weight_M = row_weights(index, position_M, balance)
    groups = [(shard, group) for shard in index.shards for group in range(len(shard.group_rows))]
    end_G = np.cumsum([shard.group_rows[group] for shard, group in groups])
    start_S = np.cumsum([0, *(shard.num_rows for shard in index.shards)])
    row_M = start_S[index.shard_N[position_M]] + index.row_N[position_M]  # counted through all shards
    group_M = np.searchsorted(end_G, row_M, side="right")
    starts = np.flatnonzero(np.diff(group_M, prepend=-1))
    units = []
    for start, end in itertools.pairwise((*starts, len(group_M))):
        shard, group = groups[group_M[start]]
        row_bytes = max(1, shard.group_bytes[group]) / shard.group_rows[group]
        window_rows = max(1, int(window_mb * 1e6 / row_bytes))
        units.append(Unit(shard, position_M[start:end], weight_M[start:end], window_rows))
    return units


def row_weights(index: ShardIndex, position_M: np.ndarray, balance: str) -> np.ndarray:
    """How often each of these rows, all of one class, is drawn in a pass on average; 1 in all, but for the cap."""
    if balance not in BALANCES:
        raise ValueError(f"unknown balance {balance!r}; choose from {', '.join(BALANCES)}")
    if balance == "class":
        return np.ones(len(position_M))
    if balance == "architecture" and not any(index.architectures):
        raise ValueError(f"{index.name}: no column architecture; choose the balance class or generator")
    group_M = (index.generator_N if balance == "generator" else index.architecture_N)[position_M]
    weight_M = 1 / np.sqrt(np.bincount(group_M)[group_M])
    return np.minimum(weight_M / weight_M.mean(), MAX_COPIES)


def cut_units(units: Sequence[Unit], least: int) -> list[Unit]:
    """At least that many units, or as many as there are rows: the largest are halved until there are."""
    units = list(units)
    while len(units) < least:
        largest = max(range(len(units)), key=lambda unit: len(units[unit]))
        if len(units[largest]) < 2:
            break
        units[largest : largest + 1] = units[largest].halves()
    return units


def deal(sizes: Sequence[float] | np.ndarray, order: Iterable[int], *, num_hands: int) -> list[list[int]]:
    """Each in that order to the hand that holds the least."""
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    held = np.zeros(num_hands)
    for item in order:
        least = int(held.argmin())
        hands[least].append(int(item))
        held[least] += sizes[item]
    return hands


# ---------------------------------------------------------------------------------------------------------
# Reading


def draw_samples(
    index: ShardIndex, lanes: tuple[Lane, Lane], *, part: int, seed: int, first: int
) -> Iterator[Sample]:
    """The samples of a part from number `first` on, endlessly; real and fake by turns."""
    # Half of the parts start with a fake, so that the parts' odd images are not all of one class.
    turn = part.bit_count()
    images = [read_lane(index, lanes[label], first=(first + (turn + label + 1) % 2) // 2) for label in Label]
    for number in itertools.count(first):
        position, encoded = next(images[(number + turn) % 2])
        yield Sample(index.record(position), draw_seed(seed, part, number), encoded)


def read_lane(index: ShardIndex, lane: Lane, *, first: int) -> Iterator[tuple[int, bytes]]:
    """(position in the index, encoded image) of every draw from number `first` on."""
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
    """Images of a shard by row, each given as often as it is in `row_D`.

    It reads on only as far as it is asked, and keeps an image only for uses that are to come. Asked for the rows
    window after window, it so holds a window at most.
    """

    def __init__(self, shard: Shard, row_D: np.ndarray) -> None:
        rows, counts = np.unique(row_D, return_counts=True)
        self.shard = shard
        self.uses = dict(zip(rows.tolist(), counts.tolist(), strict=True))
        self.held: dict[int, bytes] = {}
        self.images = read_rows(shard, rows.tolist())

    def take(self, row: int) -> bytes:
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
    """Step after step, `per_part` of each part, in lists of `size`."""
    while True:
        step = itertools.chain.from_iterable(itertools.islice(part, per_part) for part in parts)
        while items := list(itertools.islice(step, size)):
            yield items


def read_ahead(items: Iterator[Item], *, depth: int) -> Iterator[Item]:
    """Items made in a thread, `depth` of them ahead; what is raised there is raised here.

    The thread ends when this iterator is closed or collected.
    """
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(depth), threading.Event()

    def make() -> None:
        try:
            while room.acquire() and not stopped.is_set():
                made.put((next(items), None))
        except BaseException as error:  # to be raised where it is seen
            made.put((None, error))

    threading.Thread(target=make, name="read_ahead", daemon=True).start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback leads to this frame: a loader would outlive its use by the cycle
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()
