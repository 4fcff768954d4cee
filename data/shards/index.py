"""The rows of parquet shards without their images: what training splits and streams.

Shape suffixes: N rows of the shards, M rows taken of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from data.records import Manifest, Record, list_sha256
from data.shards.arrow_cache import CachedRow, copy_rows
from data.shards.rows import Shard, ShardRow
from data.shards.urls import as_url
from gapl.labels import Label, Source


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """N rows of shards, ascending by (shard, row), without their images.

    shard_N         int32, position in `shards`
    row_N           int32, row in that shard
    label_N         uint8, 0 real, 1 fake
    generator_N     int32, position in `generators`: what made a fake, or where a photograph is from. A name can
                    stand for both; (label, generator) tells them apart.
    architecture_N  int32, position in `architectures`, where "" stands for an unknown one
    model_N         int32, position in `models`: what the column of generators says, of a photograph too, where it
                    can be the generator that the photograph is paired with
    """

    name: str
    shards: tuple[Shard, ...]
    shard_N: np.ndarray
    row_N: np.ndarray
    label_N: np.ndarray
    generator_N: np.ndarray
    generators: tuple[str, ...]
    architecture_N: np.ndarray
    architectures: tuple[str, ...]
    model_N: np.ndarray
    models: tuple[str, ...]

    streamed: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.row_N)

    def take(self, rows_M: np.ndarray) -> ShardIndex:
        """The rows at these ascending positions, of the same shards."""
        assert np.all(np.diff(rows_M) > 0)
        return replace(
            self,
            shard_N=self.shard_N[rows_M],
            row_N=self.row_N[rows_M],
            label_N=self.label_N[rows_M],
            generator_N=self.generator_N[rows_M],
            architecture_N=self.architecture_N[rows_M],
            model_N=self.model_N[rows_M],
        )

    def where(self, mask_N: np.ndarray) -> ShardIndex:
        return self.take(np.flatnonzero(mask_N))

    def count(self, label: Label) -> int:
        return int(np.count_nonzero(self.label_N == label))

    def sources(self) -> Counter[Source]:
        """Count the images of each source."""
        pairs, counts = np.unique(np.stack([self.label_N, self.generator_N]), axis=1, return_counts=True)
        named = [Source(Label(int(label)), self.generators[number]) for label, number in pairs.T]
        return Counter(dict(zip(named, counts.tolist(), strict=True)))

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
        labels = map(Label, self.label_N.tolist())
        generators = (self.generators[number] for number in self.generator_N.tolist())
        return Manifest(self.name, tuple(map(Record, copies, labels, generators)))

    def partition(self, sources: Collection[Source]) -> tuple[ShardIndex, ShardIndex]:
        """Return (images of other sources, images of these sources)."""
        number_of = {name: number for number, name in enumerate(self.generators)}
        chosen_N = np.zeros(len(self), dtype=bool)
        for label, name in sources:
            chosen_N |= (self.label_N == label) & (self.generator_N == number_of[name])
        return self.where(~chosen_N), self.where(chosen_N)

    def split(self, fraction: float, *, max_images: int = 0, seed: int) -> tuple[ShardIndex, ShardIndex]:
        """Return (rest, part): `part` is the first rows of every shard: to read a row is to read those before it.

        It is `fraction` of each class, at least one image when fraction > 0, and of each class at most half of
        `max_images` unless that is 0. Nothing is drawn by the seed.
        """
        del seed
        first_N = np.zeros(len(self), dtype=bool)
        for label in Label:
            rows = np.flatnonzero(self.label_N == label)
            limit = round(fraction * len(rows)) if len(rows) > 1 else 0
            limit = max(1, limit) if fraction and len(rows) > 1 else limit
            limit = min(limit, max(1, max_images // 2)) if max_images else limit
            first_N[self._first_in_shards(rows)[:limit]] = True
        return self.where(~first_N), self.where(first_N)

    def draw(self, count: int, *, seed: int) -> ShardIndex:
        """Return `count` rows at most, of each source as many as can be, those that stand first in their shards.

        Nothing is drawn by the seed.
        """
        del seed
        if len(self) <= count:
            return self
        return self.take(np.sort(self._evenly(np.arange(len(self)))[:count]))

    def _first_in_shards(self, rows: np.ndarray) -> np.ndarray:
        """Sort positions: those first in their shards before those further on."""
        return rows[np.lexsort((self.shard_N[rows], self.row_N[rows]))]

    def _evenly(self, rows: np.ndarray) -> np.ndarray:
        """Sort positions in rounds: one of each source, the one that stands first in its shard, then another."""
        ordered = self._first_in_shards(rows)
        source_N = self.generator_N[ordered] * 2 + self.label_N[ordered]
        by_source = np.argsort(source_N, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(source_N[by_source]) != 0])
        lengths = np.diff(np.r_[starts, len(by_source)])
        turn_N = np.empty(len(ordered), dtype=np.int64)
        turn_N[by_source] = np.arange(len(by_source)) - np.repeat(starts, lengths)
        return ordered[np.argsort(turn_N, kind="stable")]

    def image_bytes(self) -> int:
        """Of the row groups that have any of the rows, compressed: what a pass reads."""
        ends = [np.cumsum(shard.group_rows) for shard in self.shards]
        read = {
            (number, int(group))
            for number in np.unique(self.shard_N).tolist()
            for group in np.unique(np.searchsorted(ends[number], self.row_N[self.shard_N == number], "right"))
        }
        return sum(self.shards[number].group_bytes[group] for number, group in read)

    def is_remote(self) -> bool:
        return any(as_url(shard.url) for shard in self.shards)

    def file_list_sha256(self) -> str:
        """Identifies which rows, with which labels: as that of a manifest of the same rows."""
        return list_sha256(zip(self.uris(), map(Label, self.label_N.tolist()), strict=True))

    def uris(self) -> Iterator[str]:
        """Yield "<url>#<row>" of every row, in order."""
        urls = [shard.url for shard in self.shards]
        return (f"{urls[n]}#{row}" for n, row in zip(self.shard_N.tolist(), self.row_N.tolist(), strict=True))

    def record(self, position: int) -> Record:
        """Return the record of a row; to read many images use read_rows or read_samples."""
        location = ShardRow(self.shards[self.shard_N[position]], int(self.row_N[position]))
        return Record(location, Label(self.label_N[position]), self.generators[self.generator_N[position]])


def join_indexes(name: str, indexes: Sequence[ShardIndex]) -> ShardIndex:
    """One index of several; a shard that occurs twice is a user's mistake and raises ValueError."""
    shards = tuple(shard for index in indexes for shard in index.shards)
    twice = [url for url, times in Counter(shard.url for shard in shards).items() if times > 1]
    if twice:
        raise ValueError(f"{name}: {len(twice)} shards are listed twice, the first is {twice[0]}")
    starts = np.cumsum([0, *(len(index.shards) for index in indexes)])
    generator_N, generators = _join_names([(index.generator_N, index.generators) for index in indexes])
    architecture_N, architectures = _join_names([(index.architecture_N, index.architectures) for index in indexes])
    model_N, models = _join_names([(index.model_N, index.models) for index in indexes])
    return ShardIndex(
        name,
        shards,
        np.concatenate(
            [index.shard_N + start for index, start in zip(indexes, starts[:-1], strict=True)], dtype=np.int32
        ),
        np.concatenate([index.row_N for index in indexes]),
        np.concatenate([index.label_N for index in indexes]),
        generator_N,
        generators,
        architecture_N,
        architectures,
        model_N,
        models,
    )


def _join_names(parts: Sequence[tuple[np.ndarray, tuple[str, ...]]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(positions in names, names) of each part -> the same of all, every name once."""
    names = tuple(dict.fromkeys(name for _, names in parts for name in names))
    positions = {name: position for position, name in enumerate(names)}
    joined = [np.array([positions[name] for name in own], np.int32)[numbers] for numbers, own in parts]
    return np.concatenate(joined), names
