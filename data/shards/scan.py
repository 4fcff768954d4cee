"""Index parquet shards by their footers and small columns. No image is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.shards.files import find_shards
from data.shards.index import Names, ShardIndex, join_indexes
from data.shards.urls import name_of
from data.words import LABELS_EXPECTED, parse_label
from gapl.labels import Label
from gapl.shards.columns import LABEL_COLUMN, Columns, columns_of, image_leaf
from gapl.shards.files import open_shard
from gapl.shards.rows import chunk_of, describe

_THREADS = 16  # that wait for a disk or a server


def holds_images(root: str | Path) -> bool:
    """Return whether `root` is, or contains, parquet shards of encoded images."""
    shards = find_shards(root)
    return bool(shards) and has_images(shards[0])


def has_images(shard: str) -> bool:
    """Return whether this parquet file contains encoded images. Raises ValueError when it cannot be read."""
    with open_shard(shard) as (file, _):
        return image_leaf(file.schema_arrow) is not None


def read_index(root: str | Path) -> ShardIndex:
    """Index the rows of parquet shards of the kinds in gapl.shards.columns, without reading an image.

    `root` is one parquet file, a folder of them, a folder with them in `data/`, or the URL of such, for instance
    `hf://datasets/OwensLab/CommunityForensics-Small`. Shards may hold one class or both.

    Raises ValueError when there is no shard, one cannot be reached or read, a column is missing or a label is
    none that data.words knows.
    """
    urls = find_shards(root)
    if not urls:
        raise ValueError(f"{root}: no parquet shards; expected *.parquet in it or in its folder data")
    return index_files(name_of(root), urls)


def index_files(name: str, urls: Sequence[str]) -> ShardIndex:
    """Index these shards in this order, as read_index does."""
    from tqdm import tqdm

    with ThreadPoolExecutor(min(_THREADS, len(urls))) as pool:
        indexes = tqdm(pool.map(_index_file, urls), "index", len(urls), unit="shard", delay=2, leave=False)
        return join_indexes(name, list(indexes))


def _index_file(url: str) -> ShardIndex:
    with open_shard(url, coalesce=True) as (file, stream):
        columns = _check_columns(url, file.schema_arrow)
        shard = describe(url, stream.size(), file)
        labels = [_label(url, row, value) for row, value in enumerate(_labels(file))]
        small = [columns.generator, columns.source, columns.architecture]
        table = file.read(columns=[name for name in small if name in file.schema_arrow.names])
    unknown = [None] * len(labels)
    named, sources, architectures = (
        table[name].to_pylist() if name in table.column_names else unknown for name in small
    )
    models = [str(model or "") for model in named]
    generators = [
        str((source if label == Label.REAL else None) or model or "unknown")
        for label, source, model in zip(labels, sources, models, strict=True)
    ]
    return ShardIndex(
        url,
        (shard,),
        np.zeros(len(labels), np.int32),
        np.arange(len(labels), dtype=np.int32),
        np.array(labels, np.uint8),
        Names.of(generators),
        Names.of(str(architecture or "") for architecture in architectures),
        Names.of(models),
    )


def _check_columns(url: str, schema: pa.Schema) -> Columns:
    """Return the shard's columns. Raises ValueError when one that is needed is not there."""
    columns = columns_of(schema.names)
    missing = [column for column in columns.needed() if column not in schema.names]
    if missing:
        raise ValueError(f"{url}: no column {', '.join(missing)}; found {', '.join(schema.names)}")
    if image_leaf(schema) is None:
        raise ValueError(
            f"{url}: column {columns.image} is {schema.field(columns.image).type}; expected binary, the encoded "
            "images, or a struct with them in its field bytes"
        )
    return columns


def _labels(file: pq.ParquetFile) -> Iterator[Any]:
    """Yield the label of every row; where the footer tells that all are the same, the column is not read."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        known = chunk_of(group, LABEL_COLUMN).statistics
        if known is not None and known.has_min_max and known.null_count == 0 and known.min == known.max:
            yield from [known.min] * group.num_rows
        else:
            yield from file.read_row_group(number, columns=[LABEL_COLUMN])[LABEL_COLUMN].to_pylist()


def _label(url: str, row: int, value: Any) -> int:
    label = parse_label(value)
    if label is None:
        raise ValueError(f"{url}, row {row}: label {value!r}; expected {LABELS_EXPECTED}")
    return int(label)
