"""Find the images that a user names."""

from __future__ import annotations

import argparse
import codecs
import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gapl.files.refusal import check_is_file
from gapl.folders import NO_FILE, NO_IMAGE, counted, walk
from gapl.inputs.input import Input, file_input, refused_input
from gapl.inputs.kinds import LIST, PARQUET, TAR, VIDEO, WORDS, ZIP, is_store, kind_of, kind_of_name
from gapl.options import FRAMES, named_paths

if TYPE_CHECKING:
    from gapl.inputs.urls import UrlPolicy

SHOWN = 3  # paths that a message names
STDIN = "stdin"  # what the image on stdin is called


@dataclass
class Scan:
    """The images that a user names, and what is there besides.

    images       in the order in which they are named; sorted within a folder, in its order within an archive
    left_out     how many files are left out, by reason
    unreachable  a line for each folder or file that could not be looked at
    opened       the paths that were looked at, or read for the paths in them
    """

    images: list[Input] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    unreachable: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def note(self, path: str, why: str | OSError) -> None:
        """Count what is left out, or keep what could not be looked at."""
        if isinstance(why, OSError):
            self.unreachable.append(f"{path}: {why.strerror or why}")
        else:
            self.left_out[why] = self.left_out.get(why, 0) + 1

    def add(self, other: Scan) -> None:
        """Add what is found elsewhere."""
        self.images += other.images
        self.left_out = dict(Counter(self.left_out) + Counter(other.left_out))
        self.unreachable += other.unreachable
        self.opened += other.opened


@dataclass(frozen=True)
class Ways:
    """How what is named is looked at.

    follow_links  also those from a folder to what is outside of it
    columns       our name of a column -> its name in a list of images
    frames        how many are taken of a video
    urls          which may be asked; None: none
    """

    follow_links: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    frames: int = FRAMES
    urls: UrlPolicy | None = None


def scan_arguments(args: argparse.Namespace) -> Scan:
    """Find the images that a command line names, as gapl/options.py lets a user do. Raises ValueError as below."""
    urls = None
    if args.allow_urls:
        from gapl.inputs.urls import UrlPolicy

        urls = UrlPolicy()
    ways = Ways(args.follow_links, args.columns, args.frames, urls)
    if not args.stdin_image:
        return scan_images(named_paths(args), ways)
    if "-" in (paths := [*args.paths, *args.image_path]):
        raise ValueError("stdin is the image, with --stdin-image; - cannot name paths there, too")
    scan = Scan([stdin_input()])
    if paths:
        scan.add(scan_images(paths, ways))
    return scan


def stdin_input() -> Input:
    """Return the image on stdin. Raises ValueError when there is none."""
    from gapl.decode import most_bytes

    content = sys.stdin.buffer.read(most_bytes() + 1) if sys.stdin else b""
    if not content:
        raise ValueError("stdin is empty; expected the bytes of an image")
    if len(content) > most_bytes():
        raise ValueError(f"stdin has more than {most_bytes() / 2**30:.1f} GiB, too large for an image")
    return Input(STDIN, lambda: content)


def scan_images(paths: Sequence[Path | str], ways: Ways = Ways()) -> Scan:
    """Find the images that paths name: those below folders at any depth, in archives, tables and videos.

    A file is what its suffix or else its first bytes say, and an image where neither does.

    paths   the text "@FILE" stands for the paths in the lines of a file, "-" for those on stdin, and a pattern
            such as "photos/*.jpg" for what it matches

    Raises ValueError when there is no image at all, and when the only path is missing or cannot be used. Of
    several paths, such a one is an image that cannot be read.
    """
    listed = [path for each in paths for path in _named_by(each)]
    scan = Scan(opened=[*(os.fspath(each).removeprefix("@") for each in paths), *listed])
    for path in listed:
        try:
            found = _look(path, ways, is_alone=len(listed) == 1)
        except (ValueError, OSError) as error:
            if len(listed) == 1 or _is_special(path):
                raise
            found = Scan([refused_input(path, _reason(path, error))])
        scan.add(found)
    if not listed:
        raise ValueError(f"{', '.join(map(str, paths))}: no paths are listed there")
    if not scan.images:
        more = [f"{len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
        where = ", ".join([*listed[:SHOWN], *more])
        raise ValueError(f"{where}: no image files{_besides(scan)}")
    return scan


def _named_by(path: Path | str) -> Iterator[str]:
    if path == "":
        raise ValueError("an empty path; expected that of an image or of a folder")
    if path == "-":
        if sys.stdin is None:
            raise ValueError("stdin is closed; expected the paths of images, one a line")
        lines = sys.stdin.buffer.read()
    elif isinstance(path, str) and path.startswith("@"):
        check_is_file(Path(path[1:]), what="a file with a path in each line")
        lines = Path(path[1:]).read_bytes()
    else:
        yield from _matches(os.fspath(path))
        return
    yield from (os.fsdecode(line) for line in lines.removeprefix(codecs.BOM_UTF8).splitlines() if line)


def _matches(path: str) -> list[str]:
    """Return what a pattern that the shell left as it is matches; the path itself when it is none."""
    if not glob.has_magic(path) or "://" in path or os.path.lexists(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - names as they are written
    if "**" in path:  # it matches folders, and all that is in them
        found = [each for each in found if not Path(each).is_dir()]
    return found or [path]


def _is_special(path: str) -> bool:
    """Tell whether a path is there, and neither file nor folder."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112, PTH113


def _reason(path: str, error: ValueError | OSError) -> str:
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return text.removeprefix(f"{path}: ")


def _look(name: str, ways: Ways, *, is_alone: bool) -> Scan:
    """Return the images of one path."""
    if is_store(name):
        return _look_in_store(name)
    if url := _url(name, ways):
        return Scan([url])
    path = Path(name)
    if path.is_dir():
        return _look_in_folder(path, ways)
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path}: {NO_FILE}; expected an image or a folder of images")
        if is_alone:
            what = "matches no file" if set(name) & {"*", "?"} else "does not exist"
            raise ValueError(f"{path} {what}; expected an image or a folder of images")
        return Scan([file_input(path)])  # a row that says so
    scan = Scan()
    scan.images = _look_in_file(path, ways, scan)
    if not scan.images:
        raise ValueError(f"{path}: no image files{_besides(scan)}")
    return scan


def _url(name: str, ways: Ways) -> Input | None:
    if "://" not in name:
        return None
    from gapl.inputs.urls import url_input

    return url_input(name, ways.urls)


def _look_in_store(url: str) -> Scan:
    from gapl.inputs.stores import list_store

    scan = Scan()
    scan.images = list_store(url, note=scan.note)
    if not scan.images:
        raise ValueError(f"{url}: no image files{_besides(scan)}")
    return scan


def _look_in_folder(path: Path, ways: Ways) -> Scan:
    scan = Scan()

    def note(name: str, why: str | OSError) -> None:
        word = WORDS.get(kind_of_name(name))
        if word and isinstance(why, str) and why.startswith(NO_IMAGE):
            why = f"{word} ({Path(name).suffix.lower()}; read if it is named)"
        scan.note(name, why)

    for _, _, images in walk(path, note=note, follow_links=ways.follow_links):
        scan.images += map(file_input, map(Path, images))
    scan.images.sort(key=lambda image: image.name)
    return scan


def _look_in_file(path: Path, ways: Ways, scan: Scan) -> list[Input]:
    """Return the images that a file is, or holds. What is imported for others is not for images."""
    kind = kind_of(path)
    if kind in (ZIP, TAR):
        from gapl.inputs.archives import list_archive

        return list_archive(path, kind, note=scan.note)
    if kind in (PARQUET, LIST):
        from gapl.inputs.tables import list_parquet, list_rows

        listed = list_parquet if kind == PARQUET else list_rows
        return listed(path, columns=ways.columns, named=lambda text: _url(text, ways))
    if kind == VIDEO:
        from gapl.inputs.video import list_video

        return list_video(path, frames=ways.frames)
    return [file_input(path)]


def _besides(scan: Scan) -> str:
    parts = [counted(scan.left_out)] * bool(scan.left_out) + scan.unreachable
    return f"; found {', '.join(parts)}" if parts else ""
