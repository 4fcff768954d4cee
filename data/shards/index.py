"""Parquet shards of encoded images: what is in them, told by footers and small columns; and their images by row.

Shape suffixes: N rows of the shards, M rows taken of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.folders import title
from data.records import Record, list_sha256
from data.shards.columns import LABEL_COLUMN, LABELS, Columns, columns_of, image_leaf
from data.shards.pages import PIECE_BYTES, can_stream, stream_values
from gapl.labels import Label

IMAGE_COLUMN = "image_data"  # of Records' tables
_BATCH_BYTES = 8 << 20  # of images that are in memory at a time
_REQUEST_BYTES = 16 << 20  # asked of a server at a time while images are read
_THREADS = 16  # that wait for a disk or a server
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+]+):/+(?P<path>.*)", re.DOTALL)


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
        return sum(self.group_rows)


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
        return list_sha256((record.uri, record.label) for record in map(self.record, range(len(self))))

    def record(self, position: int) -> Record:
        """The record of a row; its image is not to be had from it."""
        uri = f"{self.shards[self.shard_N[position]].url}#{self.row_N[position]}"
        return Record(uri, Label(self.label_N[position]), self.generators[self.generator_N[position]])


def as_url(root: str | Path) -> str | None:
    """`root` as a URL of fsspec, also when a Path has eaten one of its slashes; None when it is a local path."""
    match = _URL.fullmatch(str(root))
    if not match:
        return None
    return str(root) if "://" in str(root) else f"{match['protocol']}://{match['path']}"


def find_shards(root: str | Path, *, folders: Sequence[str] = ("data",)) -> list[str]:
    """Paths or URLs of parquet files in `root` or these folders in it, sorted; `root` itself when it is one."""
    if url := as_url(root):
        with _naming(url):
            return sorted(filter(_is_shard, _list_remote(url, folders)))
    path = Path(root)
    found = [path] if path.is_file() else chain(path.glob("*"), *((path / name).glob("*") for name in folders))
    return sorted(filter(_is_shard, map(str, found)))


def _is_shard(url: str) -> bool:
    name = url.rpartition("/")[2]
    return name.lower().endswith(".parquet") and not name.startswith(".")


def _list_remote(url: str, wanted: Sequence[str]) -> list[str]:
    filesystem, path = _filesystem(url)
    if filesystem.info(path)["type"] == "file":
        return [url]
    entries = filesystem.ls(path, detail=True)
    folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
    for folder in folders:
        if folder.rstrip("/").rpartition("/")[2] in wanted:
            entries += filesystem.ls(folder, detail=True)
    return [filesystem.unstrip_protocol(entry["name"]) for entry in entries if entry["type"] == "file"]


def holds_images(root: str | Path) -> bool:
    """Whether `root` is, or holds, parquet shards with encoded images in them."""
    shards = find_shards(root)
    return bool(shards) and has_images(shards[0])


def has_images(shard: str) -> bool:
    """Whether this parquet file has encoded images in it. Raises ValueError when it cannot be read."""
    with _open(shard) as (file, _):
        return image_leaf(file.schema_arrow) is not None


def read_index(root: str | Path) -> ShardIndex:
    """The rows of parquet shards of the kinds in data.shards.columns, without reading an image.

    `root` is one parquet file, a folder of them, a folder with them in `data/`, or the URL of such, for instance
    `hf://datasets/OwensLab/CommunityForensics-Small`. Shards may hold one class or both.

    Raises ValueError when there is no shard, one cannot be reached or read, a column is missing or a label is
    neither 0 or real nor 1 or fake.
    """
    urls = find_shards(root)
    if not urls:
        raise ValueError(f"{root}: no parquet shards; expected *.parquet in it or in its folder data")
    return index_files(name_of(root), urls)


def index_files(name: str, urls: Sequence[str]) -> ShardIndex:
    """The rows of these shards, in this order, as read_index."""
    from tqdm import tqdm

    with ThreadPoolExecutor(min(_THREADS, len(urls))) as pool:
        indexes = tqdm(pool.map(_index_file, urls), "index", len(urls), unit="shard", delay=2, leave=False)
        return join_indexes(name, list(indexes))


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


def name_of(root: str | Path) -> str:
    """What shards at this path or URL are called."""
    path = Path(_URL.sub(r"\g<path>", str(root)))
    return title(path.with_suffix("") if path.suffix.lower() == ".parquet" and not path.is_dir() else path)


def _index_file(url: str) -> ShardIndex:
    with _open(url, coalesce=True) as (file, stream):
        columns = _check_columns(url, file.schema_arrow)
        shard = _describe(url, stream.size(), file)
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
        *_number(generators),
        *_number([str(architecture or "") for architecture in architectures]),
        *_number(models),
    )


def _number(names: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each name's position among the different ones, and these."""
    positions: dict[str, int] = {}
    numbers = [positions.setdefault(name, len(positions)) for name in names]
    return np.array(numbers, np.int32), tuple(positions)


def _check_columns(url: str, schema: pa.Schema) -> Columns:
    """Raises ValueError when one that is needed is not there."""
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


def _describe(url: str, num_bytes: int, file: pq.ParquetFile) -> Shard:
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    leaf = _image_leaf(url, file)
    image_bytes = [_chunk(group, leaf).total_compressed_size for group in groups]
    return Shard(url, num_bytes, tuple(group.num_rows for group in groups), tuple(image_bytes))


def _image_leaf(url: str, file: pq.ParquetFile) -> str:
    leaf = image_leaf(file.schema_arrow)
    if leaf is None:
        raise ValueError(f"{url}: no column of encoded images; found {', '.join(file.schema_arrow.names)}")
    return leaf


def _chunk(group: pq.RowGroupMetaData, column: str) -> pq.ColumnChunkMetaData:
    chunks = (group.column(i) for i in range(group.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == column)


def _labels(file: pq.ParquetFile) -> Iterator[Any]:
    """The label of every row; the column is read where the footer does not tell that all are the same."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        known = _chunk(group, LABEL_COLUMN).statistics
        if known is not None and known.has_min_max and known.null_count == 0 and known.min == known.max:
            yield from [known.min] * group.num_rows
        else:
            yield from file.read_row_group(number, columns=[LABEL_COLUMN])[LABEL_COLUMN].to_pylist()


def _label(url: str, row: int, value: Any) -> int:
    label = LABELS.get(value.lower() if isinstance(value, str) else value)
    if label is None:
        raise ValueError(f"{url}, row {row}: label {value!r}; expected 0 (real) or 1 (fake), or these words")
    return int(label)


def read_rows(shard: Shard, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(row, encoded image) of these ascending rows of a shard, in the memory of a few images.

    Row groups without any of them are not touched. What lies before the first wanted row of a group is read too.
    Compressions other than snappy and none take the memory of whole pages of the file. An image that is null is
    empty. Raises ValueError when the shard cannot be reached or read, or has changed.
    """
    wanted = np.asarray(rows, np.int64)
    assert np.all(np.diff(wanted) > 0)
    assert not len(wanted) or 0 <= wanted[0] <= wanted[-1] < shard.num_rows
    with _open(shard.url) as (file, stream):
        if _describe(shard.url, stream.size(), file) != shard:
            raise ValueError(f"{shard.url} has changed since its rows were listed; run the command again")
        starts = np.cumsum((0, *shard.group_rows))
        for group, (start, end) in enumerate(pairwise(starts)):
            inside = wanted[(start <= wanted) & (wanted < end)]
            for row, image in _read_group(file, stream, group, inside - start):
                yield int(start) + row, image


def split_uri(uri: str) -> tuple[str, int]:
    """(URL of the shard, row) of a record of an index; they sort as the images lie in the shards."""
    url, _, row = uri.rpartition("#")
    return url, int(row)


def read_records(records: Iterable[Record], shards: Mapping[str, Shard]) -> Iterator[tuple[Record, bytes]]:
    """(record, encoded image) of records in the order of split_uri, by read_rows of the shard each is in."""
    for url, of_shard in groupby(records, lambda record: split_uri(record.uri)[0]):
        records_of_shard = list(of_shard)
        images = read_rows(shards[url], [split_uri(record.uri)[1] for record in records_of_shard])
        for record, (_row, image) in zip(records_of_shard, images, strict=True):
            yield record, image


def _read_group(
    file: pq.ParquetFile, stream: pa.NativeFile, group: int, wanted: np.ndarray
) -> Iterator[tuple[int, bytes]]:
    """As read_rows, with rows counted from the start of the row group."""
    if not len(wanted):
        return
    leaf = image_leaf(file.schema_arrow)
    assert leaf is not None, "read_rows has described the file"
    chunk = _chunk(file.metadata.row_group(group), leaf)
    if can_stream(chunk):
        columns = (file.schema.column(i) for i in range(len(file.schema.names)))
        max_level = next(column for column in columns if column.path == leaf).max_definition_level
        yield from stream_values(stream, chunk, wanted, max_level=max_level)
    else:
        yield from _read_batches(file, group, wanted, leaf)


def _read_batches(file: pq.ParquetFile, group: int, wanted: np.ndarray, leaf: str) -> Iterator[tuple[int, bytes]]:
    """By pyarrow, in small batches; they take the memory of a whole page twice all the same."""
    footer = file.metadata.row_group(group)
    num_bytes = _chunk(footer, leaf).total_compressed_size
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


@contextmanager
def _open(url: str, *, coalesce: bool = False) -> Iterator[tuple[pq.ParquetFile, pa.NativeFile]]:
    """The shard and its bytes, open; what goes wrong with either while it is open is a ValueError.

    With `coalesce`, small columns that lie close are fetched together; else the file is streamed, for images.
    """
    with _naming(url), _open_bytes(url, ahead=not coalesce) as stream:
        # With pre_buffer pyarrow would hold a whole row group, and of images that may be a shard of 4 GB.
        yield pq.ParquetFile(stream, pre_buffer=coalesce, buffer_size=PIECE_BYTES), stream


@contextmanager
def _open_bytes(url: str, *, ahead: bool) -> Iterator[pa.NativeFile]:
    if as_url(url) is None:
        with pa.OSFile(url) as stream:
            yield stream
        return
    filesystem, path = _filesystem(url)
    cache = {"cache_type": "readahead", "block_size": _REQUEST_BYTES} if ahead else {"cache_type": "none"}
    with filesystem.open(path, "rb", **cache) as remote, pa.PythonFile(remote, mode="r") as stream:
        yield stream


def _filesystem(url: str) -> tuple[Any, str]:
    """The file system of fsspec that serves a URL, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:  # of a protocol that is not known, or needs another package
        raise ValueError(f"{url} cannot be reached: {error}") from error


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Every failure to read names the file in one line."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = (
            "read as parquet" if as_url(url) is None or isinstance(error, pa.ArrowException) else "reached or read"
        )
        raise ValueError(f"{url} cannot be {kind}: {_first_line(error)}") from error
    except (ValueError, AssertionError):
        raise
    except Exception as error:  # each file system of fsspec has its own, which are no OSErrors
        raise ValueError(f"{url} cannot be reached or read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
