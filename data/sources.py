"""A path -> Manifest: tells by what is there which of the three forms of a labelled source it is."""

from __future__ import annotations

from pathlib import Path

from data.folders import scan_folder
from data.hub import holds_images, read_shards
from data.records import Manifest
from data.tables import read_manifest


def open_source(text: str | Path, *, split: str | None = None) -> Manifest:
    """The labelled images of a folder layout, a CSV or parquet manifest, or parquet shards.

    `split` ("train", "val", "test") chooses among folders named so or by the manifest's column. Shards, like
    folders and rows outside of any split, are taken whole.

    Raises ValueError when the path is missing or is none of these.
    """
    path = Path(text)
    if path.suffix.lower() == ".csv":
        return read_manifest(path, split=split)
    if holds_images(path):
        return read_shards(path)
    if path.suffix.lower() == ".parquet" and not path.is_dir():
        return read_manifest(path, split=split)
    if path.is_file():
        raise ValueError(f"{path} is no source of images; expected a folder, a .csv or a .parquet file")
    return scan_folder(path, split=split)
