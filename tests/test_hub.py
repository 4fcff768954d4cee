"""Rows of parquet shards in the cache: labels, names, single rows, what is copied when."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import datasets
import numpy as np
import pytest
from test_shards import write_shard

from data.shards.arrow_cache import CachedRow
from data.shards.scan import read_index
from data.sources import open_index, open_source
from gapl.labels import Label


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    write_shard(root / "data/train-1.parquet", label=0, columns={"architecture": []})
    write_shard(root / "data/train-0.parquet", label=1)
    write_shard(root / "data/._train-0.parquet", label=1)
    return root


def test_labels_names_and_bytes_follow_the_order_of_the_shards(shards: Path) -> None:
    manifest = read_index(shards).local()
    assert manifest.name == "set"
    assert [int(r.label) for r in manifest] == [1, 1, 1, 0, 0, 0]
    assert [r.generator for r in manifest] == ["model0", "model1", "model2", "source0", "source1", "source2"]
    assert manifest.records[4].uri == f"{shards}/data/train-1.parquet#1"
    assert [r.read_bytes() for r in manifest] == [
        f"train-{shard} {i}".encode() for shard in (0, 1) for i in range(3)
    ]


def test_only_the_image_is_in_the_table(shards: Path) -> None:
    record = read_index(shards).local().records[3]
    assert isinstance(record.location, CachedRow)
    assert record.location.table[record.location.row] == {"image_data": b"train-1 0"}


def test_a_real_image_without_source_is_called_after_its_model(tmp_path: Path) -> None:
    root = write_shard(tmp_path / "one.parquet", label=0, columns={"real_source": ["", "coco", None]})
    assert [r.generator for r in read_index(root).local()] == ["model0", "coco", "model2"]
    root = write_shard(tmp_path / "two.parquet", label=0, columns={"real_source": []})
    assert [r.generator for r in read_index(root).local()] == ["model0", "model1", "model2"]


@pytest.mark.parametrize("inside", ["", "data", "data/train-0.parquet"])
def test_every_form_of_root(shards: Path, inside: str) -> None:
    manifest = open_source(shards / inside)
    assert manifest.count(Label.FAKE) == 3
    assert manifest.count(Label.REAL) == (0 if inside.endswith(".parquet") else 3)


def test_records_can_be_sent_to_workers(shards: Path) -> None:
    record = pickle.loads(pickle.dumps(read_index(shards).local().records[5]))
    assert record.read_bytes() == b"train-1 2"


def test_nothing_is_fetched_and_the_second_time_nothing_is_copied(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_keywords: object) -> None:
        raise AssertionError("a network was asked for")

    def copies() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    read_index(shards).local()
    first = copies()
    assert len(read_index(shards).local()) == 6
    assert len(first) == 1
    assert copies() == first


def test_a_changed_shard_is_copied_anew(shards: Path) -> None:
    read_index(shards).local()
    path = write_shard(shards / "data/train-0.parquet", label=1, columns={"image_data": [b"x", b"y", b"z"]})
    os.utime(path, (1, 1))
    assert [r.read_bytes() for r in read_index(shards).local().records[:3]] == [b"x", b"y", b"z"]


def test_progress_bars_are_left_as_they_were(shards: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not datasets.are_progress_bars_disabled()
    read_index(shards).local()
    assert not datasets.are_progress_bars_disabled()
    assert "examples" not in capfd.readouterr().err


def test_just_the_rows_that_are_taken_are_copied(shards: Path, tmp_path: Path) -> None:
    index = read_index(shards)
    some = index.take(np.array([0, 2, 4])).local()
    assert [r.read_bytes() for r in some] == [b"train-0 0", b"train-0 2", b"train-1 1"]
    assert [r.uri.rpartition("/")[2] for r in some] == [
        "train-0.parquet#0",
        "train-0.parquet#2",
        "train-1.parquet#1",
    ]
    others = index.where(index.label_N == Label.REAL).local()
    assert [r.read_bytes() for r in others] == [f"train-1 {i}".encode() for i in range(3)]
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 2
    assert [r.read_bytes() for r in some] == [b"train-0 0", b"train-0 2", b"train-1 1"]


def test_a_source_of_shards_has_an_index(shards: Path, tmp_path: Path) -> None:
    index = open_index(shards)
    assert index is not None
    assert [index.record(i).uri for i in range(6)] == [record.uri for record in open_source(shards)]
    (tmp_path / "list.csv").write_text("filename,label\n")
    assert open_index(tmp_path / "list.csv") is None
    assert open_index(tmp_path) is None


def test_mistakes_are_named(shards: Path, tmp_path: Path) -> None:
    index = read_index(shards)
    with pytest.raises(ValueError, match="set: its parquet shards have no rows"):
        index.where(index.label_N > Label.FAKE).local()
    write_shard(shards / "data/train-1.parquet", label=0, columns={"image_data": [b"x", b"y", b"z"]})
    with pytest.raises(ValueError, match=r"train-1\.parquet has changed since its rows were listed"):
        index.local()
    with pytest.raises(ValueError, match="no parquet shards"):
        read_index(tmp_path).local()
