"""A folder into which images are sorted by their verdicts: fake/, real/, unsure/ and unreadable/."""

from __future__ import annotations

import filecmp
import itertools
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gapl.cli import printable
from gapl.decode import image_format
from gapl.files.refusal import naming
from gapl.folders import IMAGE_SUFFIXES, START_BYTES
from gapl.inputs.input import Input
from gapl.kept import COPY, Kept
from gapl.options import HARD, SYMBOLIC
from gapl.results import UNREADABLE, Result

log = logging.getLogger(__name__)

MAX_NAME_BYTES, MAX_SUFFIX_BYTES = 255, 32  # of a file, as systems allow; of what is taken for its suffix


class SortedFolder:
    """Copies images, or links to them. It never changes an image, nor a file that is in the folder already."""

    def __init__(self, folder: Path, *, link: str | None = None) -> None:
        """Make the folder.

        link   "hard" or "symbolic": no copies of what is a file

        Raises OSError when it cannot be made.
        """
        self.path, self._link = folder, link
        self._counts: Counter[str] = Counter()
        self._kept = Kept(folder)

    def holds(self, path: str) -> bool:
        """Tell whether a path is below the folder: an earlier run may have put it there."""
        return Path(path).absolute().is_relative_to(self.path.absolute())

    def keeping(self, image: Input) -> Input:
        """Return an image that leaves its bytes here when it is read, unless it is a file of its own."""
        return self._kept.keeping(image)

    def add(self, result: Result) -> None:
        """Put the image below the folder of its label, under its name, or name-2 where another file has that.

        An image that cannot be opened is left out. Raises OSError when nothing can be written there.
        """
        kept = self._kept.get(result.path)
        image = kept or Path(result.path)
        if not _can_be_read(image):
            self._counts["could not be opened"] += 1
            return
        below = self.path / (result.verdict.label if result.verdict else UNREADABLE)
        for target in _names(below / _image_name(result.path, image)):
            if not os.path.lexists(target):
                self._put(image, target, link=None if kept else self._link)
                self._counts["added"] += 1
                break
            if _is_same(image, target):
                self._counts["there already"] += 1
                break
        self._kept.drop(result.path)

    def _put(self, image: Path, target: Path, *, link: str | None) -> None:
        with naming(target):
            target.parent.mkdir(exist_ok=True)
            if link == SYMBOLIC:
                target.symlink_to(image.absolute())
            elif link == HARD:
                target.hardlink_to(image.resolve())
            else:
                scratch = self._kept.folder / COPY
                shutil.copyfile(image, scratch)
                times = image.stat()
                os.utime(scratch, ns=(times.st_atime_ns, times.st_mtime_ns))
                target.open("xb").close()  # fails where another run was faster
                scratch.replace(target)

    def finish(self) -> None:
        """Remove what was kept, and log what was done."""
        self._kept.close()
        parts = ", ".join(f"{count} {what}" for what, count in sorted(self._counts.items()))
        log.info("Sorted into %s: %s", printable(self.path), parts)


def _can_be_read(image: Path) -> bool:
    try:
        if not image.is_file():  # opening a pipe would wait for ever
            return False
        image.open("rb").close()
    except OSError:
        return False
    return True


def _image_name(path: str, image: Path) -> str:
    """Return the last part of a path, with the suffix of its format where it has none of an image."""
    name = Path(path).name.replace("\0", "_")
    with image.open("rb") as file:
        format = image_format(file.read(START_BYTES)).lower()
    return name if Path(name).suffix.lower() in IMAGE_SUFFIXES or not format else f"{name}.{format}"


def _names(target: Path) -> Iterator[Path]:
    """Yield a.jpg, a-2.jpg, a-3.jpg and so on; where that is too long for a name, a shorter one."""
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= MAX_SUFFIX_BYTES else ""
    stem = os.fsencode(target.name.removesuffix(suffix))
    for number in itertools.count(1):
        end = suffix if number == 1 else f"-{number}{suffix}"
        most = MAX_NAME_BYTES - len(os.fsencode(end))
        start = os.fsdecode(stem) if len(stem) <= most else stem[:most].decode(errors="ignore")
        yield target.with_name(f"{start}{end}")


def _is_same(image: Path, target: Path) -> bool:
    """Tell whether a file is the image, a link to it or a copy."""
    if not target.is_file():  # a folder, or a broken link
        return False
    return image.samefile(target) or filecmp.cmp(image, target, shallow=False)
