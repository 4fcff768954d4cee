"""The images of a benchmark -> what reading each of them tells, in worker processes."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from PIL import Image

from data.benchmark import Benchmark
from data.decode import UnreadableImage, decode_image
from data.records import Record
from data.shards import Shard, read_records, split_uri

_FILES_PER_PART = 32


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What reading an image told; of one that cannot be decoded just the reason."""

    uri: str
    sha256: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    num_bytes: int = 0
    error: str = ""


@dataclass(frozen=True)
class _Part:
    """Images that a worker reads in one go: some files, or all wanted rows of a shard."""

    records: tuple[Record, ...]
    shard: Shard | None = None


def read_facts(benchmark: Benchmark, *, num_workers: int) -> dict[str, ImageFacts]:
    """uri -> facts, every image read once by `num_workers` processes (0: by this one)."""
    from tqdm import tqdm

    records = benchmark.images().records
    parts = list(_split(records, benchmark.shards))
    facts: dict[str, ImageFacts] = {}
    bar = tqdm(total=len(records), desc=f"read {benchmark.name}", unit="image", delay=2)
    with bar, _mapping(parts, min(num_workers, len(parts))) as results:
        for of_part in results:
            facts.update((each.uri, each) for each in of_part)
            bar.update(len(of_part))
    return facts


def _split(records: Sequence[Record], shards: Mapping[str, Shard]) -> Iterator[_Part]:
    if shards:
        for url, of_shard in groupby(records, lambda record: split_uri(record.uri)[0]):
            yield _Part(tuple(of_shard), shards[url])
        return
    for start in range(0, len(records), _FILES_PER_PART):
        yield _Part(tuple(records[start : start + _FILES_PER_PART]))


@contextmanager
def _mapping(parts: Sequence[_Part], num_workers: int) -> Iterator[Iterator[list[ImageFacts]]]:
    """What is read of each part, in order. Workers end when the caller does, whatever ends it."""
    if not num_workers:
        yield map(_read_part, parts)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks of threads that may run here
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_leave_signals_to_parent)
    try:
        yield pool.map(_read_part, parts)
    except BrokenProcessPool as error:
        raise ValueError(f"a process that reads images has died ({error}); try with 0 workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_part(part: _Part) -> list[ImageFacts]:
    facts: list[ImageFacts] = []
    if part.shard is None:
        return [_read_file(record) for record in part.records]
    try:
        for record, encoded in read_records(part.records, {part.shard.url: part.shard}):
            facts.append(look_at(record.uri, encoded))
    except ValueError as error:  # the shard is damaged from here on
        facts += [ImageFacts(record.uri, error=str(error)) for record in part.records[len(facts) :]]
    return facts


def _read_file(record: Record) -> ImageFacts:
    try:
        return look_at(record.uri, record.read_bytes())
    except OSError as error:
        return ImageFacts(record.uri, error=error.strerror or str(error))


def look_at(uri: str, encoded: bytes) -> ImageFacts:
    """Decodes the whole image, as scoring would."""
    try:
        image = decode_image(encoded)
    except UnreadableImage as error:
        return ImageFacts(uri, error=str(error))
    with Image.open(io.BytesIO(encoded)) as opened:
        kind = opened.format or ""
    return ImageFacts(uri, hashlib.sha256(encoded).hexdigest(), kind, *image.size, len(encoded))
