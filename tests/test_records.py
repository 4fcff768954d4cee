"""A record's bytes come from a file, a row of a shard, or a copy of it; many are read in one go."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from test_shards import write_shard

from data.loading import samples
from data.loading.samples import read_samples
from data.records import Record
from data.shards.index import ShardIndex, reading_order
from data.shards.scan import read_index
from gapl.labels import Label, Source
from gapl.shards.rows import Shard, read_rows


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    for number in (0, 1):
        write_shard(tmp_path / f"set/train-{number}.parquet", label=number)
    return read_index(tmp_path / "set")


def test_every_kind_of_location_is_read_alike(index: ShardIndex, tmp_path: Path) -> None:
    (tmp_path / "4.jpg").write_bytes(b"train-1 1")
    file = Record(str(tmp_path / "4.jpg"), Label.FAKE, "model1")
    row, copy = index.record(4), index.local().records[4]
    assert row.uri == copy.uri == f"{tmp_path}/set/train-1.parquet#1"
    assert [record.read_bytes() for record in (file, row, copy)] == [b"train-1 1"] * 3
    assert {record.source for record in (file, row, copy)} == {Source(Label.FAKE, "model1")}
    assert [record.is_file for record in (file, row, copy)] == [True, False, False]
    for record in (file, row, copy):
        assert pickle.loads(pickle.dumps(record)).read_bytes() == b"train-1 1"


def test_what_cannot_be_read_is_an_oserror(index: ShardIndex, tmp_path: Path) -> None:
    record = index.record(0)
    Path(index.shards[0].url).unlink()
    with pytest.raises(OSError, match=r"train-0\.parquet cannot be read"):
        record.read_bytes()
    with pytest.raises(FileNotFoundError):
        Record(str(tmp_path / "gone.jpg"), Label.REAL, "camera").read_bytes()


def test_each_shard_is_read_in_one_go(index: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()

    def counted(shard: Shard, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        opened[Path(shard.url).name] += 1
        return read_rows(shard, rows)

    monkeypatch.setattr(samples, "read_rows", counted)
    file = Record("photo.jpg", Label.REAL, "camera")
    records = [index.record(i) for i in (5, 0, 2, 4)]
    ordered = [file, *sorted(records, key=reading_order)]
    found = list(read_samples(ordered))
    assert [sample.record for sample in found] == ordered
    assert [sample.encoded for sample in found] == [None, b"train-0 0", b"train-0 2", b"train-1 1", b"train-1 2"]
    assert opened == {"train-0.parquet": 1, "train-1.parquet": 1}
    assert [sample.read_bytes() for sample in read_samples(records)] == [
        *(b"train-1 2", b"train-0 0", b"train-0 2", b"train-1 1")
    ]


def test_rows_that_a_damaged_shard_does_not_give_are_lost_or_end_the_reading(index: ShardIndex) -> None:
    Path(index.shards[0].url).write_bytes(b"PAR1")
    records = [index.record(i) for i in range(6)]
    found = list(read_samples(records, go_on=True))
    assert [bool(sample.lost) for sample in found] == [True] * 3 + [False] * 3
    with pytest.raises(OSError, match=r"train-0\.parquet cannot be read"):
        found[0].read_bytes()
    with pytest.raises(ValueError, match=r"train-0\.parquet cannot be read"):
        list(read_samples(records))
