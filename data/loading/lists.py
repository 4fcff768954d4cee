"""Lists of records -> what worker processes make of their images, in order.

The workers read files themselves; rows of shards are read here, each shard in one go, and handed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any

from torch.utils.data import Dataset

from data.loading.batches import LISTS_PER_WORKER, Sample, batch_loader
from data.loading.handover import Lost, PlacedLists
from data.records import Record
from data.shards.index import read_records, split_uri
from data.shards.rows import Shard
from data.shards.stream import read_ahead


def reading_order(record: Record, shards: Mapping[str, Shard]) -> tuple[str, int]:
    """Records sorted by it are read from each shard in one go."""
    return split_uri(record.uri) if _in_shards(record, shards) else (record.uri, 0)


def read_lists(
    lists: Iterable[Sequence[Record]],
    dataset: Dataset[Any],
    *,
    shards: Mapping[str, Shard],
    num_workers: int,
    go_on: bool = False,
) -> Iterator[Any]:
    """What the dataset makes of each list, as samples, in `num_workers` processes (0: in this one).

    lists   in the order of `reading_order`, as far as they are rows of shards
    shards  URL -> shard of the records that are "URL#row"
    go_on   what a damaged shard does not give is a sample whose reading raises OSError; else that is a ValueError

    Raises ValueError when a worker process dies.
    """
    lists = [list(each) for each in lists]
    num_workers = min(num_workers, len(lists))
    samples: Iterator[list[Sample]] = _sample_lists(lists, shards, go_on=go_on)
    if shards:
        samples = read_ahead(samples, depth=LISTS_PER_WORKER)
        if num_workers:
            samples = PlacedLists(samples, max_lists=1 + LISTS_PER_WORKER * num_workers)
    try:
        yield from batch_loader(dataset, samples, num_workers=num_workers)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"a process that decodes images has died ({reason}); try --num-workers 0") from error


def _sample_lists(
    lists: Sequence[Sequence[Record]], shards: Mapping[str, Shard], *, go_on: bool
) -> Iterator[list[Sample]]:
    samples = _samples(chain.from_iterable(lists), shards, go_on=go_on)
    for each in lists:
        yield list(islice(samples, len(each)))


def _samples(records: Iterable[Record], shards: Mapping[str, Shard], *, go_on: bool) -> Iterator[Sample]:
    for in_shards, together in groupby(records, lambda record: _in_shards(record, shards)):
        if not in_shards:
            yield from map(Sample, together)
            continue
        for url, of_shard in groupby(together, lambda record: split_uri(record.uri)[0]):
            yield from _rows(list(of_shard), shards[url], go_on=go_on)


def _rows(records: Sequence[Record], shard: Shard, *, go_on: bool) -> Iterator[Sample]:
    read = 0
    try:
        for record, encoded in read_records(records, {shard.url: shard}):
            read += 1
            yield Sample(record, None, encoded)
    except ValueError as error:
        if not go_on:
            raise
        yield from (Sample(record, None, Lost(str(error))) for record in records[read:])


def _in_shards(record: Record, shards: Mapping[str, Shard]) -> bool:
    return record.uri.rpartition("#")[0] in shards
