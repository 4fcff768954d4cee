"""Open a parquet file by path or URL so that every failure names the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gapl.files.refusal import first_line
from gapl.shards.pages import PIECE_BYTES

_REQUEST_BYTES = 16 << 20  # asked of a server at a time while images are read
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+]+):/+(?P<path>.*)", re.DOTALL)


def as_url(root: str | Path) -> str | None:
    """Return `root` as a URL of fsspec, also when a Path has lost one of its slashes; None for a local path."""
    match = _URL.fullmatch(str(root))
    if not match:
        return None
    return str(root) if "://" in str(root) else f"{match['protocol']}://{match['path']}"


@contextmanager
def open_shard(url: str, *, coalesce: bool = False) -> Iterator[tuple[pq.ParquetFile, pa.NativeFile]]:
    """Open a shard and its bytes. What goes wrong with either while it is open is a ValueError.

    With `coalesce`, small columns that lie close are fetched together; else the file is streamed, for images.
    """
    with naming(url), _open_bytes(url, ahead=not coalesce) as stream:
        # With pre_buffer pyarrow would hold a whole row group, and of images that may be a shard of 4 GB.
        yield pq.ParquetFile(stream, pre_buffer=coalesce, buffer_size=PIECE_BYTES), stream


@contextmanager
def _open_bytes(url: str, *, ahead: bool) -> Iterator[pa.NativeFile]:
    if as_url(url) is None:
        with pa.OSFile(url) as stream:
            yield stream
        return
    filesystem, path = file_system(url)
    cache = {"cache_type": "readahead", "block_size": _REQUEST_BYTES} if ahead else {"cache_type": "none"}
    with filesystem.open(path, "rb", **cache) as remote, pa.PythonFile(remote, mode="r") as stream:
        yield stream


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec that serves a URL, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:  # of a protocol that is not known, or needs another package
        raise ValueError(f"{url} cannot be reached: {error}") from error


@contextmanager
def naming(url: str) -> Iterator[None]:
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
