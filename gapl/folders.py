"""Find the image files below a folder. A file is one by its suffix, or by its first bytes."""

from __future__ import annotations

import functools
import mimetypes
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".qoi", ".heic", ".heif", ".jxl"}
)
START_BYTES = 32  # of a file whose suffix says nothing

# Why a file is left out
NO_IMAGE = "no image"
NO_FILE = "no regular file"
OUTSIDE = "a link to the outside, which --follow-links follows"

Note = Callable[[str, str | OSError], None]  # (path, why) of what is left out, or cannot be looked at


def walk(
    root: Path, *, note: Note | None = None, follow_links: bool = True
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield `root` and every folder below it, each with the names of its folders and the paths of its images.

    A folder comes before those inside it. Names that begin with a dot are hidden.

    note           is told of files that are no images, and of what cannot be looked at; None: the latter raises
    follow_links   also those to what is outside of `root`; never those back to a folder above

    Raises ValueError when `root` is missing or no folder, and OSError without a `note`.
    """
    if not root.exists():
        raise ValueError(f"{root} does not exist; expected an image or a folder of images")
    if not root.is_dir():
        raise ValueError(f"{root} is a file; expected a folder of images")
    inside = "" if follow_links else os.path.realpath(root)
    yield from _walk(str(root), note or _raise_errors, inside)


def _raise_errors(_path: str, why: str | OSError) -> None:
    if isinstance(why, OSError):
        raise why


def _walk(root: str, note: Note, inside: str) -> Iterator[tuple[str, list[str], list[str]]]:
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, frozenset())]  # each with those above it
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in above:
                continue
            subfolders, images = _list(folder, note, inside)
        except OSError as error:
            note(folder, error)
            continue
        yield folder, subfolders, images
        here = above | {(status.st_dev, status.st_ino)}
        waiting += ((join(folder, name), here) for name in reversed(subfolders))


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder, as a string: a Path for each of a million images would be slow."""
    return os.path.join(folder, name)  # noqa: PTH118


def _list(folder: str, note: Note, inside: str) -> tuple[list[str], list[str]]:
    """List names of sub-folders and paths of images directly in `folder`, sorted, without hidden ones."""
    subfolders, images = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            is_link = entry.is_symlink()
            if is_link and inside and not _is_inside(entry.path, inside):
                note(entry.path, OUTSIDE)
            # isdir() also answers for a broken or circular link. A broken link to an image stays an image:
            # that it cannot be read is for decoding to report.
            elif os.path.isdir(entry.path) if is_link else entry.is_dir():  # noqa: PTH112
                subfolders.append(entry.name)
            elif why := _why_no_image(entry):
                note(entry.path, why)
            else:
                images.append(entry.path)
    return sorted(subfolders), sorted(images)


def _is_inside(link: str, folder: str) -> bool:
    target = os.path.realpath(link)
    return target == folder or target.startswith(folder.rstrip(os.sep) + os.sep)


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is passed over."""
    return name.startswith(".") or name == "__MACOSX"


def _why_no_image(entry: os.DirEntry[str]) -> str | OSError:
    """Return why a file is no image, or an empty text."""
    is_broken_link = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110
    if not is_broken_link and not entry.is_file():
        return NO_FILE

    def read_start() -> bytes:
        if is_broken_link:
            return b""
        with open(entry.path, "rb") as file:  # noqa: PTH123
            return file.read(START_BYTES)

    try:
        return why_no_image(entry.name, read_start)
    except OSError as error:
        return error


def why_no_image(name: str, read_start: Callable[[], bytes]) -> str:
    """Return why a file of this name is no image, or an empty text.

    read_start  returns its first START_BYTES; called where the suffix does not tell
    """
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if suffix in IMAGE_SUFFIXES:
        return ""
    what = f"{NO_IMAGE} ({suffix if suffix.isprintable() and suffix else 'no suffix'})"
    if _is_of_another_type(suffix):
        return what
    from gapl.decode import image_format

    return "" if image_format(read_start()) else what


@functools.cache
def _is_of_another_type(suffix: str) -> bool:
    """Tell whether files with this suffix are known to be something else than images."""
    return mimetypes.MimeTypes().guess_type(f"x{suffix}")[0] is not None


def counted(left_out: Mapping[str, int]) -> str:
    """Return how many files are left out, by reason, as text."""
    return ", ".join(f"{count} x {why}" for why, count in sorted(left_out.items()))
