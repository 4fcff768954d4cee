"""Batches from label-sorted shards: the order, its split among processes, memory, errors."""

from __future__ import annotations

import gc
import io
import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.loading.batches import Batch
from data.loading.loader import read_ahead
from data.loading.plan import BatchPlan, Rank
from data.shards import stream
from data.shards.index import Names, ShardIndex
from data.shards.order import MAX_COPIES, Order, make_lanes
from data.shards.scan import read_index
from data.shards.stream import draw_samples, split_steps, stream_batches
from gapl.labels import Label
from gapl.shards.rows import Shard, read_rows

Row = tuple[int, str, str]  # label, generator, architecture
FAKE, REAL = (1, "gan", "GAN"), (0, "coco", "real")
PLAN = BatchPlan(8, seed=3)


def png(shard: int, row: int) -> bytes:
    """An image whose one colour tells which it is."""
    encoded = io.BytesIO()
    Image.new("RGB", (4, 3), (shard, row // 256, row % 256)).save(encoded, "PNG")
    return encoded.getvalue()


def write_set(root: Path, shards: Sequence[Sequence[Row]], group_rows: int | None = None) -> ShardIndex:
    """One parquet file for each list of rows."""
    root.mkdir()
    for number, rows in enumerate(shards):
        labels, generators, architectures = zip(*rows, strict=True)
        columns: dict[str, Any] = {
            "image_data": [png(number, row) for row in range(len(rows))],
            "label": labels,
            "model_name": generators,
            "architecture": architectures,
        }
        path, size = root / f"{number:03}.parquet", group_rows or len(rows)
        pq.write_table(pa.table(columns), path, row_group_size=size, compression="none")
    return read_index(root)


def listed(shards: Sequence[Sequence[Row]]) -> ShardIndex:
    """An index without files, of images of 1 MB."""
    rows = [row for shard in shards for row in shard]
    sizes = [len(shard) for shard in shards]
    return ShardIndex(
        "listed",
        tuple(Shard(str(i), size * 1_000_000, (size,), (size * 1_000_000,)) for i, size in enumerate(sizes)),
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
        np.array([row[0] for row in rows], np.uint8),
        Names.of(row[1] for row in rows),
        Names.of(row[2] for row in rows),
        Names.of("" for _ in rows),
    )


def order_of(
    index: ShardIndex, label: Label, count: int, *, part: int = 0, seed: int = 3, **options: Any
) -> list[int]:
    """The first positions that a part draws of a class."""
    lane = make_lanes(index, Order(**({"window_mb": 4} | options)), seed=seed)[part][label]
    positions = itertools.chain.from_iterable(position_D.tolist() for _, position_D in lane.passes(0))
    return list(itertools.islice(positions, count))


def view(image: Image.Image) -> Tensor:
    """The image's colour and a random number, (4, 1, 1)."""
    colour = torch.tensor(image.getpixel((0, 0)), dtype=torch.float32)
    return torch.cat([colour, torch.rand(1)]).view(4, 1, 1)


def streamed(index: ShardIndex, *, first_step: int = 0, **options: Any) -> Iterator[Batch]:
    """The batches of PLAN and of the default order, but for these fields."""
    of_order = {item.name: options.pop(item.name) for item in fields(Order) if item.name in options}
    return stream_batches(index, view, replace(PLAN, **options), Order(**of_order), first_step=first_step)


def first(index: ShardIndex, count: int, **options: Any) -> list[Batch]:
    return list(itertools.islice(streamed(index, **options), count))


def uris(batches: Sequence[Batch]) -> list[str]:
    return [record.uri for batch in batches for record in batch.records]


def pixels(batches: Sequence[Batch]) -> Tensor:
    return torch.cat([batch.pixels_BCHW for batch in batches])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Sorted by class: 5 shards of 12 fakes, 3 of 8 real images; one row group each."""
    return write_set(tmp_path_factory.mktemp("stream") / "set", [[FAKE] * 12] * 5 + [[REAL] * 8] * 3)


# ---------------------------------------------------------------------------------------------------------
# Order


def test_every_row_once_before_any_comes_again(index: ShardIndex) -> None:
    batches = first(index, 30)  # 120 images of each class: two passes of the fakes, five of the real images
    assert not any(batch.failures for batch in batches)
    fakes, reals = ([r.uri for b in batches for r in b.records if r.label == label] for label in (1, 0))
    assert len(fakes) == len(reals) == 120
    for drawn, size in ((fakes, 60), (reals, 24)):
        passes = [drawn[start : start + size] for start in range(0, 120, size)]
        assert all(len(set(each)) == size for each in passes)
        assert passes[0] != passes[1]


def test_images_are_those_of_their_records(index: ShardIndex) -> None:
    for batch in first(index, 12):
        for record, pixels_CHW, label in zip(batch.records, batch.pixels_BCHW, batch.labels_B, strict=True):
            path, _, row = record.uri.partition("#")
            assert pixels_CHW.flatten()[:3].tolist() == [int(Path(path).stem), int(row) // 256, int(row) % 256]
            assert label == record.label == (int(Path(path).stem) < 5)


@pytest.mark.parametrize("size", [8, 5])
def test_classes_are_balanced_in_every_batch(index: ShardIndex, size: int) -> None:
    fakes = [int(batch.labels_B.sum()) for batch in first(index, 12, batch_size=size)]
    assert fakes == ([4] * 12 if size == 8 else [2, 3] * 6)


def test_odd_parts_make_balanced_batches(index: ShardIndex) -> None:
    batches = first(index, 12, batch_size=6, num_parts=2)
    assert [int(batch.labels_B.sum()) for batch in batches] == [3] * 12


def test_batches_mix_shards(index: ShardIndex) -> None:
    for batch in first(index, 7, batch_size=16):
        shards = Counter(record.uri.partition("#")[0] for record in batch.records if record.label == Label.FAKE)
        assert len(shards) >= 2
        assert max(shards.values()) <= 6


def test_mixing_lasts_to_the_end_of_a_pass() -> None:
    """Of 16 images in a row, none are all of one shard, though the shards differ in size."""
    index = listed([[FAKE] * size for size in (50, 80, 110, 140, 170, 200, 230, 260)] + [[REAL] * 10])
    shards = index.shard_N[order_of(index, Label.FAKE, 1240, open_shards=4)]
    assert min(len(set(shards[start : start + 16])) for start in range(0, 1240 - 16)) >= 2
    assert np.mean([len(set(shards[start : start + 16])) for start in range(0, 1240 - 16)]) > 3.5


def test_rows_of_a_shard_are_read_in_shuffled_windows() -> None:
    index = listed([[FAKE] * 40] * 3 + [[REAL] * 40])
    drawn = np.array(order_of(index, Label.FAKE, 120, open_shards=3, window_mb=8))
    for shard in range(3):
        rows = index.row_N[drawn[index.shard_N[drawn] == shard]]
        windows = rows.reshape(5, 8)  # of 8 MB, which is 8 images
        assert [sorted(window) for window in windows.tolist()] == np.arange(40).reshape(5, 8).tolist()
        assert all(window.tolist() != sorted(window) for window in windows)


def test_generators_are_drawn_by_the_root_of_their_size() -> None:
    """240 + 60 images: weights 2 to 1, whatever the shards that they are in."""
    index = listed([[(1, "big", "")] * 240, [(1, "small", "")] * 60, [REAL] * 10])
    for num_parts in (1, 2):
        drawn = [
            position
            for part in range(num_parts)
            for position in order_of(
                index, Label.FAKE, 6000, part=part, balance="generator", num_parts=num_parts, open_shards=2
            )
        ]
        big = np.mean(index.generators.number_N[drawn] == index.generators.names.index("big"))
        assert big == pytest.approx(2 / 3, abs=0.02)
    again = Counter(drawn)
    small = [again[position] for position in range(240, 300)]
    assert min(small) > 0.8 * max(small)  # all images of a generator as often


def test_parts_have_as_many_draws_in_a_pass() -> None:
    """By rows, one part would have the large shard and the other the five small ones: 62 draws and 138."""
    index = listed([[(1, "big", "")] * 100, *([(1, f"small{i}", "")] * 20 for i in range(5)), [REAL] * 10])
    lanes = make_lanes(index, Order("generator", num_parts=2, open_shards=2, window_mb=4), seed=3)
    draws = [[len(unit_D) for unit_D, _ in itertools.islice(fake.passes(0), 100)] for _, fake in lanes]
    assert np.mean(draws[0]) + np.mean(draws[1]) == pytest.approx(200, abs=3)
    assert abs(np.mean(draws[0]) - np.mean(draws[1])) < 20 * 1.382 + 3  # no more than a small shard


def test_shards_are_dealt_by_the_seed() -> None:
    index = listed([[FAKE] * 10] * 8 + [[REAL] * 10] * 8)
    dealt = {
        frozenset(index.shard_N[order_of(index, Label.FAKE, 40, num_parts=2, seed=seed)].tolist())
        for seed in range(8)
    }
    assert {len(shards) for shards in dealt} == {4}
    assert len(dealt) > 1


def test_a_rare_generator_is_repeated_no_more_than_the_cap() -> None:
    """300 to 1 becomes 284 to 4: the root would be 17 to 1."""
    index = listed([[(1, "big", "")] * 300 + [(1, "small", "")], [REAL] * 10])
    drawn = Counter(order_of(index, Label.FAKE, 28800, balance="generator"))
    assert drawn[300] == pytest.approx(100 * MAX_COPIES, abs=MAX_COPIES)
    assert np.mean([drawn[position] for position in range(300)]) == pytest.approx(94.7, abs=0.5)
    assert min(drawn[position] for position in range(300)) > 80


def test_architectures_are_drawn_by_the_root_of_their_size() -> None:
    index = listed([[(1, f"model{i % 40}", "LatDiff" if i % 10 else "GAN") for i in range(400)], [REAL] * 10])
    drawn = order_of(index, Label.FAKE, 6000, balance="architecture")
    gan = np.mean(index.architectures.number_N[drawn] == index.architectures.names.index("GAN"))
    assert gan == pytest.approx(1 / 4, abs=0.02)
    reals = Counter(order_of(index, Label.REAL, 100, balance="architecture"))
    assert set(reals.values()) == {10}


# ---------------------------------------------------------------------------------------------------------
# The same order, whoever reads it


def test_same_seed_same_batches_whatever_the_workers(index: ShardIndex) -> None:
    alone, others = first(index, 12), first(index, 12, num_workers=2)
    assert uris(alone) == uris(others)
    assert torch.equal(pixels(alone), pixels(others))  # views as well
    assert uris(first(index, 12, seed=4)) != uris(alone)


def test_image_that_comes_again_is_seen_in_another_view(index: ShardIndex) -> None:
    seen: dict[str, set[float]] = {}
    for batch in first(index, 30):
        for record, pixels_CHW in zip(batch.records, batch.pixels_BCHW, strict=True):
            seen.setdefault(record.uri, set()).add(float(pixels_CHW[3]))
    assert Counter(len(views) for views in seen.values()) == {2: 60, 5: 24}


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_ranks_share_the_batches_of_one(index: ShardIndex, micro_batches: int) -> None:
    options: dict[str, Any] = {"num_parts": 2, "batch_size": 12}
    whole = pixels(first(index, 10, **options))
    shares = [
        pixels(first(index, 10 * micro_batches, micro_batches=micro_batches, rank=Rank(rank, 2), **options))
        for rank in range(2)
    ]
    for step in range(10):
        mine = [share[6 * step : 6 * step + 6] for share in shares]
        assert torch.equal(torch.cat(mine), whole[12 * step : 12 * step + 12])


def test_micro_batches_are_the_batch_in_order(index: ShardIndex) -> None:
    whole, cut = first(index, 6), first(index, 24, micro_batches=4)
    assert torch.equal(pixels(whole), pixels(cut))
    assert {len(batch.records) for batch in cut} == {2}
    assert {int(batch.labels_B.sum()) for batch in cut} == {1}


@pytest.mark.parametrize("options", [{}, {"num_parts": 2, "batch_size": 6}, {"balance": "generator"}])
@pytest.mark.parametrize("skipped", [1, 18])
def test_stream_goes_on_where_it_was(index: ShardIndex, options: dict[str, Any], skipped: int) -> None:
    whole = first(index, skipped + 6, **options)
    rest = first(index, 6, first_step=skipped, **options)
    assert uris(rest) == uris(whole[skipped:])
    assert torch.equal(pixels(rest), pixels(whole[skipped:]))


def test_parts_of_one_shard_a_class_are_disjoint_and_whole(tmp_path: Path) -> None:
    index = write_set(tmp_path / "set", [[FAKE] * 30, [REAL] * 30])
    drawn = [uris(first(index, 15, batch_size=8, num_parts=2, rank=Rank(rank, 2))) for rank in range(2)]
    assert [len(set(each)) for each in drawn] == [30, 30]
    assert len(set(drawn[0]) | set(drawn[1])) == 60


@pytest.mark.parametrize("group_rows", [None, 7])
def test_shards_of_both_classes(tmp_path: Path, group_rows: int | None) -> None:
    rows = [FAKE, FAKE, REAL] * 10
    index = write_set(tmp_path / "set", [rows, rows], group_rows)
    batches = first(index, 10, window_mb=0.001)
    drawn = Counter(uris(batches))
    assert all(int(batch.labels_B.sum()) == 4 for batch in batches)
    assert sorted(drawn.values()) == [1] * 40 + [2] * 20
    for batch in batches:
        for record in batch.records:
            assert record.label == rows[int(record.uri.partition("#")[2])][0]


def test_a_part_of_the_rows(index: ShardIndex) -> None:
    """Rows that the index has not are not drawn."""
    drawn = set(uris(first(index.where(index.row_N % 3 == 1), 10)))
    assert {int(uri.partition("#")[2]) % 3 for uri in drawn} == {1}
    assert len(drawn) == 5 * 4 + 3 * 3


# ---------------------------------------------------------------------------------------------------------
# Reading


class Counted(bytes):
    """Bytes that tell how many of them are alive."""

    alive = peak = 0

    def __init__(self, _encoded: bytes) -> None:
        Counted.alive += len(self)
        Counted.peak = max(Counted.peak, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= len(self)


def test_no_more_than_a_window_of_each_open_shard_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_set(tmp_path / "set", [[FAKE] * 200] * 4 + [[REAL] * 200] * 4)
    image_bytes = len(png(0, 0))
    opened: Counter[str] = Counter()

    def counted(shard: Shard, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        opened[shard.url] += 1
        return ((row, Counted(encoded)) for row, encoded in read_rows(shard, rows))

    monkeypatch.setattr(stream, "read_rows", counted)
    window_mb = 10 * index.shards[0].group_bytes[0] / 200 / 1e6
    (lanes,) = make_lanes(index, Order(open_shards=3, window_mb=window_mb), seed=3)
    samples = draw_samples(index, lanes, part=0, seed=3, first=0)
    batches = read_ahead(split_steps([samples], per_part=8, size=8), depth=2)
    drawn = {sample.record.uri for batch in itertools.islice(batches, 195) for sample in batch}
    assert len(drawn) == 195 * 8
    assert set(opened.values()) == {1}  # a pass reads a shard once
    windows, under_way = 2 * 3 * 10, 8 * 4  # images; of batches: read ahead, being made, being seen
    assert image_bytes * 40 < Counted.peak <= image_bytes * (windows + under_way)


@pytest.mark.parametrize("damage", ["gone", "cut"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path, damage: str, num_workers: int) -> None:
    index = write_set(tmp_path / "set", [[FAKE] * 400, [REAL] * 400])
    path = Path(index.shards[0].url)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"000\.parquet cannot be read"):
        first(index, 100, num_workers=num_workers)


def test_a_shard_that_ends_early_is_named(index: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "read_rows", lambda shard, rows: itertools.islice(read_rows(shard, rows), 3))
    with pytest.raises(ValueError, match=r"set/00.\.parquet has fewer rows than when its index was read"):
        first(index, 20)


def test_an_image_that_cannot_be_decoded_is_named_and_replaced(tmp_path: Path) -> None:
    index = write_set(tmp_path / "set", [[FAKE] * 16, [REAL] * 16])
    path = Path(index.shards[0].url)
    path.write_bytes(path.read_bytes().replace(png(0, 5), bytes(len(png(0, 5)))))
    batches = first(index, 4)
    assert [failure.record.uri for batch in batches for failure in batch.failures] == [f"{path}#5"]
    assert [batch.labels_B.tolist() for batch in batches] == [[0, 1] * 4] * 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_thread_ends_with_its_consumer(index: ShardIndex, num_workers: int) -> None:
    before = set(threading.enumerate())
    batches = streamed(index, num_workers=num_workers)
    next(batches)
    (thread,) = (each for each in set(threading.enumerate()) - before if each.name == "read_ahead")
    assert thread.daemon
    del batches
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 9, "num_parts": 2}, "a batch of 9 cannot be cut in 2 parts; choose a multiple of 2"),
        ({"micro_batches": 3}, r"a batch of 8 cannot be cut in 1 \* 3 micro-batches; choose a multiple of 3"),
        ({"rank": Rank(0, 2), "num_parts": 3}, "3 parts cannot be shared by 2 processes; choose a multiple"),
        ({"balance": "source"}, "unknown balance 'source'; choose from class, generator, architecture"),
        ({"num_parts": 64, "batch_size": 64}, "24 real images are too few for 64 parts"),
        ({"open_shards": 0}, "open_shards is at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    index: ShardIndex, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        streamed(index, **options)


def test_a_missing_class_or_column_is_named() -> None:
    with pytest.raises(ValueError, match="listed: no real images; both classes are needed"):
        streamed(listed([[FAKE] * 9]))
    nameless = listed([[(1, "gan", "")] * 9, [(0, "coco", "")] * 9])
    with pytest.raises(ValueError, match="listed: no column architecture; choose the balance class or generator"):
        streamed(nameless, balance="architecture")
