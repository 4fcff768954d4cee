"""Paths and URLs of data sets: which is which, and what they are called."""

from __future__ import annotations

import re
from pathlib import Path

from data.folders import title

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+]+):/+(?P<path>.*)", re.DOTALL)


def as_url(root: str | Path) -> str | None:
    """Return `root` as a URL of fsspec, also when a Path has lost one of its slashes; None for a local path."""
    match = _URL.fullmatch(str(root))
    if not match:
        return None
    return str(root) if "://" in str(root) else f"{match['protocol']}://{match['path']}"


def name_of(root: str | Path) -> str:
    """Return what shards at this path or URL are called."""
    path = Path(_URL.sub(r"\g<path>", str(root)))
    return title(path.with_suffix("") if path.suffix.lower() == ".parquet" and not path.is_dir() else path)


def require_place(root: str | Path) -> None:
    """Raise ValueError when a local path does not exist; a URL may."""
    if as_url(root) is None and not Path(root).exists():
        raise ValueError(f"{root} does not exist; expected a folder of images, a manifest or shards")
