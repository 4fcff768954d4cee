"""Find labelled images in folders: the name of the folder that an image is in tells whether it is real or fake."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from data.records import Manifest, Record
from gapl.folders import join, walk
from gapl.labels import Label

logger = logging.getLogger(__name__)

REAL_NAMES = ("0_real", "real", "nature", "natural")
FAKE_NAMES = ("1_fake", "fake", "ai", "synthetic")

# What a folder or a manifest may call a split, and what we call it.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

# Object classes of ProGAN in ForenSynths. Another one is called "train": beside these it is no split.
_OBJECT_CLASSES = frozenset({"airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "tvmonitor"})


def normalise(name: str) -> str:
    """Return a folder name as it is compared: lower case, letters and digits only."""
    return "".join(char for char in name.lower() if char.isalnum())


_LABELS = {normalise(name): Label.REAL for name in REAL_NAMES} | {
    normalise(name): Label.FAKE for name in FAKE_NAMES
}


def title(root: Path) -> str:
    """Return the name of a root folder; one named after a split is called after the folder above it."""
    path = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow a link to another name
    while normalise(path.name) in SPLITS:
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

    def enter(self, name: str, siblings: frozenset[str]) -> ImageFolder:
        """Return what is known inside the sub-folder `name`; `siblings` are the normalised names around it."""
        plain = normalise(name)
        path = self.path / name if self.label is None else self.path
        if self.label is None and plain in _LABELS:
            return replace(self, path=path, label=_LABELS[plain])
        if self.split is None and plain in SPLITS and not siblings & _OBJECT_CLASSES:
            return replace(self, path=path, split=SPLITS[plain])
        repeats = bool(self.parts) and normalise(self.parts[-1]) == plain
        if self.label is not None or repeats:
            return replace(self, path=path)
        return replace(self, path=path, parts=(*self.parts, name))


def find_image_folders(root: Path) -> dict[ImageFolder, list[str]]:
    """Find every class folder below `root` with its images, at any depth, and other folders that have images.

    Raises ValueError when `root` is missing or no folder.
    """
    found: dict[ImageFolder, list[str]] = {}
    places = {str(root): ImageFolder(root)}
    for folder, subfolders, images in walk(root):
        place = places.pop(folder)
        siblings = frozenset(normalise(name) for name in subfolders)
        places |= {join(folder, name): place.enter(name, siblings) for name in subfolders}
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
    folders = find_image_folders(root)
    classes = {folder: images for folder, images in folders.items() if folder.label is not None}
    if not classes:
        raise ValueError(
            f"{root}: no class folder found; looked at every depth for folders named "
            f"{', '.join(REAL_NAMES)} (real) or {', '.join(FAKE_NAMES)} (fake)"
        )
    records = [
        Record(uri, folder.label, "/".join(folder.parts) or title(root))
        for folder, images in classes.items()
        if folder.label is not None and (split is None or folder.split in (None, split))
        for uri in images
    ]
    if not records:
        of_split = f" of split {split!r}" if split else ""
        raise ValueError(f"{root}: {len(classes)} class folders found, but no images{of_split} in them")
    _tell_what_is_left_out(root, folders)
    return Manifest(title(root), tuple(sorted(records, key=lambda record: record.uri)))


def evaluation_splits(present: set[str | None], *, train: bool) -> set[str | None]:
    """Return the test split, else the validation split, else `train` if allowed; and None, which is no split."""
    order = ("test", "val", "train") if train else ("test", "val")
    return {None, *[split for split in order if split in present][:1]}


def check_split(split: str | None) -> None:
    """Raise ValueError unless `split` is None, "train", "val" or "test"."""
    allowed = sorted(set(SPLITS.values()))
    if split is not None and split not in allowed:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(allowed)}")


def _tell_what_is_left_out(root: Path, folders: dict[ImageFolder, list[str]]) -> None:
    outside = sorted(str(folder.path) for folder in folders if folder.label is None)
    empty = sorted(str(folder.path) for folder in folders if not folders[folder])
    if outside:
        logger.warning(
            "%s: images outside of class folders are left out, in %d folders such as %s",
            root,
            len(outside),
            outside[0],
        )
    if empty:
        logger.warning("%s: %d class folders without images, such as %s", root, len(empty), empty[0])
