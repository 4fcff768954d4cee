"""The order in which a stream draws rows of shards: mixed, though shards are sorted by class and read once a pass.

It is a pure function of the index, an Order and the seed. A unit is the rows of one class in one row group. The
units of a class are dealt to the parts of the stream once; in each part a lane of each class goes through its
units in passes. The units of a pass form `open_shards` queues that are drawn from at random and end together, so
that no row comes again before the pass is over; within a unit the rows are taken in ascending windows of about
`window_mb`, shuffled inside a window.

Shape suffixes: M rows of a class, U rows of a unit, D draws of a pass, G row groups, S shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.choices import BALANCES
from data.seeds import draw_seed
from data.shards.index import ShardIndex
from gapl.labels import Label
from gapl.shards.rows import Shard

MAX_COPIES = 4


@dataclass(frozen=True)
class Order:
    """What a stream draws, and how well it is mixed.

    balance      class         within a class every image is drawn once a pass
                 generator     an image of a generator (or real source) with n images is drawn 1/sqrt(n) as often,
                               by seeded chance in each pass; the generator in all, with weight sqrt(n)
                 architecture  the same for the kinds of generators
    num_parts    of the stream; each has a share of the shards, and any number of ranks that divides it draws the
                 same batches
    open_shards  that a part draws from at a time, for each class
    window_mb    of images of an open shard that are held, and shuffled, together

    An image is drawn at most MAX_COPIES times a pass: the copies are near each other, being read in one window. So
    a group of fewer than about (the class's images / the sum of all sqrt(n) / MAX_COPIES)^2 is drawn less often
    than its weight.
    """

    balance: str = "class"
    num_parts: int = 1
    open_shards: int = 4
    window_mb: float = 16

    def __post_init__(self) -> None:
        if self.balance not in BALANCES:
            raise ValueError(f"unknown balance {self.balance!r}; choose from {', '.join(BALANCES)}")
        if self.num_parts < 1:
            raise ValueError(f"num_parts is at least 1, not {self.num_parts}")
        if self.open_shards < 1 or self.window_mb <= 0:
            raise ValueError(
                f"open_shards is at least 1 and window_mb above 0, not {self.open_shards} and {self.window_mb}"
            )


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
        """Cut the unit in two."""
        middle = len(self) // 2
        return (
            replace(self, position_U=self.position_U[:middle], weight_U=self.weight_U[:middle]),
            replace(self, position_U=self.position_U[middle:], weight_U=self.weight_U[middle:]),
        )

    def copies(self, rng: np.random.Generator) -> np.ndarray:
        """Return how often each row is drawn in a pass: the weight's integer part, and the rest by chance."""
        least_U = np.floor(self.weight_U).astype(np.int64)
        return least_U + (rng.random(len(self)) < self.weight_U - least_U)

    def shuffle(self, copies_U: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return position_D: the drawn rows window after window, shuffled inside each."""
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
        """Yield unit_D (in `units`) and position_D of a pass at a time, endlessly, from draw number `first` on."""
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


def make_lanes(index: ShardIndex, order: Order, *, seed: int) -> list[tuple[Lane, Lane]]:
    """Return the (real, fake) lanes of each part.

    Of each class, the parts have the same number of draws in a pass, to within a unit; where units are too few to
    be open, the largest are halved.
    """
    real, fake = (_lanes_of(label, index, order, seed=seed) for label in Label)
    return list(zip(real, fake, strict=True))


def _lanes_of(label: Label, index: ShardIndex, order: Order, *, seed: int) -> list[Lane]:
    """Return the lane of each part for one class."""
    units = find_units(index, label, order)
    num_open = open_in_part(len(units), num_parts=order.num_parts, open_shards=order.open_shards)
    # Two for each part at least, or one part would have twice the images of another.
    units = cut_units(units, order.num_parts * max(2, num_open))
    if len(units) < order.num_parts:
        raise ValueError(f"{index.name}: {len(units)} {label.word} images are too few for {order.num_parts} parts")
    size_U = np.array([unit.weight_U.sum() for unit in units])
    shuffled = np.random.default_rng(draw_seed(seed, label)).permutation(len(units))
    largest_first = shuffled[np.argsort(-size_U[shuffled], kind="stable")]
    hands = deal(size_U, largest_first, num_hands=order.num_parts)
    return [
        Lane(tuple(units[unit] for unit in sorted(hand)), num_open, draw_seed(seed, part, int(label)))
        for part, hand in enumerate(hands)
    ]


def open_in_part(num_units: int, *, num_parts: int, open_shards: int) -> int:
    """Return how many units of a class a part has open at a time.

    It is no more than there are for it, since to cut one is to read what lies before the cut for nothing; but all
    parts together have at least `open_shards` open, for the mixing.
    """
    return max(-(-open_shards // num_parts), min(open_shards, num_units // num_parts))


def find_units(index: ShardIndex, label: Label, order: Order) -> list[Unit]:
    """Return the rows of a class, by row group."""
    position_M = np.flatnonzero(index.label_N == label)
    if not len(position_M):
        raise ValueError(f"{index.name}: no {label.word} images; both classes are needed")
    weight_M = row_weights(index, position_M, order.balance)
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
        window_rows = max(1, int(order.window_mb * 1e6 / row_bytes))
        units.append(Unit(shard, position_M[start:end], weight_M[start:end], window_rows))
    return units


def row_weights(index: ShardIndex, position_M: np.ndarray, balance: str) -> np.ndarray:
    """Return how often each of these rows of one class is drawn in a pass: 1 on average, before the cap."""
    if balance == "class":
        return np.ones(len(position_M))
    if balance == "architecture" and not any(index.architectures.names):
        raise ValueError(f"{index.name}: no column architecture; choose the balance class or generator")
    names = index.generators if balance == "generator" else index.architectures
    group_M = names.number_N[position_M]
    weight_M = 1 / np.sqrt(np.bincount(group_M)[group_M])
    return np.minimum(weight_M / weight_M.mean(), MAX_COPIES)


def cut_units(units: Sequence[Unit], least: int) -> list[Unit]:
    """Halve the largest units until there are `least`, or as many as there are rows."""
    units = list(units)
    while len(units) < least:
        largest = max(range(len(units)), key=lambda unit: len(units[unit]))
        if len(units[largest]) < 2:
            break
        units[largest : largest + 1] = units[largest].halves()
    return units


def deal(sizes: Sequence[float] | np.ndarray, order: Iterable[int], *, num_hands: int) -> list[list[int]]:
    """Deal items in this order, each to the hand that holds the least."""
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    held = np.zeros(num_hands)
    for item in order:
        least = int(held.argmin())
        hands[least].append(int(item))
        held[least] += sizes[item]
    return hands
