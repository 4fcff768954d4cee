"""Rows of parquet shards -> Records, whose images are copied to the Arrow cache of `datasets` once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.records import Manifest
from data.shards.index import IMAGE_COLUMN, Shard, ShardIndex, as_url, read_index, read_rows

_PROGRESS_FROM_BYTES = 1 << 30


def read_shards(root: str | Path) -> Manifest:
    """All images of parquet shards, as data.shards.index.read_index finds them and cache_rows copies them."""
    return cache_rows(read_index(root))


def cache_rows(index: ShardIndex) -> Manifest:
    """The images of just these rows, in their order, from where each is read without touching others.

    They are copied once to the cache of `datasets` (HF_DATASETS_CACHE), where they take as much room as in the
    shards. Only shards behind a URL are fetched from a network.

    Raises ValueError when there are no rows, or a shard cannot be read or has changed since it was indexed.
    """
    if not len(index):
        raise ValueError(f"{index.name}: its parquet shards have no rows")
    table = _cache_images(index)
    assert len(table) == len(index)
    records = (replace(index.record(row), table=table, row=row) for row in range(len(index)))
    return Manifest(index.name, tuple(records))


# A shard, when it was changed, and the rows that are taken of it.
_Part = tuple[Shard, int, np.ndarray]


def _cache_images(index: ShardIndex) -> Any:
    """The images as one memory-mapped `datasets.Dataset`, copied when first asked for."""
    import datasets  # slow to import: not for those who have no shards

    rows_of = np.split(index.row_N, np.flatnonzero(np.diff(index.shard_N)) + 1)
    shards = [index.shards[position] for position in np.unique(index.shard_N)]
    parts = [_versioned(shard, rows) for shard, rows in zip(shards, rows_of, strict=True)]
    num_bytes = sum(shard.num_bytes * len(rows) // shard.num_rows for shard, _, rows in parts)
    try:
        with _progress_bar(shown=num_bytes >= _PROGRESS_FROM_BYTES):
            # Not load_dataset("parquet"): measured, it takes memory of more than four row groups.
            return datasets.Dataset.from_generator(
                _read_images,
                features=datasets.Features({IMAGE_COLUMN: datasets.Value("binary")}),
                gen_kwargs={"parts": parts},
                writer_batch_size=32,
            )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from error


def _versioned(shard: Shard, rows: np.ndarray) -> _Part:
    """What the cache is keyed by. Size and time make a changed shard another entry."""
    if as_url(shard.url):
        return shard, 0, rows
    path = Path(shard.url).resolve()
    return replace(shard, url=str(path)), path.stat().st_mtime_ns, rows


def _read_images(parts: list[_Part]) -> Iterator[dict[str, bytes]]:
    for shard, _time, rows in parts:
        for _row, image in read_rows(shard, rows):
            yield {IMAGE_COLUMN: image}


@contextmanager
def _progress_bar(*, shown: bool) -> Iterator[None]:
    """Hides the progress bar of `datasets` where the work takes seconds."""
    import datasets

    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
