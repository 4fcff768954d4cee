"""The rows of parquet shards without their images: what training splits and streams.

Shape suffixes: N rows of the shards, M rows taken of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from data.records import Manifest, Record, list_sha256
from data.shards.arrow_cache import CachedRow, copy_rows
from gapl.labels import Label, Source
from gapl.shards.files import as_url
from gapl.shards.rows import Shard, ShardRow


@dataclass(frozen=True, eq=False)
class Names:
    """A name of each row: `number_N` (int32) is its position in `names`, where each stands once."""

    number_N: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Number the names of rows."""
        positions: dict[str, int] = {}
        numbers = [positions.setdefault(name, len(positions)) for name in names]
        return cls(np.array(numbers, np.int32), tuple(positions))

    def __getitem__(self, position: int) -> str:
        return self.names[self.number_N[position]]

    def take(self, rows_M: np.ndarray) -> Names:
        """Return the names of the rows at these positions."""
        return replace(self, number_N=self.number_N[rows_M])


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """N rows of shards, ascending by (shard, row), without their images.

    shard_N        int32, position in `shards`
    row_N          int32, row in that shard
    label_N        uint8, 0 real, 1 fake
    generators     what made a fake, or where a real image is from. A name can stand for both.
    architectures  of the generators; "" is an unknown one
    models         what the column of generators says, of a real image too, where it can be the generator that the
                   real image is paired with
    """

    name: str
    shards: tuple[Shard, ...]
    shard_N: np.ndarray
    row_N: np.ndarray
    label_N: np.ndarray
    generators: Names
    architectures: Names
    models: Names

    streamed: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.row_N)

    def take(self, rows_M: np.ndarray) -> ShardIndex:
        """Return the rows at these ascending positions, of the same shards."""
        assert np.all(np.diff(rows_M) > 0)
        return replace(
            self,
            shard_N=self.shard_N[rows_M],
            row_N=self.row_N[rows_M],
            label_N=self.label_N[rows_M],
            generators=self.generators.take(rows_M),
            architectures=self.architectures.take(rows_M),
            models=self.models.take(rows_M),
        )

    def where(self, mask_N: np.ndarray) -> ShardIndex:
        """Return the rows whose mask is true, of the same shards."""
        return self.take(np.flatnonzero(mask_N))

    def record(self, position: int) -> Record:
        """Return the record of a row; to read many images use read_rows or read_samples."""
        location = ShardRow(self.shards[self.shard_N[position]], int(self.row_N[position]))
        return Record(location, Label(self.label_N[position]), self.generators[position])

    def uris(self) -> Iterator[str]:
        """Yield "<path or URL of the shard>#<row>" of every row, in order."""
        urls = [shard.url for shard in self.shards]
        return (f"{urls[n]}#{row}" for n, row in zip(self.shard_N.tolist(), self.row_N.tolist(), strict=True))

    def count(self, label: Label) -> int:
        """Return the number of rows of a class."""
        return int(np.count_nonzero(self.label_N == label))

    def sources(self) -> Counter[Source]:
        """Count the rows of each source."""
        pairs = np.stack([self.label_N, self.generators.number_N])
        unique, counts = np.unique(pairs, axis=1, return_counts=True)
        named = [Source(Label(int(label)), self.generators.names[number]) for label, number in unique.T]
        return Counter(dict(zip(named, counts.tolist(), strict=True)))

    def file_list_sha256(self) -> str:
        """Identify which rows, in any order, with which labels; as a manifest of the same rows."""
        return list_sha256(zip(self.uris(), map(Label, self.label_N.tolist()), strict=True))

    def local(self) -> Manifest:
        """Copy the images of just these rows to the Arrow cache, once, and return them in their order.

        Raises ValueError when there are no rows, or a shard cannot be read or has changed since it was indexed.
        """
        if not len(self):
            raise ValueError(f"{self.name}: its parquet shards have no rows")
        numbers = np.unique(self.shard_N)
        table = copy_rows([(self.shards[number], self.row_N[self.shard_N == number]) for number in numbers])
        assert len(table) == len(self)
        copies = (CachedRow(uri, table, row) for row, uri in enumerate(self.uris()))
        generators = map(self.generators.__getitem__, range(len(self)))
        return Manifest(self.name, tuple(map(Record, copies, map(Label, self.label_N.tolist()), generators)))

    def partition(self, sources: Collection[Source]) -> tuple[ShardIndex, ShardIndex]:
        """Return (rows of other sources, rows of these sources)."""
        chosen_N = np.zeros(len(self), dtype=bool)
        for label, name in sources:
            number = self.generators.names.index(name)
            chosen_N |= (self.label_N == label) & (self.generators.number_N == number)
        return self.where(~chosen_N), self.where(chosen_N)

    def split(self, fraction: float, *, max_images: int = 0, seed: int) -> tuple[ShardIndex, ShardIndex]:
        """Return (rest, drawn): `drawn` is the first rows of every shard: to read a row is to read those before.

        It is `fraction` of each class, at least one image when fraction > 0, and of each class at most half of
        `max_images` unless that is 0. Nothing is drawn by the seed.
        """
        del seed
        first_N = np.zeros(len(self), dtype=bool)
        for label in Label:
            rows = np.flatnonzero(self.label_N == label)
            limit = max(1, round(fraction * len(rows))) if fraction and len(rows) > 1 else 0
            limit = min(limit, max(1, max_images // 2)) if max_images else limit
            first_N[rows[self._by_depth(rows)][:limit]] = True
        return self.where(~first_N), self.where(first_N)

    def draw(self, count: int, *, seed: int) -> ShardIndex:
        """Return at most `count` rows, of each source as many as can be, those that stand first in their shards.

        Nothing is drawn by the seed.
        """
        del seed
        if len(self) <= count:
            return self
        ordered = self._by_depth(np.arange(len(self)))
        source_N = self.generators.number_N[ordered] * 2 + self.label_N[ordered]
        # In rounds: one row of each source, the one that stands first in its shard, then another.
        by_source = np.argsort(source_N, kind="stable")
        starts = np.flatnonzero(np.diff(source_N[by_source], prepend=-1))
        lengths = np.diff(starts, append=len(by_source))
        round_N = np.empty(len(ordered), dtype=np.int64)
        round_N[by_source] = np.arange(len(by_source)) - np.repeat(starts, lengths)
        return self.take(np.sort(ordered[np.argsort(round_N, kind="stable")][:count]))

    def _by_depth(self, rows: np.ndarray) -> np.ndarray:
        """Return the order that puts rows that stand first in their shards before those further on."""
        return np.lexsort((self.shard_N[rows], self.row_N[rows]))

    def image_bytes(self) -> int:
        """Return the compressed bytes of images that a pass reads: of all row groups that have any of the rows."""
        ends = [np.cumsum(shard.group_rows) for shard in self.shards]
        read = {
            (number, int(group))
            for number in np.unique(self.shard_N).tolist()
            for group in np.unique(np.searchsorted(ends[number], self.row_N[self.shard_N == number], "right"))
        }
        return sum(self.shards[number].group_bytes[group] for number, group in read)

    def is_remote(self) -> bool:
        """Return whether any of the shards is behind a URL."""
        return any(as_url(shard.url) for shard in self.shards)


def join_indexes(name: str, indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Join indexes. Raises ValueError when a shard occurs twice."""
    shards = tuple(shard for index in indexes for shard in index.shards)
    twice = [url for url, times in Counter(shard.url for shard in shards).items() if times > 1]
    if twice:
        raise ValueError(f"{name}: {len(twice)} shards are listed twice, the first is {twice[0]}")
    starts = np.cumsum([0, *(len(index.shards) for index in indexes[:-1])])
    moved = [index.shard_N + start for index, start in zip(indexes, starts, strict=True)]
    return ShardIndex(
        name,
        shards,
        np.concatenate(moved, dtype=np.int32),
        np.concatenate([index.row_N for index in indexes]),
        np.concatenate([index.label_N for index in indexes]),
        _join_names([index.generators for index in indexes]),
        _join_names([index.architectures for index in indexes]),
        _join_names([index.models for index in indexes]),
    )


def _join_names(columns: Sequence[Names]) -> Names:
    names = tuple(dict.fromkeys(name for column in columns for name in column.names))
    positions = {name: position for position, name in enumerate(names)}
    joined = [np.array([positions[name] for name in each.names], np.int32)[each.number_N] for each in columns]
    return Names(np.concatenate(joined), names)


def reading_order(record: Record) -> tuple[str, int]:
    """Return the key by which records are sorted to read each shard in one go."""
    location = record.location
    return (location.shard.url, location.row) if isinstance(location, ShardRow) else (record.uri, 0)
