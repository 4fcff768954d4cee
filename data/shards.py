"""Parquet shards of encoded images: what is in them, told by footers and small columns; and their images by row.

Shape suffixes: N rows of the shards, M rows taken of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.folders import title
from data.records import Label, Record

IMAGE_COLUMN = "image_data"
_NEEDED = (IMAGE_COLUMN, "label", "model_name")
_OPTIONAL = ("real_source", "architecture")
_BATCH_BYTES = 8 << 20  # of images that are in memory at a time
_PIECE_BYTES = 1 << 20  # of a file, read at a time
_REQUEST_BYTES = 16 << 20  # asked of a server at a time while images are read
_THREADS = 16  # that wait for a disk or a server
_STREAMED = ("UNCOMPRESSED", "SNAPPY")
_ENCODINGS = {"PLAIN", "RLE", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_DICTIONARY_PAGE, _DATA_PAGES, _DATA_PAGE_V2 = 2, (0, 3), 3
_BY_DICTIONARY = (2, 8)  # encodings
_HEADER_BYTES = 1 << 12
_SNAPPY_WINDOW = 1 << 16  # how far back snappy refers
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
        )

    def where(self, mask_N: np.ndarray) -> ShardIndex:
        return self.take(np.flatnonzero(mask_N))

    def count(self, label: Label) -> int:
        return int(np.count_nonzero(self.label_N == label))

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


def find_shards(root: str | Path) -> list[str]:
    """Paths or URLs of the parquet files in `root` or `root/data`, sorted; `root` itself when it is one."""
    if url := as_url(root):
        with _naming(url):
            return sorted(filter(_is_shard, _list_remote(url)))
    path = Path(root)
    found = [path] if path.is_file() else chain(path.glob("*"), path.glob("data/*"))
    return sorted(filter(_is_shard, map(str, found)))


def _is_shard(url: str) -> bool:
    name = url.rpartition("/")[2]
    return name.lower().endswith(".parquet") and not name.startswith(".")


def _list_remote(url: str) -> list[str]:
    filesystem, path = _filesystem(url)
    if filesystem.info(path)["type"] == "file":
        return [url]
    entries = filesystem.ls(path, detail=True)
    folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
    for folder in folders:
        if folder.rstrip("/").rpartition("/")[2] == "data":
            entries += filesystem.ls(folder, detail=True)
    return [filesystem.unstrip_protocol(entry["name"]) for entry in entries if entry["type"] == "file"]


def holds_images(root: str | Path) -> bool:
    """Whether `root` is, or holds, parquet shards with encoded images in them."""
    shards = find_shards(root)
    if not shards:
        return False
    with _open(shards[0]) as (file, _):
        return IMAGE_COLUMN in file.schema_arrow.names


def read_index(root: str | Path) -> ShardIndex:
    """The rows of parquet shards (OwensLab/CommunityForensics and its kin), without reading an image.

    `root` is one parquet file, a folder of them, a folder with them in `data/`, or the URL of such, for instance
    `hf://datasets/OwensLab/CommunityForensics-Small`. Columns: `image_data`, `label` (0 real, 1 fake),
    `model_name`; for a photograph `real_source`, if there and not empty, names the source; `architecture`, if
    there. Shards may hold one class or both.

    Raises ValueError when there is no shard, one cannot be reached or read, a column is missing or a label is
    neither 0 nor 1.
    """
    urls = find_shards(root)
    if not urls:
        raise ValueError(f"{root}: no parquet shards; expected *.parquet in it or in its folder data")
    return index_files(_name(root), urls)


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
    return ShardIndex(
        name,
        shards,
        np.concatenate(
            [index.shard_N + start for index, start in zip(indexes, starts, strict=False)], dtype=np.int32
        ),
        np.concatenate([index.row_N for index in indexes]),
        np.concatenate([index.label_N for index in indexes]),
        generator_N,
        generators,
        architecture_N,
        architectures,
    )


def _join_names(parts: Sequence[tuple[np.ndarray, tuple[str, ...]]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(positions in names, names) of each part -> the same of all, every name once."""
    names = tuple(dict.fromkeys(name for _, names in parts for name in names))
    positions = {name: position for position, name in enumerate(names)}
    joined = [np.array([positions[name] for name in own], np.int32)[numbers] for numbers, own in parts]
    return np.concatenate(joined), names


def _name(root: str | Path) -> str:
    path = Path(_URL.sub(r"\g<path>", str(root)))
    return title(path.with_suffix("") if path.suffix.lower() == ".parquet" and not path.is_dir() else path)


def _index_file(url: str) -> ShardIndex:
    with _open(url, coalesce=True) as (file, stream):
        columns = _check_columns(url, file.schema_arrow)
        shard = _describe(url, stream.size(), file.metadata)
        labels = [_label(url, row, value) for row, value in enumerate(_labels(file))]
        table = file.read(columns=columns)
    values = {name: table[name].to_pylist() for name in columns}
    unknown = [None] * len(labels)
    sources, architectures = (values.get(name, unknown) for name in _OPTIONAL)
    generators = [
        str((source if label == Label.REAL else None) or model or "unknown")
        for label, source, model in zip(labels, sources, values["model_name"], strict=True)
    ]
    return ShardIndex(
        url,
        (shard,),
        np.zeros(len(labels), np.int32),
        np.arange(len(labels), dtype=np.int32),
        np.array(labels, np.uint8),
        *_number(generators),
        *_number([str(architecture or "") for architecture in architectures]),
    )


def _number(names: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each name's position among the different ones, and these."""
    positions: dict[str, int] = {}
    numbers = [positions.setdefault(name, len(positions)) for name in names]
    return np.array(numbers, np.int32), tuple(positions)


def _check_columns(url: str, schema: pa.Schema) -> list[str]:
    """The small columns that are there, without the label. Raises ValueError when one that is needed is not."""
    missing = [column for column in _NEEDED if column not in schema.names]
    if missing:
        raise ValueError(f"{url}: no column {', '.join(missing)}; found {', '.join(schema.names)}")
    kind = schema.field(IMAGE_COLUMN).type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(f"{url}: column {IMAGE_COLUMN} is {kind}; expected binary, the encoded images")
    return [column for column in ("model_name", *_OPTIONAL) if column in schema.names]


def _describe(url: str, num_bytes: int, footer: pq.FileMetaData) -> Shard:
    groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
    image_bytes = [_chunk(group, IMAGE_COLUMN).total_compressed_size for group in groups]
    return Shard(url, num_bytes, tuple(group.num_rows for group in groups), tuple(image_bytes))


def _chunk(group: pq.RowGroupMetaData, column: str) -> pq.ColumnChunkMetaData:
    chunks = (group.column(i) for i in range(group.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == column)


def _labels(file: pq.ParquetFile) -> Iterator[Any]:
    """The label of every row; the column is read where the footer does not tell that all are the same."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        known = _chunk(group, "label").statistics
        if known is not None and known.has_min_max and known.null_count == 0 and known.min == known.max:
            yield from [known.min] * group.num_rows
        else:
            yield from file.read_row_group(number, columns=["label"])["label"].to_pylist()


def _label(url: str, row: int, value: Any) -> int:
    if value not in (Label.REAL, Label.FAKE):
        raise ValueError(f"{url}, row {row}: label {value!r}; expected 0 (real) or 1 (fake)")
    return int(value)


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
        if _describe(shard.url, stream.size(), file.metadata) != shard:
            raise ValueError(f"{shard.url} has changed since its rows were listed; run the command again")
        starts = np.cumsum((0, *shard.group_rows))
        for group, (start, end) in enumerate(pairwise(starts)):
            inside = wanted[(start <= wanted) & (wanted < end)]
            for row, image in _read_group(file, stream, group, inside - start):
                yield int(start) + row, image


def _read_group(
    file: pq.ParquetFile, stream: pa.NativeFile, group: int, wanted: np.ndarray
) -> Iterator[tuple[int, bytes]]:
    """As read_rows, with rows counted from the start of the row group."""
    if not len(wanted):
        return
    chunk = _chunk(file.metadata.row_group(group), IMAGE_COLUMN)
    if chunk.compression in _STREAMED and set(chunk.encodings) <= _ENCODINGS:
        columns = (file.schema.column(i) for i in range(len(file.schema.names)))
        nullable = next(column for column in columns if column.path == IMAGE_COLUMN).max_definition_level > 0
        yield from _stream_values(stream, chunk, wanted, nullable=nullable)
    else:
        yield from _read_batches(file, group, wanted)


def _read_batches(file: pq.ParquetFile, group: int, wanted: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """By pyarrow, in small batches; they take the memory of a whole page twice all the same."""
    footer = file.metadata.row_group(group)
    num_bytes = _chunk(footer, IMAGE_COLUMN).total_compressed_size
    per_batch = max(1, _BATCH_BYTES * footer.num_rows // max(1, num_bytes))
    first = 0
    for batch in file.iter_batches(per_batch, row_groups=[group], columns=[IMAGE_COLUMN], use_threads=False):
        images, end = batch.column(0), first + len(batch)
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
        yield pq.ParquetFile(stream, pre_buffer=coalesce, buffer_size=_PIECE_BYTES), stream


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


# ---------------------------------------------------------------------------------------------------------
# A column chunk, value by value. pyarrow reads a page at a time and holds it twice; and its writer looks at a
# page's size after every 1,024 rows only: of images of 1.3 MB it makes pages of 1.3 GB, the first the dictionary.


@dataclass(frozen=True)
class _Page:
    """A page's header (field number -> value, as parquet.thrift numbers them) and where what follows it starts."""

    header: dict[int, Any]
    start: int


def _stream_values(
    stream: pa.NativeFile, chunk: pq.ColumnChunkMetaData, wanted: np.ndarray, *, nullable: bool
) -> Iterator[tuple[int, bytes]]:
    """(row, value) of the wanted rows of a chunk of binary values, in the memory of one; a null is empty."""
    first = 0
    try:
        for number_N, values in _parts(stream, chunk, nullable=nullable):
            rows = wanted[(first <= wanted) & (wanted < first + len(number_N))]
            yield from zip(rows.tolist(), _pick(values, number_N[rows - first].tolist()), strict=True)
            first += len(number_N)
            if wanted[-1] < first:
                return
    except (LookupError, RecursionError) as error:
        raise pa.ArrowInvalid("a page is damaged") from error
    raise pa.ArrowInvalid("its pages have fewer rows than its footer says")


def _parts(
    stream: pa.NativeFile, chunk: pq.ColumnChunkMetaData, *, nullable: bool
) -> Iterator[tuple[np.ndarray, _Bytes]]:
    """(which value each of the next rows has, -1 for a null; these values) for all rows, by page or dictionary."""
    dictionary: _Page | None = None
    shared: list[np.ndarray] = []
    for page in _pages(stream, chunk):
        if page.header[1] == _DICTIONARY_PAGE:
            dictionary = page
        elif page.header[1] in _DATA_PAGES:
            number_N, encoding, values = _open_page(stream, page, chunk.compression, nullable=nullable)
            if encoding in _BY_DICTIONARY:
                width = values.byte()
                number_N[number_N >= 0] = _unpack(values.rest(), width, int((number_N >= 0).sum()))
                shared.append(number_N)
                continue
            if shared and dictionary:
                yield np.concatenate(shared), _open_body(stream, dictionary, chunk.compression)
                shared = []
            yield number_N, values
    if shared and dictionary:
        yield np.concatenate(shared), _open_body(stream, dictionary, chunk.compression)


def _pick(values: _Bytes, numbers: list[int]) -> Iterator[bytes]:
    """The values of these numbers, which mostly ascend. Those that come again are kept until then."""
    uses = Counter(numbers)
    ascending = _read_plain(values, sorted(uses.keys() - {-1}))
    kept = {-1: b""}
    for number in numbers:
        while number not in kept:
            kept.update([next(ascending)])
        uses[number] -= 1
        yield kept[number] if uses[number] or number == -1 else kept.pop(number)


def _read_plain(values: _Bytes, numbers: list[int]) -> Iterator[tuple[int, bytes]]:
    """(number, value) of these ascending numbers; a value is its length and its bytes."""
    position = 0
    for number in numbers:
        for _ in range(position, number):
            values.skip(int.from_bytes(values.take(4), "little"))
        yield number, values.take(int.from_bytes(values.take(4), "little"))
        position = number + 1


def _pages(stream: pa.NativeFile, chunk: pq.ColumnChunkMetaData) -> Iterator[_Page]:
    start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    end = start + chunk.total_compressed_size
    while start < end:
        source = _Bytes(_read_pieces(stream, start, end, piece=_HEADER_BYTES))
        page = _Page(_read_struct(source), start + source.taken)
        facts = page.header.get(5) or page.header.get(8) or {}
        if page.header[3] < 0 or not 0 <= facts.get(1, 0) <= chunk.num_values:
            raise pa.ArrowInvalid("a page header is damaged")
        yield page
        start = page.start + page.header[3]


def _open_page(
    stream: pa.NativeFile, page: _Page, compression: str, *, nullable: bool
) -> tuple[np.ndarray, int, _Bytes]:
    """(which of the values each row has, -1 for a null; their encoding; the values) of a data page."""
    if page.header[1] == _DATA_PAGE_V2:
        facts = page.header[8]
        num_rows, encoding, level_bytes = facts[1], facts[4], facts[5] + facts[6]
        levels = _Bytes(_read_pieces(stream, page.start, page.start + level_bytes)).take(level_bytes)
        plain = not facts.get(7, True)
        values = _open_body(stream, page, "UNCOMPRESSED" if plain else compression, after=level_bytes)
    else:
        num_rows, encoding = page.header[5][1], page.header[5][2]
        values = _open_body(stream, page, compression)
        levels = values.take(int.from_bytes(values.take(4), "little")) if nullable else b""
    present_N = _unpack(levels, 1, num_rows) == 1 if nullable else np.ones(num_rows, bool)
    return np.where(present_N, np.cumsum(present_N) - 1, -1), encoding, values


def _open_body(stream: pa.NativeFile, page: _Page, compression: str, *, after: int = 0) -> _Bytes:
    """What follows a page's header, from the byte `after` on, without its compression."""
    body = _Bytes(_read_pieces(stream, page.start + after, page.start + page.header[3]))
    return _Bytes(_unsnap(body)) if compression == "SNAPPY" else body


def _read_pieces(stream: pa.NativeFile, start: int, end: int, *, piece: int = _PIECE_BYTES) -> Iterator[bytes]:
    for position in range(start, end, piece):
        yield stream.read_at(min(piece, end - position), position)


class _Bytes:
    """Bytes that come in pieces, taken one after the other. Raises pa.ArrowInvalid when they end too early."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._piece, self._position, self.taken = pieces, memoryview(b""), 0, 0

    def take(self, count: int) -> bytes:
        return b"".join(self._advance(count))

    def skip(self, count: int) -> None:
        for _ in self._advance(count):
            pass

    def rest(self) -> bytes:
        return b"".join((self._piece[self._position :], *self._pieces))

    def byte(self) -> int:
        if self._position == len(self._piece):
            return self.take(1)[0]
        self._position += 1
        self.taken += 1
        return self._piece[self._position - 1]

    def number(self) -> int:
        """Of a variable length: seven bits a byte, the low ones first."""
        value = shift = 0
        while (byte := self.byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise pa.ArrowInvalid("a number in a page is too long")
        return value | byte << shift

    def _advance(self, count: int) -> Iterator[memoryview]:
        while count > 0:
            if self._position == len(self._piece):
                self._piece, self._position = memoryview(next(self._pieces, b"")), 0
                if not self._piece:
                    raise pa.ArrowInvalid("a page ends too early")
            part = self._piece[self._position : self._position + count]
            self._position += len(part)
            self.taken += len(part)
            count -= len(part)
            yield part


def _read_struct(source: _Bytes) -> dict[int, Any]:
    """A structure of Thrift's compact protocol, as far as page headers use it: field number -> value."""
    fields: dict[int, Any] = {}
    field = 0
    while byte := source.byte():
        field = field + (byte >> 4) if byte >> 4 else _signed(source.number())
        match byte & 15:
            case 1 | 2 as kind:
                fields[field] = kind == 1
            case 4 | 5 | 6:
                fields[field] = _signed(source.number())
            case 8:
                fields[field] = source.take(source.number())
            case 12:
                fields[field] = _read_struct(source)
            case kind:
                raise pa.ArrowInvalid(f"a page header has a field of kind {kind}")
    return fields


def _signed(number: int) -> int:
    return number >> 1 ^ -(number & 1)


def _unpack(packed: bytes, width: int, count: int) -> np.ndarray:
    """`count` numbers of `width` bits from parquet's mixture of runs and packed groups of eight."""
    source, parts, missing = _Bytes(iter([packed])), [np.zeros(0, np.int64)], count
    while width and missing > 0:
        head = source.number()
        if head & 1:
            bits = np.unpackbits(np.frombuffer(source.take((head >> 1) * width), np.uint8), bitorder="little")
            parts.append(bits.reshape(-1, width)[:missing] @ (1 << np.arange(width)))
        else:
            value = int.from_bytes(source.take((width + 7) // 8), "little")
            parts.append(np.full(min(head >> 1, missing), value))
        missing -= len(parts[-1])
    return np.concatenate(parts) if width else np.zeros(count, np.int64)


def _unsnap(source: _Bytes) -> Iterator[bytes]:
    """The pieces of a snappy block, whose writers refer to no more than a window of what came before."""
    missing = source.number()
    recent, given = bytearray(), 0  # what came last, and how much of it was yielded
    while missing > 0:
        size = _unsnap_element(source, recent)
        missing -= size
        if len(recent) - given >= _PIECE_BYTES or missing <= 0:
            yield bytes(memoryview(recent)[given:])
            recent = recent[-_SNAPPY_WINDOW:]
            given = len(recent)


def _unsnap_element(source: _Bytes, recent: bytearray) -> int:
    """Appends a literal, or a copy of what came before, and returns its length."""
    tag = source.byte()
    kind, size = tag & 3, (tag >> 2) + 1
    if kind == 0:
        size = size if size <= 60 else int.from_bytes(source.take(size - 60), "little") + 1
        recent += source.take(size)
        return size
    if kind == 1:
        size, back = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | source.byte()
    else:
        back = int.from_bytes(source.take(2 if kind == 2 else 4), "little")
    if not 0 < back <= len(recent):
        raise pa.ArrowInvalid("a page's compression refers to what is not there")
    start = len(recent) - back
    recent += recent[start : start + size] if back >= size else (recent[start:] * (size // back + 1))[:size]
    return size
