"""The bytes of images that are no files of their own: they wait on disk until all is made of them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from gapl.files.lock import lock
from gapl.inputs.input import Input

_PREFIX = ".scratch-"
_NAME = re.compile(rf"{re.escape(_PREFIX)}\w{{8}}")  # as TemporaryDirectory makes it
COPY = "copy"  # what a file in it may be called, beside a number


class Kept:
    """A folder for the time of a run. What is in an archive, a video or behind a URL is read once."""

    def __init__(self, folder: Path) -> None:
        """Make it inside another folder, which is made, too, and remove those of runs that were killed.

        Raises OSError when it cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        with ExitStack() as alone:  # so that nobody removes what is not locked yet
            if _lock(folder, alone, wait=True):
                _remove_left(folder)
            self._scratch = TemporaryDirectory(dir=folder, prefix=_PREFIX)
            self.folder = Path(self._scratch.name)
            _lock(self.folder, self._held)
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
        self._held.close()


def _lock(folder: Path, held: ExitStack, *, wait: bool = False) -> bool:
    """Lock a folder until `held` is closed, and tell whether that could be done."""
    descriptor = lock(folder, wait=wait)
    if descriptor is not None:
        held.callback(os.close, descriptor)
    return descriptor is not None


def _remove_left(folder: Path) -> None:
    """Remove what a killed run left in a folder: of the name and content of our own, and locked by no process."""
    for left in folder.iterdir():
        is_folder = bool(_NAME.fullmatch(left.name)) and left.is_dir() and not left.is_symlink()
        if not is_folder or not os.access(left, os.R_OK | os.W_OK | os.X_OK):  # it may be another user's
            continue
        with ExitStack() as held:
            if not _lock(left, held) or not left.exists():  # its run goes on, or has just ended
                continue
            if all(each.name.isdecimal() or each.name == COPY for each in left.iterdir()):
                shutil.rmtree(left)
