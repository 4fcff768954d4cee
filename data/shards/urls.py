"""Paths and URLs of data sets: what they are called, and whether they are there."""

from __future__ import annotations

from pathlib import Path

from data.folders import title
from gapl.shards.files import as_url


def name_of(root: str | Path) -> str:
    """Return what shards at this path or URL are called."""
    url = as_url(root)
    path = Path(url.partition("://")[2].lstrip("/") if url else root)
    return title(path.with_suffix("") if path.suffix.lower() == ".parquet" and not path.is_dir() else path)


def require_place(root: str | Path) -> None:
    """Raise ValueError when a local path does not exist; a URL may."""
    if as_url(root) is None and not Path(root).exists():
        raise ValueError(f"{root} does not exist; expected a folder of images, a manifest or shards")
