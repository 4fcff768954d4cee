"""Parquet files by path or URL: find them, and open them so that every failure names the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.shards.pages import PIECE_BYTES
from data.shards.urls import as_url
from gapl.files.refusal import first_line

_REQUEST_BYTES = 16 << 20  # asked of a server at a time while images are read


def find_shards(root: str | Path, *, folders: Sequence[str] = ("data",)) -> list[str]:
    """Find parquet files in `root` or these folders in it, sorted paths or URLs; `root` itself when it is one."""
    if url := as_url(root):
        with _naming(url):
            return sorted(filter(_is_shard, _list_remote(url, folders)))
    path = Path(root)
    found = [path] if path.is_file() else chain(path.glob("*"), *((path / name).glob("*") for name in folders))
    return sorted(filter(_is_shard, map(str, found)))


def _is_shard(url: str) -> bool:
    name = url.rpartition("/")[2]
    return name.lower().endswith(".parquet") and not name.startswith(".")


def _list_remote(url: str, wanted: Sequence[str]) -> list[str]:
    filesystem, path = _filesystem(url)
    if filesystem.info(path)["type"] == "file":
        return [url]
    entries = filesystem.ls(path, detail=True)
    folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
    for folder in folders:
        if folder.rstrip("/").rpartition("/")[2] in wanted:
            entries += filesystem.ls(folder, detail=True)
    return [filesystem.unstrip_protocol(entry["name"]) for entry in entries if entry["type"] == "file"]


@contextmanager
def open_shard(url: str, *, coalesce: bool = False) -> Iterator[tuple[pq.ParquetFile, pa.NativeFile]]:
    """Open a shard and its bytes. What goes wrong with either while it is open is a ValueError.

    With `coalesce`, small columns that lie close are fetched together; else the file is streamed, for images.
    """
    with _naming(url), _open_bytes(url, ahead=not coalesce) as stream:
        # With pre_buffer pyarrow would hold a whole row group, and of images that may be a shard of 4 GB.
        yield pq.ParquetFile(stream, pre_buffer=coalesce, buffer_size=PIECE_BYTES), stream


@contextmanager
def _open_bytes(url: str, *, ahead: bool) -> Iterator[pa.NativeFile]:
    if as_url(url) is None:
        with pa.OSFile(url) as stream:
            yield stream
        return
    filesystem, path = _filesystem(url)
    cache = {"cache_type": "readahead", "block_size": _REQUEST_BYTES} if ahead else {"cache_type": "none"}
    with filesystem.open(path, "rb", **cache) as remote, pa.PythonFile(remote, mode="r") as stream:
        yield stream


def _filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec that serves a URL, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:  # of a protocol that is not known, or needs another package
        raise ValueError(f"{url} cannot be reached: {error}") from error


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Turn every failure to read into a ValueError that names the file in one line."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = (
            "read as parquet" if as_url(url) is None or isinstance(error, pa.ArrowException) else "reached or read"
        )
        raise ValueError(f"{url} cannot be {kind}: {first_line(error)}") from error
    except (ValueError, AssertionError):
        raise
    except Exception as error:  # each file system of fsspec has its own, which are no OSErrors
        raise ValueError(f"{url} cannot be reached or read: {first_line(error)}") from error
