"""Images in object stores and other file systems of fsspec, such as s3://bucket/photos/ or gs://bucket/a.jpg."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import Any

from gapl.decode import UnreadableImage, most_bytes
from gapl.files.refusal import first_line
from gapl.folders import IMAGE_SUFFIXES, NO_IMAGE, Note, is_hidden
from gapl.inputs.input import Input, require


def list_store(url: str, *, note: Note) -> list[Input]:
    """Return the images below a folder of a store, sorted by their names; a file is itself. None is read yet.

    note   is told of files whose suffix is not that of an image: to look into each would be a request

    Raises ValueError, one line, when fsspec or what the protocol needs is missing, or the store cannot be listed.
    """
    require("fsspec", "fsspec", what=f"{url}: a store")
    try:
        store, root = _file_system(url)
        paths = [root] if store.isfile(root) else sorted(store.find(root))
    except Exception as error:  # each file system of fsspec has its own errors
        raise ValueError(f"{url} cannot be reached: {first_line(error)}") from error
    images = []
    for path in paths:
        below = PurePosixPath(path.removeprefix(root).strip("/"))
        suffix = PurePosixPath(path).suffix.lower()
        if any(map(is_hidden, below.parts)):
            continue
        if path != root and suffix not in IMAGE_SUFFIXES:
            note(path, f"{NO_IMAGE} ({suffix or 'no suffix'})")
            continue
        images.append(Input(store.unstrip_protocol(path), partial(_read, url, path)))
    return images


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    store, root = url_to_fs(url)
    return store, str(root)


def _read(url: str, path: str) -> bytes:
    """Return the bytes of an image. Whoever reads opens the store anew: it may be another process or machine."""
    try:
        store, _ = _file_system(url)
        size = store.size(path)
        if size is not None and size > most_bytes():
            raise UnreadableImage(f"a file of {size / 2**30:.1f} GiB is too large for an image")
        encoded: bytes = store.cat_file(path)
    except UnreadableImage:
        raise
    except Exception as error:  # each file system of fsspec has its own errors
        raise UnreadableImage(f"cannot be read: {first_line(error)}") from error
    return encoded
