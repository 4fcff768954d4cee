"""Pieces of HTML that trust nothing: escaped and short texts, pictures as data, hashes for a page's policy."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Iterable
from itertools import takewhile
from string import Template

from gapl.cli import printable
from gapl.thumbnail import Thumbnail

MAX_TEXT, MAX_NAME = 400, 1_000  # characters of a text, and of a path

_AFTER_SEPARATOR = re.compile(rf"(?<=[/{re.escape(os.sep)}])")
_PICTURE = Template('<img src="data:image/jpeg;base64,$jpeg" width="$width" height="$height" alt="$name">')


def text(value: str, *, limit: int = MAX_TEXT) -> str:
    """Return a text in one line of at most `limit` characters, escaped for an element or an attribute."""
    line = printable(value[: limit + 1])
    return html.escape(line if len(line) <= limit else f"{line[: limit - 3]}...")


def name(path: str, folder: str = "") -> str:
    """Return a path without the folder that it is in, escaped."""
    return text(path.removeprefix(folder), limit=MAX_NAME)


def common_folder(paths: Iterable[str]) -> str:
    """Return the folder that all paths are in, with its last separator; empty where there is none.

    It is literally how they begin: they may be URLs, or lead into archives, whose // and ./ matter.
    """
    folders = {tuple(_AFTER_SEPARATOR.split(path)[:-1]) for path in paths}
    common = takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    return "".join(names[0] for names in common)


def picture(thumbnail: Thumbnail, *, alt: str) -> str:
    """Return an image that holds its JPEG.

    alt   escaped
    """
    width, height = thumbnail.size
    jpeg = base64.b64encode(thumbnail.jpeg).decode()
    return _PICTURE.substitute(jpeg=jpeg, width=width, height=height, name=alt)


def policy_hash(source: str) -> str:
    """Return how a Content-Security-Policy names a style or a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
