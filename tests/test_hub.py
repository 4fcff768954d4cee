"""Parquet shards in the columns of Community Forensics: labels, names, single rows, the cache."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.hub import read_shards
from data.records import Label
from data.sources import open_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_shard(path: Path, *, label: int, columns: dict[str, list[Any]] | None = None) -> Path:
    """Three rows; `columns` replaces some, an empty one is left out of the file."""
    count = 3
    values: dict[str, list[Any]] = {
        "image_name": [f"{i}.png" for i in range(count)],
        "image_data": [f"{path.stem} {i}".encode() for i in range(count)],
        "model_name": [f"model{i}" for i in range(count)],
        "real_source": ["" if label else f"source{i}" for i in range(count)],
        "nsfw_flag": ["False"] * count if label else [False] * count,
        "label": [label] * count,
        "architecture": ["GAN"] * count,
    }
    values |= columns or {}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: value for name, value in values.items() if value}), path)
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    write_shard(root / "data/train-1.parquet", label=0, columns={"architecture": []})
    write_shard(root / "data/train-0.parquet", label=1)
    write_shard(root / "data/._train-0.parquet", label=1)
    return root


def test_labels_names_and_bytes_follow_the_order_of_the_shards(shards: Path) -> None:
    manifest = read_shards(shards)
    assert manifest.name == "set"
    assert [int(r.label) for r in manifest] == [1, 1, 1, 0, 0, 0]
    assert [r.generator for r in manifest] == ["model0", "model1", "model2", "source0", "source1", "source2"]
    assert manifest.records[4].uri == f"{shards}/data/train-1.parquet#1"
    assert [r.read_bytes() for r in manifest] == [
        f"train-{shard} {i}".encode() for shard in (0, 1) for i in range(3)
    ]


def test_only_the_image_is_in_the_table(shards: Path) -> None:
    record = read_shards(shards).records[3]
    assert record.table is not None
    assert record.table[record.row] == {"image_data": b"train-1 0"}


def test_a_photograph_without_source_is_called_after_its_model(tmp_path: Path) -> None:
    root = write_shard(tmp_path / "one.parquet", label=0, columns={"real_source": ["", "coco", None]})
    assert [r.generator for r in read_shards(root)] == ["model0", "coco", "model2"]
    root = write_shard(tmp_path / "two.parquet", label=0, columns={"real_source": []})
    assert [r.generator for r in read_shards(root)] == ["model0", "model1", "model2"]


@pytest.mark.parametrize("inside", ["", "data", "data/train-0.parquet"])
def test_every_form_of_root(shards: Path, inside: str) -> None:
    manifest = open_source(shards / inside)
    assert manifest.count(Label.FAKE) == 3
    assert manifest.count(Label.REAL) == (0 if inside.endswith(".parquet") else 3)


def test_records_can_be_sent_to_workers(shards: Path) -> None:
    record = pickle.loads(pickle.dumps(read_shards(shards).records[5]))
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
    read_shards(shards)
    first = copies()
    assert len(read_shards(shards)) == 6
    assert len(first) == 1
    assert copies() == first


def test_a_changed_shard_is_copied_anew(shards: Path) -> None:
    read_shards(shards)
    path = write_shard(shards / "data/train-0.parquet", label=1, columns={"image_data": [b"x", b"y", b"z"]})
    os.utime(path, (1, 1))
    assert [r.read_bytes() for r in read_shards(shards).records[:3]] == [b"x", b"y", b"z"]


def test_progress_bars_are_left_as_they_were(shards: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not datasets.are_progress_bars_disabled()
    read_shards(shards)
    assert not datasets.are_progress_bars_disabled()
    assert "examples" not in capfd.readouterr().err


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no parquet shards"):
        read_shards(tmp_path)
    with pytest.raises(ValueError, match=r"a\.parquet: no column label, model_name; found"):
        read_shards(write_shard(tmp_path / "a.parquet", label=1, columns={"model_name": [], "label": []}))
    with pytest.raises(ValueError, match=r"b\.parquet, row 1: label 7; expected 0 \(real\) or 1 \(fake\)"):
        read_shards(write_shard(tmp_path / "b.parquet", label=1, columns={"label": [1, 7, 0]}))
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"c\.parquet cannot be read as parquet"):
        read_shards(tmp_path / "c.parquet")
