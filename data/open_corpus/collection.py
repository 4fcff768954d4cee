"""The folder that pictures of the open corpus are collected in: images, manifest.csv and missing.csv."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path, PurePosixPath

from data.open_corpus.listing import PARTS, Listing, Picture
from data.open_corpus.rendering import Rendering
from gapl.files.atomic import replacing
from gapl.files.refusal import refusal
from gapl.labels import Label

MANIFEST = "manifest.csv"
MISSING = "missing.csv"
COLUMNS = (
    "filename",
    "label",
    "generator",
    "source",
    "part",
    "width",
    "height",
    "original_width",
    "original_height",
    "original_format",
    "sha256",
)
MISSING_COLUMNS = ("part", "label", "source", "repository", "commit", "path", "sha256", "reason")
_CLASS_FOLDERS = {Label.REAL: "0_real", Label.FAKE: "1_fake"}


@dataclass(frozen=True)
class Missing:
    """A picture that could not be had, and why, in one line."""

    picture: Picture
    reason: str


class Collection:
    """What was collected in a folder so far.

    An image is at `<part>/<source>/{0_real,1_fake}/<first 16 digits of the SHA-256>.jpg`: a layout of class
    folders, in which a source is a generator or a real source.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder, which need not exist. Raises ValueError when its manifest.csv is something else."""
        self.folder = folder
        self._rows = _read_manifest(folder / MANIFEST)

    def has(self, picture: Picture) -> bool:
        """Return whether the image of the picture is where it belongs."""
        row = self._rows.get(picture.sha256)
        place = _place_of(picture)
        return row is not None and row["filename"] == place and (self.folder / place).is_file()

    def rows(self, part: str) -> list[dict[str, str]]:
        """Return what the manifest says of the images of a part, in its order."""
        return sorted((row for row in self._rows.values() if row["part"] == part), key=itemgetter("filename"))

    def add(self, picture: Picture, rendering: Rendering) -> None:
        """Write the image of a picture. The manifest names it after the next `save`."""
        place = _place_of(picture)
        rendering.save(self.folder / place)
        self._rows[picture.sha256] = {
            "filename": place,
            "label": str(int(picture.label)),
            "generator": picture.generator,
            "source": picture.source,
            "part": picture.part,
            "width": str(rendering.image.width),
            "height": str(rendering.image.height),
            "original_width": str(rendering.original_size[0]),
            "original_height": str(rendering.original_size[1]),
            "original_format": rendering.original_format,
            "sha256": picture.sha256,
        }

    def prune(self, listing: Listing) -> None:
        """Delete the images that were removed on request, and those that the list has in another place by now."""
        listed = {picture.sha256: picture for picture in listing.pictures}
        for sha256, row in list(self._rows.items()):
            picture = listed.get(sha256)
            removed = sha256 in listing.removed or (picture is not None and listing.is_removed(picture))
            if removed or (picture is not None and _place_of(picture) != row["filename"]):
                (self.folder / row["filename"]).unlink(missing_ok=True)
                del self._rows[sha256]

    def save(self) -> None:
        """Write manifest.csv: one line for each image, sorted by its place."""
        rows = sorted(self._rows.values(), key=lambda row: row["filename"])
        _write_csv(self.folder / MANIFEST, COLUMNS, ([row[name] for name in COLUMNS] for row in rows))

    def save_missing(self, missing: Iterable[Missing]) -> None:
        """Write missing.csv: one line for each picture that could not be had."""
        _write_csv(self.folder / MISSING, MISSING_COLUMNS, map(_missing_row, missing))


def image_name(sha256: str) -> str:
    """Return how the file of a picture's image is called, whatever folder it is in."""
    return f"{sha256[:16]}.jpg"


def _missing_row(missing: Missing) -> tuple[object, ...]:
    picture = missing.picture
    kind = (picture.part, int(picture.label), picture.source)
    file = (picture.origin.repository, picture.origin.commit, picture.path, picture.sha256)
    return (*kind, *file, missing.reason)


def _place_of(picture: Picture) -> str:
    return _place(picture.part, picture.source, picture.label, picture.sha256)


def _place(part: str, source: str, label: Label, sha256: str) -> str:
    """Return where an image is below the folder; nothing in it comes from a path of a repository."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", source).lstrip(".") or "_"
    return str(PurePosixPath(part, name, _CLASS_FOLDERS[label], image_name(sha256)))


def _read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a manifest by SHA-256; none when there is no such file."""
    if not path.exists():
        return {}
    what = "the manifest of a collection; name another folder, or remove it to collect everything anew"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"the columns are not {','.join(COLUMNS)}")
            rows = list(reader)
        # Images are deleted by this name, so it must be one that we gave.
        strange = [row for row in rows if row["part"] not in PARTS or row["filename"] != _named(row)]
        if strange:
            raise ValueError(f"{strange[0]['filename']!r} does not follow from its line")
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise refusal(path, ValueError(str(error)), what=what) from None
    return {row["sha256"]: row for row in rows}


def _named(row: dict[str, str]) -> str:
    return _place(row["part"], row["source"], Label(int(row["label"])), row["sha256"])


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
