"""Make samples of records: images on their way to a view. Rows of a shard are read in one go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from data.records import Record, Row
from gapl.shards.rows import ShardRow, read_rows


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that is to be viewed.

    seed     of the random view; None for a view that is not random
    encoded  its bytes, when they have been read already
    lost     why its bytes could not be read, when that has been tried already
    """

    record: Record
    seed: int | None = None
    encoded: bytes | None = None
    lost: str = ""

    def read_bytes(self) -> bytes:
        """Return the encoded image. Raises OSError when it cannot be read."""
        if self.lost:
            raise OSError(self.lost)
        return self.record.read_bytes() if self.encoded is None else self.encoded


def read_samples(records: Iterable[Record], *, go_on: bool = False) -> Iterator[Sample]:
    """Make the samples of records in their order. Rows of shards are read here, files by who opens the sample.

    Neighbours that are ascending rows of one shard are read in one go.

    go_on   a row that a damaged shard does not give is a sample with `lost`; else ValueError is raised
    """
    for together in _runs(records):
        location = together[0].location
        if isinstance(location, ShardRow):
            yield from _read_run(location, together, go_on=go_on)
        else:
            yield from map(Sample, together)


def _runs(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Cut records into files, one by one, and runs of ascending rows of one shard."""
    run: list[Record] = []
    for record in records:
        if run and not _follows(run[-1].location, record.location):
            yield run
            run = []
        run.append(record)
    if run:
        yield run


def _follows(before: str | Row, location: str | Row) -> bool:
    if not isinstance(before, ShardRow) or not isinstance(location, ShardRow):
        return False
    return before.shard == location.shard and before.row < location.row


def _read_run(first: ShardRow, records: Sequence[Record], *, go_on: bool) -> Iterator[Sample]:
    rows = [record.location.row for record in records if isinstance(record.location, ShardRow)]
    num_read = 0
    try:
        for record, (_, encoded) in zip(records, read_rows(first.shard, rows), strict=True):
            num_read += 1
            yield Sample(record, encoded=encoded)
    except ValueError as error:
        if not go_on:
            raise
        yield from (Sample(record, lost=str(error)) for record in records[num_read:])
