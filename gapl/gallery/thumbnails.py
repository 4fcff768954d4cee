"""Thumbnails that wait on disk, in a file without a name, until a page is written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gapl.files.refusal import naming
from gapl.gallery import markup
from gapl.thumbnail import Thumbnail

_GONE = '<div class="frame">no picture</div>'


class Thumbnails:
    """The thumbnails of a page. Memory does not grow with them."""

    def __init__(self, page: Path) -> None:
        """Begin beside the page. Raises OSError when nothing can be written there."""
        self._page = page
        self._places: dict[str, tuple[int, int, tuple[int, int]]] = {}  # start, length, size
        with naming(page):
            page.parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=page.parent)  # noqa: SIM115 - until the page is written

    def add(self, sha256: str, thumbnail: Thumbnail) -> None:
        """Keep the thumbnail of a content."""
        if sha256 not in self._places:
            with naming(self._page):
                self._places[sha256] = (self._file.seek(0, 2), len(thumbnail.jpeg), thumbnail.size)
                self._file.write(thumbnail.jpeg)

    def get(self, sha256: str) -> Thumbnail | None:
        """Return the thumbnail of a content, if it was kept."""
        if sha256 not in self._places:
            return None
        start, length, size = self._places[sha256]
        self._file.seek(start)
        return Thumbnail(self._file.read(length), size)

    def framed(self, sha256: str, *, alt: str) -> str:
        """Return the HTML of a content's thumbnail, or that there is none.

        alt   escaped
        """
        thumbnail = self.get(sha256)
        return f'<div class="frame">{markup.picture(thumbnail, alt=alt)}</div>' if thumbnail else _GONE

    def close(self) -> None:
        """Forget them."""
        self._file.close()
