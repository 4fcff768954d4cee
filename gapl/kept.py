"""The bytes of images that are no files of their own: they wait on disk until all is made of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from gapl.inputs.input import Input


class Kept:
    """A folder for the time of a run. What is in an archive, a video or behind a URL is read once."""

    def __init__(self, folder: Path) -> None:
        """Make it inside another folder, which is made, too. Raises OSError when it cannot be made."""
        folder.mkdir(parents=True, exist_ok=True)
        self._scratch = TemporaryDirectory(dir=folder, prefix=".scratch-")
        self.folder = Path(self._scratch.name)
        self._numbers = itertools.count()
        self._files: dict[str, Path] = {}

    def keeping(self, image: Input) -> Input:
        """Return an image that leaves its bytes here when it is read, unless it is a file of its own."""
        return image if image.file else replace(image, read=partial(self._read, image))

    def _read(self, image: Input) -> bytes:
        encoded = image.read()
        kept = self.folder / str(next(self._numbers))
        try:
            kept.write_bytes(encoded)
        except OSError as error:  # which says nothing of the image
            raise ValueError(f"{kept}: {error.strerror}") from error
        self._files[image.name] = kept
        return encoded

    def get(self, name: str) -> Path | None:
        """Return where the bytes of an image are, if it left them here."""
        return self._files.get(name)

    def drop(self, name: str) -> None:
        """Remove what an image left here, if anything."""
        if kept := self._files.pop(name, None):
            kept.unlink()

    def close(self) -> None:
        """Remove what is left."""
        self._scratch.cleanup()
