"""Encoded images of a parquet shard by row, in the memory of a few images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gapl.shards.columns import image_leaf
from gapl.shards.files import open_shard
from gapl.shards.pages import can_stream, stream_values

_BATCH_BYTES = 8 << 20  # of images that are in memory at a time


@dataclass(frozen=True)
class Shard:
    """A parquet file, as its footer describes it.

    url          path or URL
    num_bytes    of the file
    group_rows   rows of each row group
    group_bytes  of the image column, as it is compressed, in each row group
    """

    url: str
    num_bytes: int
    group_rows: tuple[int, ...]
    group_bytes: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Return the number of rows in all row groups."""
        return sum(self.group_rows)


@dataclass(frozen=True, slots=True)
class ShardRow:
    """The location of an image in a shard."""

    shard: Shard
    row: int

    def __str__(self) -> str:
        return f"{self.shard.url}#{self.row}"

    def read_bytes(self) -> bytes:
        """Return the encoded image; for many rows use read_rows. Raises OSError when the shard cannot be read."""
        try:
            ((_, encoded),) = read_rows(self.shard, [self.row])
        except ValueError as error:
            raise OSError(str(error)) from error
        return encoded


def read_rows(shard: Shard, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yield (row, encoded image) of these ascending rows of a shard, in the memory of a few images.

    Row groups without any of them are not touched; in the others, the rows before a wanted one are read too.
    Compressions other than snappy and none take the memory of whole pages of the file. An image that is null is
    empty. Raises ValueError when the shard cannot be reached or read, or has changed.
    """
    wanted = np.asarray(rows, np.int64)
    assert np.all(np.diff(wanted) > 0)
    assert not len(wanted) or 0 <= wanted[0] <= wanted[-1] < shard.num_rows
    with open_shard(shard.url) as (file, stream):
        if describe(shard.url, stream.size(), file) != shard:
            raise ValueError(f"{shard.url} has changed since its rows were listed; run the command again")
        starts = np.cumsum((0, *shard.group_rows))
        for group, (start, end) in enumerate(pairwise(starts)):
            inside = wanted[(start <= wanted) & (wanted < end)]
            for row, image in _read_group(file, stream, group, inside - start):
                yield int(start) + row, image


def describe(url: str, num_bytes: int, file: pq.ParquetFile) -> Shard:
    """Describe an open shard by its footer. Raises ValueError when it has no encoded images."""
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    leaf = image_leaf(file.schema_arrow)
    if leaf is None:
        raise ValueError(f"{url}: no column of encoded images; found {', '.join(file.schema_arrow.names)}")
    image_bytes = [chunk_of(group, leaf).total_compressed_size for group in groups]
    return Shard(url, num_bytes, tuple(group.num_rows for group in groups), tuple(image_bytes))


def chunk_of(group: pq.RowGroupMetaData, column: str) -> pq.ColumnChunkMetaData:
    """Return what the footer says of a column in a row group."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == column)


def _read_group(
    file: pq.ParquetFile, stream: pa.NativeFile, group: int, wanted: np.ndarray
) -> Iterator[tuple[int, bytes]]:
    """Yield what read_rows yields, with rows counted from the start of the row group."""
    if not len(wanted):
        return
    leaf = image_leaf(file.schema_arrow)
    assert leaf is not None, "read_rows has described the file"
    chunk = chunk_of(file.metadata.row_group(group), leaf)
    if can_stream(chunk):
        columns = (file.schema.column(i) for i in range(len(file.schema.names)))
        max_level = next(column for column in columns if column.path == leaf).max_definition_level
        yield from stream_values(stream, chunk, wanted, max_level=max_level)
    else:
        yield from _read_batches(file, group, wanted, leaf)


def _read_batches(file: pq.ParquetFile, group: int, wanted: np.ndarray, leaf: str) -> Iterator[tuple[int, bytes]]:
    """Yield what _read_group yields, by pyarrow in small batches, which take twice the memory of a page."""
    footer = file.metadata.row_group(group)
    num_bytes = chunk_of(footer, leaf).total_compressed_size
    per_batch = max(1, _BATCH_BYTES * footer.num_rows // max(1, num_bytes))
    first = 0
    for batch in file.iter_batches(per_batch, row_groups=[group], columns=[leaf], use_threads=False):
        images, end = batch.column(0), first + len(batch)
        images = pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images
        for row in wanted[(first <= wanted) & (wanted < end)].tolist():
            yield row, images[row - first].as_py() or b""
        if wanted[-1] < end:
            return
        first = end
