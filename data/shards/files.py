"""Find parquet files by path or URL."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from gapl.shards.files import as_url, file_system, naming


def find_shards(root: str | Path, *, folders: Sequence[str] = ("data",)) -> list[str]:
    """Find parquet files in `root` or these folders in it, sorted paths or URLs; `root` itself when it is one."""
    if url := as_url(root):
        with naming(url):
            return sorted(filter(_is_shard, _list_remote(url, folders)))
    path = Path(root)
    found = [path] if path.is_file() else chain(path.glob("*"), *((path / name).glob("*") for name in folders))
    return sorted(filter(_is_shard, map(str, found)))


def _is_shard(url: str) -> bool:
    name = url.rpartition("/")[2]
    return name.lower().endswith(".parquet") and not name.startswith(".")


def _list_remote(url: str, wanted: Sequence[str]) -> list[str]:
    filesystem, path = file_system(url)
    if filesystem.info(path)["type"] == "file":
        return [url]
    entries = filesystem.ls(path, detail=True)
    folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
    for folder in folders:
        if folder.rstrip("/").rpartition("/")[2] in wanted:
            entries += filesystem.ls(folder, detail=True)
    return [filesystem.unstrip_protocol(entry["name"]) for entry in entries if entry["type"] == "file"]
