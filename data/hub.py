"""Parquet shards that hold encoded images, in the columns of Community Forensics -> Records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.folders import title
from data.records import Label, Manifest, Record

IMAGE_COLUMN = "image_data"
_NEEDED = (IMAGE_COLUMN, "label", "model_name")
_PROGRESS_FROM_BYTES = 1 << 30


def find_shards(root: Path) -> list[Path]:
    """The parquet files in `root` or `root/data`, sorted; `root` itself when it is one."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".parquet" else []
    found = chain(root.glob("*"), root.glob("data/*"))
    return sorted(path for path in found if path.suffix.lower() == ".parquet" and path.name[0] != ".")


def holds_images(root: Path) -> bool:
    """Whether `root` is, or holds, parquet shards with encoded images in them."""
    shards = find_shards(root)
    if not shards:
        return False
    with _open(shards[0]) as file:
        return IMAGE_COLUMN in file.schema_arrow.names


def read_shards(root: Path) -> Manifest:
    """The images of parquet shards (OwensLab/CommunityForensics and its kin), in the order of the files.

    `root` is one parquet file, a folder of them, or a folder with them in `data/`. Columns: `image_data`,
    `label` (0 real, 1 fake), `model_name`; for a photograph `real_source`, if there and not empty, names the
    source. The images are copied once to the cache of `datasets` (HF_DATASETS_CACHE; it takes as much room as
    the shards), from where a row is read without touching others; the copy needs memory for a few thousand
    images. Nothing is fetched from a network.

    Raises ValueError when there is no shard, a column is missing or a label is neither 0 nor 1.
    """
    shards = find_shards(root)
    if not shards:
        raise ValueError(f"{root}: no parquet shards; expected *.parquet in it or in its folder data")
    names = [(shard, *name) for shard in shards for name in _read_names(shard)]
    table = _cache_images(shards)
    assert len(table) == len(names)
    records = (
        Record(f"{shard}#{row_in_shard}", label, generator, table, row)
        for row, (shard, row_in_shard, label, generator) in enumerate(names)
    )
    return Manifest(title(root if root.is_dir() else root.with_suffix("")), tuple(records))


def _open(shard: Path) -> pq.ParquetFile:
    try:
        # With pre_buffer pyarrow would hold a whole row group, and here that is a shard of 4 GB.
        return pq.ParquetFile(shard, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{shard} cannot be read as parquet: {error}") from error


def _read_names(shard: Path) -> Iterator[tuple[int, Label, str]]:
    """(row in the shard, label, generator) of every row, without reading the images."""
    with _open(shard) as file:
        present = file.schema_arrow.names
        missing = [column for column in _NEEDED if column not in present]
        if missing:
            raise ValueError(f"{shard}: no column {', '.join(missing)}; found {', '.join(present)}")
        columns = [column for column in ("label", "model_name", "real_source") if column in present]
        rows: list[dict[str, Any]] = file.read(columns=columns).to_pylist()
    for number, row in enumerate(rows):
        if row["label"] not in (Label.REAL, Label.FAKE):
            raise ValueError(f"{shard}, row {number}: label {row['label']!r}; expected 0 (real) or 1 (fake)")
        label = Label(row["label"])
        source = row.get("real_source") if label is Label.REAL else None
        yield number, label, source or row["model_name"] or "unknown"


def _cache_images(shards: list[Path]) -> Any:
    """The image column of all shards as one memory-mapped `datasets.Dataset`, copied when first asked for."""
    import datasets  # slow to import: not for those who have no shards

    # Size and time make a changed shard another entry of the cache.
    stats = [shard.stat() for shard in shards]
    versions = [
        (str(shard.resolve()), stat.st_size, stat.st_mtime_ns) for shard, stat in zip(shards, stats, strict=True)
    ]
    with _progress_bar(shown=sum(stat.st_size for stat in stats) >= _PROGRESS_FROM_BYTES):
        # Not load_dataset("parquet"): measured, it takes memory of more than four row groups.
        return datasets.Dataset.from_generator(
            _read_images,
            features=datasets.Features({IMAGE_COLUMN: datasets.Value("binary")}),
            gen_kwargs={"versions": versions},
            writer_batch_size=32,
        )


def _read_images(versions: list[tuple[str, int, int]]) -> Iterator[dict[str, bytes]]:
    for shard, _size, _time in versions:
        with _open(Path(shard)) as file:
            for batch in file.iter_batches(batch_size=32, columns=[IMAGE_COLUMN]):
                for image in batch.column(0):
                    yield {IMAGE_COLUMN: image.as_py()}


@contextmanager
def _progress_bar(*, shown: bool) -> Iterator[None]:
    """Hides the progress bar of `datasets` where the work takes seconds."""
    import datasets

    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
