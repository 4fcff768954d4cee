"""Tell what a file that a user names holds: an image, or several."""

from __future__ import annotations

import stat
from pathlib import Path

from gapl.folders import IMAGE_SUFFIXES

IMAGE, ZIP, TAR, PARQUET, LIST, VIDEO = "image", "zip", "tar", "parquet", "list", "video"
SUFFIXES = {
    ZIP: (".zip",),
    TAR: (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz"),
    PARQUET: (".parquet",),
    LIST: (".csv", ".tsv"),
    VIDEO: (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".ogv"),
}
WORDS = {ZIP: "archive", TAR: "archive", PARQUET: "table", VIDEO: "video"}  # what a folder leaves out, and says so
_STARTS = {
    b"PK\x03\x04": ZIP,
    b"PK\x05\x06": ZIP,  # without members
    b"\x1f\x8b": TAR,
    b"BZh": TAR,
    b"\xfd7zXZ\0": TAR,
    b"PAR1": PARQUET,
}
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "webhdfs", "oci", "hf", "memory")  # of fsspec
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257


def is_store(name: str) -> bool:
    """Tell whether a name is a URL of an object store."""
    protocol, found, _ = name.partition("://")
    return bool(found) and protocol.lower() in STORES


def kind_of_name(name: str) -> str:
    """Return the kind of a file by the suffix of its name; an empty text when that tells none."""
    lower = name.lower()
    if Path(lower).suffix in IMAGE_SUFFIXES:
        return IMAGE
    return next((kind for kind, suffixes in SUFFIXES.items() if lower.endswith(suffixes)), "")


def kind_of(path: Path) -> str:
    """Return the kind of a file: by its suffix or, where that tells none, by its first bytes.

    What cannot be opened, or is nothing else, is an image: reading it says what is wrong.
    """
    if kind := kind_of_name(path.name):
        return kind
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return IMAGE
        with path.open("rb") as file:
            start = file.read(_TAR_MARK_AT + len(_TAR_MARK))
    except OSError:
        return IMAGE
    if start[_TAR_MARK_AT:] == _TAR_MARK:
        return TAR
    return next((kind for mark, kind in _STARTS.items() if start.startswith(mark)), IMAGE)
