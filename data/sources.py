"""Open a path or URL as images, by what is there: a folder, a manifest, parquet shards or a plan of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data.folders import TABLES, scan_folder
from data.records import Manifest
from data.shards.index import ShardIndex
from data.shards.plan_file import read_plan
from data.shards.scan import holds_images, read_index
from data.tables import read_manifest
from gapl.shards.files import as_url


def open_source(
    text: str | Path, *, split: str | None = None, columns: Mapping[str, str] | None = None
) -> Manifest:
    """Return the labelled images of a folder layout, a CSV or parquet manifest, parquet shards, or a plan of them.

    Shards may be behind a URL of fsspec, such as hf://datasets/OWNER/NAME. `split` ("train", "val", "test")
    leaves out folders, or a manifest's rows, of other splits. Shards are taken whole, of a plan just its rows.
    `columns` says, of a manifest, what it calls ours.

    Raises ValueError when the path is missing or is none of these.
    """
    if (index := open_index(text)) is not None:
        return index.local()
    path = Path(text)
    if is_manifest(path):
        return read_manifest(path, split=split, columns=columns)
    if path.is_file():
        raise ValueError(
            f"{path} is no source of images; expected a folder, a .csv, .tsv or .parquet file, or a plan's .json"
        )
    return scan_folder(path, split=split)


def is_manifest(path: Path) -> bool:
    """Return whether a path that holds no shards is a manifest, by its suffix."""
    return path.suffix.lower() in (*TABLES, ".parquet") and not path.is_dir()


def open_index(text: str | Path) -> ShardIndex | None:
    """Index the rows of shards, here or behind a URL, or of a plan; return None for any other form of images.

    Raises ValueError when shards or a plan cannot be read.
    """
    path = Path(text)
    if path.suffix.lower() == ".json" and path.is_file():
        return read_plan(path)
    if as_url(text) or holds_images(path):
        return read_index(text)
    return None
