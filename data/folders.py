"""Find labelled images in folders: the name of the folder that an image is in tells whether it is real or fake."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data.records import Manifest, Record
from data.words import CLASSES, SPLITS, class_of, classes_of, split_of
from gapl.columns import normalise
from gapl.folders import Note, counted, join, walk
from gapl.labels import Label

logger = logging.getLogger(__name__)

TABLES = (".csv", ".tsv")  # suffixes of manifests, beside .parquet
_SHOWN = 5  # of many folders

# Object classes of ProGAN in ForenSynths. Another one is called "train": beside these it is no split.
_OBJECT_CLASSES = frozenset({"airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "tvmonitor"})


def title(root: Path) -> str:
    """Return the name of a root folder; one named after a split is called after the folder above it."""
    path = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow a link to another name
    while split_of(path.name):
        path = path.parent
    return path.name


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A folder of images, and what the names on the way to it tell.

    path    the class folder; outside of class folders, the folder that directly holds the images
    label   of the class folder; None outside of class folders
    split   "train", "val" or "test" when a folder on the way is named so, else None
    parts   the other folders between the root and `path`, a name that repeats itself once
    """

    path: Path
    label: Label | None = None
    split: str | None = None
    parts: tuple[str, ...] = ()

    def enter(self, name: str, label: Label | None, *, beside: frozenset[str]) -> ImageFolder:
        """Return what is known inside a sub-folder.

        label   of the sub-folder by its name, if it is a class
        beside  the normalised names of the sub-folder and of those around it
        """
        if self.label is not None:
            split = self.split or (None if beside & _OBJECT_CLASSES else split_of(name))
            return replace(self, split=split)
        inside = replace(self, path=self.path / name)
        if label is not None:
            return replace(inside, label=label)
        if self.split is None and split_of(name) and not beside & _OBJECT_CLASSES:
            return replace(inside, split=split_of(name))
        repeats = bool(self.parts) and normalise(self.parts[-1]) == normalise(name)
        return inside if repeats else replace(inside, parts=(*self.parts, name))

    def holding_both(self, folder: Path) -> ImageFolder:
        """Return what is known in `folder`, at or below this one, in which there are folders of both classes.

        A class folder with such folders is none itself. Raises ValueError when they are deeper in it.
        """
        if self.label is None:
            return self
        if self.path != folder:
            raise ValueError(
                f"{folder} has folders of real images and of fakes, but {self.path} is named like a folder of "
                f"{self.label.word} images alone; rename one of them"
            )
        return replace(self, label=None, parts=(*self.parts, folder.name))


def find_image_folders(root: Path, *, note: Note | None = None) -> dict[ImageFolder, list[str]]:
    """Find every class folder below `root` with its images, at any depth, and other folders that have images.

    note   is told of the files that are no images

    Raises ValueError when `root` is missing or no folder, and when a class folder has folders of both classes
    deep inside. Raises OSError when a folder cannot be listed.
    """
    found: dict[ImageFolder, list[str]] = {}
    places = {str(root): ImageFolder(root)}

    def tell(path: str, why: str | OSError) -> None:
        if isinstance(why, OSError):
            raise why
        if note:
            note(path, why)

    for folder, subfolders, images in walk(root, note=tell):
        place = places.pop(folder)
        if len({class_of(name) for name in subfolders} - {None}) == len(Label):
            place = place.holding_both(Path(folder))
        labels = classes_of(subfolders)
        beside = frozenset(map(normalise, subfolders))
        for name in subfolders:
            places[join(folder, name)] = place.enter(name, labels.get(name), beside=beside)
        # A class folder is kept without images too, so that callers can tell of it.
        if images or place.label is not None:
            found.setdefault(place, []).extend(images)
    return found


def scan_folder(root: Path, *, split: str | None = None) -> Manifest:
    """Return all labelled images below `root`, sorted by path.

    The generator of a record is the path of its class folder's parent below `root`, without folders named
    after a split ("sd15", "stylegan2/face"), or the name of `root` if nothing remains. With `split`, folders
    of other splits are left out; a folder that belongs to no split is kept.

    Raises ValueError when `root` is missing or a file, when no class folder is found, or none has images.
    """
    check_split(split)
    left_out: Counter[str] = Counter()
    folders = find_image_folders(root, note=lambda _, why: left_out.update([str(why)]))
    classes = {folder: images for folder, images in folders.items() if folder.label is not None}
    if not classes:
        raise ValueError(f"{root}: {what_is_there(root, folders)}")
    records = [
        Record(uri, folder.label, "/".join(folder.parts) or title(root))
        for folder, images in classes.items()
        if folder.label is not None and (split is None or folder.split in (None, split))
        for uri in images
    ]
    if not records:
        of_split = f" of split {split!r}" if split else ""
        besides = f"; found {counted(left_out)}" if left_out else ""
        raise ValueError(f"{root}: {len(classes)} class folders found, but no images{of_split} in them{besides}")
    _tell_what_is_left_out(root, folders, left_out)
    return Manifest(title(root), tuple(sorted(records, key=lambda record: record.uri)))


def what_is_there(root: Path, folders: Mapping[ImageFolder, list[str]]) -> str:
    """Say, of a root without class folders, which other folders and tables there are."""
    tables = sorted(path.name for path in root.iterdir() if path.suffix.lower() in TABLES)
    found = [
        *names_of(root, folders),
        *([f"tables such as {tables[0]}, given by their own path"] if tables else []),
    ]
    known = " and ".join(f"{', '.join(CLASSES[label])} ({label.word})" for label in Label)
    return f"no class folder found; there are: {', '.join(found) or 'no images'}; known are {known}"


def names_of(root: Path, folders: Mapping[ImageFolder, list[str]]) -> list[str]:
    """Return a few names of the folders that have images and no label, and how many more these are."""
    paths = sorted(folder.path for folder, images in folders.items() if folder.label is None and images)
    names = ["images directly in it" if path == root else str(path.relative_to(root)) for path in paths]
    return [*names[:_SHOWN], *([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])]


def evaluation_splits(present: set[str | None], *, train: bool) -> set[str | None]:
    """Return the test split, else the validation split, else `train` if allowed; and None, which is no split."""
    order = ("test", "val", "train") if train else ("test", "val")
    return {None, *[split for split in order if split in present][:1]}


def check_split(split: str | None) -> None:
    """Raise ValueError unless `split` is None, "train", "val" or "test"."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(sorted(SPLITS))}")


def _tell_what_is_left_out(root: Path, folders: Mapping[ImageFolder, list[str]], left_out: Counter[str]) -> None:
    outside = names_of(root, folders)
    empty = sorted(str(folder.path) for folder in folders if not folders[folder])
    if outside:
        logger.warning("%s: images outside of class folders are left out: %s", root, ", ".join(outside))
    if left_out:
        logger.warning("%s: left out: %s", root, counted(left_out))
    if empty:
        logger.warning("%s: %d class folders without images, such as %s", root, len(empty), empty[0])
