"""Measure training batches streamed from shards of one row group each: memory, speed, and making the order.

    python timing/stream.py
    python timing/stream.py --gb 4 --images 256 --rounds 3

In a scratch folder a shard of fakes and one of real images are made, each one row group of --gb GB: 8 pictures
of noise on a gradient, PNG of about 1.3 MB, again and again. Hard links make four shards of each. A fresh process
measures each of the two sets. Extra memory is how far its peak was above what it held after its imports, in
Linux's count, over --images images. The stream is compared, by turns, with the same decoding and viewing of
images that are in memory already, in as many processes; a run begins to count after its first batches. On a
shared machine only the ratios mean something, those of CPU time most. The order is over as many rows as
CommunityForensics-Small has.

Shape suffixes: H, W pixels.
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

if TYPE_CHECKING:
    from data.images.views import TensorView
    from data.loading.batches import Batch
    from data.shards.index import ShardIndex

NUM_PICTURES, SIDE_PX, BATCH_SIZE, LINKS = 8, 1024, 32, 4
SHARDS, ROWS_A_SHARD, GENERATORS = 93, 2994, 4803  # of a class in CommunityForensics-Small


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--gb", type=float, default=4, help="GB of each of the two shards (default: 4)")
    parser.add_argument("--images", type=int, default=256, help="images that a run measures (default: 256)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure, num_batches=max(1, args.images // BATCH_SIZE), rounds=args.rounds)
    with TemporaryDirectory() as folder:
        make_shards(Path(folder), num_bytes=args.gb * 1e9)
        for name in ("one", "four"):
            options = ("--images", str(args.images), "--rounds", str(args.rounds if name == "four" else 0))
            subprocess.run([sys.executable, __file__, "--measure", f"{folder}/{name}", *options], check=True)
    for balance in ("class", "generator"):
        time_order(balance)


# ---------------------------------------------------------------------------------------------------------
# Shards


def make_shards(folder: Path, *, num_bytes: float) -> None:
    """Make a shard of each class in folder/one, and the same four times in folder/four, by hard links."""
    pictures = [picture(seed) for seed in range(NUM_PICTURES)]
    for label, name in enumerate(("real", "fake")):
        shard = folder / "one" / f"{name}-0.parquet"
        write_shard(shard, pictures, label=label, num_bytes=num_bytes)
        for number in range(LINKS):
            link = folder / "four" / f"{name}-{number}.parquet"
            link.parent.mkdir(exist_ok=True)
            os.link(shard, link)


def picture(seed: int) -> bytes:
    """Return a PNG of noise on a gradient."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    slope_HW = np.add.outer(np.linspace(0, 120, SIDE_PX), np.linspace(0, 120, SIDE_PX))
    noise_HWC = rng.normal(0, 1.6, (SIDE_PX, SIDE_PX, 3))
    pixels_HWC = np.clip(slope_HW[..., None] + noise_HWC, 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels_HWC).save(encoded, "PNG")
    return encoded.getvalue()


def write_shard(path: Path, pictures: list[bytes], *, label: int, num_bytes: float) -> None:
    """Write one row group. Its image column is the same chunk again and again, so that it takes no memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    times = max(1, round(num_bytes / sum(map(len, pictures))))
    num_rows = times * len(pictures)
    columns: dict[str, Any] = {
        "image_data": pa.chunked_array([pa.array(pictures, pa.binary())] * times),
        "label": pa.array([label] * num_rows),
        "model_name": pa.array([f"generator{row * 50 // num_rows}" for row in range(num_rows)]),
    }
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=num_rows, use_dictionary=["model_name"])
    footer = pq.read_metadata(path)
    print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, {num_rows} images, {footer.num_row_groups} row group")


# ---------------------------------------------------------------------------------------------------------
# Measurements


def measure(folder: Path, *, num_batches: int, rounds: int) -> None:
    """Print the extra memory and the speed of a stream of the shards in a folder."""
    import data.images.augment
    import data.shards.stream  # before the memory is looked at
    from data.shards.scan import read_index

    view = data.images.augment.train_view("crop", size_px=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held_mb, start = memory_mb("VmRSS"), time.perf_counter()
    index = read_index(folder)
    print(f"{folder.name}: index of {len(index.shards)} shards {time.perf_counter() - start:.2f} s", end="; ")
    wait(itertools.islice(stream(index, view, num_workers=0), num_batches))
    print(f"extra memory {memory_mb('VmHWM') - held_mb:.0f} MB above {held_mb:.0f} MB", end="; ")
    time_reading(index)
    if rounds:
        compare(index, view, num_batches=num_batches, rounds=rounds)


def time_reading(index: ShardIndex) -> None:
    """Measure draws with their bytes, which are not decoded."""
    from data.shards.order import Order, make_lanes
    from data.shards.stream import draw_samples

    (lanes,) = make_lanes(index, Order(), seed=0)
    samples = draw_samples(index, lanes, part=0, seed=0, first=0)
    start = time.perf_counter()
    deque(itertools.islice(samples, BATCH_SIZE), maxlen=0)
    opened = time.perf_counter()
    deque(itertools.islice(samples, 1000), maxlen=0)
    seconds = time.perf_counter() - opened
    print(f"reading alone: first {BATCH_SIZE} images {opened - start:.2f} s, then {1000 / seconds:.0f} a second")


def stream(index: ShardIndex, view: TensorView, *, num_workers: int) -> Iterator[Batch]:
    """Stream batches as training does."""
    from data.loading.plan import BatchPlan
    from data.shards.order import Order
    from data.shards.stream import stream_batches

    return stream_batches(index, view, BatchPlan(BATCH_SIZE, num_workers=num_workers), Order(), first_step=0)


def from_memory(index: ShardIndex, view: TensorView, *, num_workers: int) -> Iterator[Batch]:
    """Make batches of images that every process has in memory."""
    from data.loading.batches import SampleDataset
    from data.loading.loader import batch_loader
    from data.loading.samples import Sample
    from gapl.shards.rows import read_rows

    images = [encoded for _, encoded in read_rows(index.shards[0], range(BATCH_SIZE))]

    class Memory(SampleDataset):
        def __getitems__(self, draws: Any) -> Batch:
            return super().__getitems__([Sample(index.record(i), seed, images[i]) for i, seed in draws])

    lists = ([(i, step * BATCH_SIZE + i) for i in range(BATCH_SIZE)] for step in itertools.count())
    return iter(batch_loader(Memory(view, replace_unreadable=True), lists, num_workers=num_workers))


def compare(index: ShardIndex, view: TensorView, *, num_batches: int, rounds: int) -> None:
    """Print the speed of the stream beside that of images in memory, by turns."""
    for num_workers in (0, 2):
        runs = [
            [
                run(way(index, view, num_workers=num_workers), num_workers, num_batches)
                for way in (stream, from_memory)
            ]
            for _ in range(rounds)
        ]
        for kind, name in enumerate(("images/s", "CPU ms an image")):
            streamed, bare = ([both[way][kind] for both in runs] for way in (0, 1))
            ratios = ", ".join(f"{ours / theirs:.3f}" for ours, theirs in zip(streamed, bare, strict=True))
            medians = f"stream {statistics.median(streamed):.1f}, from memory {statistics.median(bare):.1f}"
            print(f"{num_workers} workers, {name}: {medians}; ratios {ratios}")


def run(batches: Iterator[Batch], num_workers: int, num_batches: int) -> tuple[float, float]:
    """Return images a second, and the CPU time of an image in all processes in ms.

    Images a second count from when what was read ahead at the start is used up; other users of the machine disturb
    CPU time less.
    """
    num_first, busy = 2 + 2 * num_workers, cpu_seconds()
    wait(itertools.islice(batches, num_first))
    start = time.perf_counter()
    wait(itertools.islice(batches, num_batches))
    seconds = time.perf_counter() - start
    del batches
    for child in multiprocessing.active_children():
        child.join(10)
    num_seen = (num_first + num_batches + 2 * num_workers) * BATCH_SIZE  # what workers had begun is seen as well
    return num_batches * BATCH_SIZE / seconds, 1e3 * (cpu_seconds() - busy) / num_seen


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def wait(batches: Iterable[Batch]) -> None:
    """Take the batches, which must be whole."""
    for batch in batches:
        assert len(batch.records) == BATCH_SIZE
        assert not batch.failures


def time_order(balance: str) -> None:
    """Measure the order alone: draws that are skipped to start at a step, and draws that are made."""
    from data.shards.order import Order, make_lanes

    start = time.perf_counter()
    lanes = make_lanes(real_size(), Order(balance), seed=0)
    made = time.perf_counter()
    num_skipped = 20 * SHARDS * ROWS_A_SHARD
    next(lanes[0][1].passes(num_skipped))
    skipped = time.perf_counter()
    num_draws = sum(len(unit_D) for unit_D, _ in itertools.islice(lanes[0][1].passes(0), 5))
    ordered = time.perf_counter()
    print(
        f"order, balance {balance}: lanes {made - start:.2f} s; million draws/s: skipped "
        f"{num_skipped / (skipped - made) / 1e6:.1f}, made {num_draws / (ordered - skipped) / 1e6:.1f}"
    )


def real_size() -> ShardIndex:
    """Return an index like that of the whole set, without its files."""
    from data.shards.index import Names, ShardIndex
    from gapl.shards.rows import Shard

    rng = np.random.default_rng(0)
    num_rows = 2 * SHARDS * ROWS_A_SHARD
    share = rng.pareto(1.2, GENERATORS) + 0.1
    label_N = np.repeat(np.array([0, 1], np.uint8), num_rows // 2)
    generator_N = np.where(label_N, rng.choice(GENERATORS, num_rows, p=share / share.sum()), 0).astype(np.int32)
    shards = tuple(Shard(str(i), 4 << 30, (ROWS_A_SHARD,), (4 << 30,)) for i in range(2 * SHARDS))
    shard_N = np.repeat(np.arange(2 * SHARDS, dtype=np.int32), ROWS_A_SHARD)
    row_N = np.tile(np.arange(ROWS_A_SHARD, dtype=np.int32), 2 * SHARDS)
    generators = Names(generator_N, tuple(map(str, range(GENERATORS))))
    nothing = Names(np.zeros_like(row_N), ("",))
    return ShardIndex("set", shards, shard_N, row_N, label_N, generators, nothing, nothing)


def memory_mb(name: str) -> float:
    """Return an entry of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1e3
    raise OSError(f"this system does not tell {name}")


if __name__ == "__main__":
    cli.run(main)
