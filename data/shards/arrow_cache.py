"""Copies of rows of parquet shards in the Arrow cache of `datasets`, where any row can be read directly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gapl.shards.files import as_url
from gapl.shards.rows import Shard, read_rows

IMAGE_COLUMN = "image_data"
_PROGRESS_FROM_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class CachedRow:
    """The location of a copy of a shard's row: its uri, and its row in a memory-mapped `datasets.Dataset`."""

    uri: str
    table: Any
    row: int

    def __str__(self) -> str:
        return self.uri

    def read_bytes(self) -> bytes:
        """Return the encoded image."""
        return bytes(self.table[self.row][IMAGE_COLUMN])


# A shard, when it was changed, and the rows that are taken of it.
_Rows = tuple[Shard, int, np.ndarray]


def copy_rows(rows_of_shards: Sequence[tuple[Shard, np.ndarray]]) -> Any:
    """Return a memory-mapped `datasets.Dataset` with the images of just these rows in its column IMAGE_COLUMN.

    They are copied once to the cache of `datasets` (HF_DATASETS_CACHE), where they take as much room as in the
    shards. Only shards behind a URL are fetched from a network.

    Raises ValueError when a shard cannot be read or has changed since it was indexed.
    """
    import datasets  # slow to import: not for those who have no shards

    versioned = [_versioned(shard, rows) for shard, rows in rows_of_shards]
    num_bytes = sum(shard.num_bytes * len(rows) // shard.num_rows for shard, _, rows in versioned)
    try:
        with _progress_bar(shown=num_bytes >= _PROGRESS_FROM_BYTES):
            # Not load_dataset("parquet"): measured, it takes memory of more than four row groups.
            return datasets.Dataset.from_generator(
                _read_images,
                features=datasets.Features({IMAGE_COLUMN: datasets.Value("binary")}),
                gen_kwargs={"rows_of_shards": versioned},
                writer_batch_size=32,
            )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from error


def _versioned(shard: Shard, rows: np.ndarray) -> _Rows:
    """Return what the cache is keyed by: with size and time, a changed shard gets a new entry."""
    if as_url(shard.url):
        return shard, 0, rows
    path = Path(shard.url).resolve()
    return replace(shard, url=str(path)), path.stat().st_mtime_ns, rows


def _read_images(rows_of_shards: list[_Rows]) -> Iterator[dict[str, bytes]]:
    for shard, _time, rows in rows_of_shards:
        for _row, image in read_rows(shard, rows):
            yield {IMAGE_COLUMN: image}


@contextmanager
def _progress_bar(*, shown: bool) -> Iterator[None]:
    """Hide the progress bar of `datasets` unless `shown`."""
    import datasets

    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
