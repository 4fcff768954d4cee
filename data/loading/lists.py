"""Let worker processes make something of lists of records, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from torch.utils.data import Dataset

from data.loading.loader import LISTS_PER_WORKER, batch_loader, read_ahead
from data.loading.samples import Sample, read_samples
from data.records import Record


def read_lists(
    lists: Iterable[Sequence[Record]], dataset: Dataset[Any], *, num_workers: int, go_on: bool = False
) -> Iterator[Any]:
    """Yield what the dataset makes of each list, as samples, in `num_workers` processes (0: in this one).

    The workers read files themselves. Rows of shards are read here, ahead, by read_samples, and handed over;
    records that are sorted by reading_order are read fastest.

    go_on   a row that a damaged shard does not give is a sample whose reading raises OSError; else ValueError is
            raised

    Raises ValueError when a worker process dies.
    """
    lists = [list(each) for each in lists]
    num_workers = min(num_workers, len(lists))
    samples = read_ahead(_sample_lists(lists, go_on=go_on), depth=LISTS_PER_WORKER)
    try:
        yield from batch_loader(dataset, samples, num_workers=num_workers)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"a process that decodes images has died ({reason}); try --num-workers 0") from error


def _sample_lists(lists: Sequence[Sequence[Record]], *, go_on: bool) -> Iterator[list[Sample]]:
    samples = read_samples(chain.from_iterable(lists), go_on=go_on)
    for each in lists:
        yield list(islice(samples, len(each)))
