"""Find the image files below a folder. A file is one by its suffix, or by its first bytes."""

from __future__ import annotations

import codecs
import functools
import mimetypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".qoi", ".heic", ".heif", ".jxl"}
)
START_BYTES = 32  # of a file whose suffix says nothing
SHOWN = 3  # paths that a message names

# Why a file is left out
NO_IMAGE = "no image"
NO_FILE = "no regular file"
OUTSIDE = "a link to the outside, which --follow-links follows"

Note = Callable[[str, str | OSError], None]  # (path, why) of what is left out, or cannot be looked at


@dataclass
class Scan:
    """The images below some paths, and what is there besides.

    images       in the order of the paths, sorted within each
    left_out     how many files are left out, by reason
    unreachable  a line for each folder or file that could not be looked at
    """

    images: list[Path] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    unreachable: list[str] = field(default_factory=list)


def scan_images(paths: Sequence[Path | str], *, follow_links: bool = False) -> Scan:
    """Find the images below folders, at any depth. A file is itself, whatever its name.

    paths          the text "@FILE" stands for the paths in the lines of a file, "-" for those on stdin
    follow_links   also those from a folder to what is outside of it

    Raises ValueError when a path is missing or is neither file nor folder, and when there is no image at all.
    """
    scan = Scan()

    def note(path: str, why: str | OSError) -> None:
        if isinstance(why, OSError):
            scan.unreachable.append(f"{path}: {why.strerror or why}")
        else:
            scan.left_out[why] = scan.left_out.get(why, 0) + 1

    listed = [path for each in paths for path in _named_by(each)]
    for path in listed:
        if path.is_file() or (len(listed) > 1 and not path.exists()):  # of many, it is a row that says so
            scan.images.append(path)
        elif path.exists() and not path.is_dir():
            raise ValueError(f"{path}: {NO_FILE}; expected an image or a folder of images")
        else:
            below = walk(path, note=note, follow_links=follow_links)
            scan.images += map(Path, sorted(image for _, _, images in below for image in images))
    if not listed:
        raise ValueError(f"{', '.join(map(str, paths))}: no paths are listed there")
    if not scan.images:
        more = [f"{len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
        where = ", ".join([*map(str, listed[:SHOWN]), *more])
        raise ValueError(f"{where}: no image files{_besides(scan)}")
    return scan


def _named_by(path: Path | str) -> Iterator[Path]:
    if path == "":
        raise ValueError("an empty path; expected that of an image or of a folder")
    if path == "-":
        if sys.stdin is None:
            raise ValueError("stdin is closed; expected the paths of images, one a line")
        lines = sys.stdin.buffer.read()
    elif isinstance(path, str) and path.startswith("@"):
        lines = Path(path[1:]).read_bytes()
    else:
        yield Path(path)
        return
    yield from (Path(os.fsdecode(line)) for line in lines.removeprefix(codecs.BOM_UTF8).splitlines() if line)


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
            if entry.name.startswith(".") or entry.name == "__MACOSX":
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


def _why_no_image(entry: os.DirEntry[str]) -> str | OSError:
    """Return why a file is no image, or an empty text. Its first bytes are read where its suffix does not tell."""
    is_broken_link = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110
    if not is_broken_link and not entry.is_file():
        return NO_FILE
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
    if suffix in IMAGE_SUFFIXES:
        return ""
    what = f"{NO_IMAGE} ({suffix if suffix.isprintable() and suffix else 'no suffix'})"
    if is_broken_link or _is_of_another_type(suffix):
        return what
    from gapl.decode import image_format

    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123
            return "" if image_format(file.read(START_BYTES)) else what
    except OSError as error:
        return error


@functools.cache
def _is_of_another_type(suffix: str) -> bool:
    """Tell whether files with this suffix are known to be something else than images."""
    return mimetypes.MimeTypes().guess_type(f"x{suffix}")[0] is not None


def counted(left_out: Mapping[str, int]) -> str:
    """Return how many files are left out, by reason, as text."""
    return ", ".join(f"{count} x {why}" for why, count in sorted(left_out.items()))


def _besides(scan: Scan) -> str:
    parts = [counted(scan.left_out)] * bool(scan.left_out) + scan.unreachable
    return f"; found {', '.join(parts)}" if parts else ""
