"""Find the image files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def scan_images(path: Path) -> list[Path]:
    """List the image files of a folder, at any depth, sorted; a file is itself, whatever its name.

    Raises ValueError when `path` is missing or holds no image.
    """
    if path.is_file():
        return [path]
    found = sorted(image for _, _, images in walk(path) for image in images)
    if not found:
        raise ValueError(f"{path}: no image files; expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    return [Path(image) for image in found]


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield `root` and every folder below it, each with the names of its folders and the paths of its images.

    A folder comes before those inside it. Links are followed, except those back to a folder above.

    Raises ValueError when `root` is missing or no folder.
    """
    if not root.exists():
        raise ValueError(f"{root} does not exist; expected an image or a folder of images")
    if not root.is_dir():
        raise ValueError(f"{root} is a file; expected a folder of images")
    yield from _walk(str(root), ())


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str], list[str]]]:
    real_path = os.path.realpath(folder)
    if real_path in above:
        return
    subfolders, images = _list(folder)
    yield folder, subfolders, images
    for name in subfolders:
        yield from _walk(join(folder, name), (*above, real_path))


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder, as a string: a Path for each of a million images would be slow."""
    return os.path.join(folder, name)  # noqa: PTH118


def _list(folder: str) -> tuple[list[str], list[str]]:
    """List names of sub-folders and paths of images directly in `folder`, sorted, without hidden ones."""
    subfolders, images = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            # isdir() also answers for a broken or circular link. A broken link to an image stays an image:
            # that it cannot be read is for decoding to report.
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112
            if is_folder:
                subfolders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                images.append(entry.path)
    return sorted(subfolders), sorted(images)
