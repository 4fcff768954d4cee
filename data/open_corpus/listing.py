"""Read the list of the open corpus: which pictures it has, in which repositories, and which were removed."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from gapl.files.refusal import refusal
from gapl.labels import Label

SHIPPED = Path(__file__).resolve().parent
PARTS = ("train", "bench/modern", "bench/wide", "bench/unseen")
PICTURE_COLUMNS = ("part", "label", "generator", "source", "repository", "commit", "path", "sha256")
REPOSITORY_COLUMNS = ("repository", "commit", "licence")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Also what a URL and the name of a folder are made from: no slash more, no leading dash or dot.
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, order=True, slots=True)
class Origin:
    """A repository ("owner/name") at one commit (40 hexadecimal digits)."""

    repository: str
    commit: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One line of pictures.csv: a file of a repository, by its SHA-256, and what it is."""

    part: str
    label: Label
    generator: str
    source: str
    origin: Origin
    path: str
    sha256: str


@dataclass(frozen=True)
class Listing:
    """The pictures of the open corpus, in the order of the list, and what their owners want to see no more.

    removed   SHA-256 of pictures, and repositories in lower case
    """

    pictures: tuple[Picture, ...]
    removed: frozenset[str]

    def of_parts(self, parts: Collection[str]) -> Listing:
        """Return the list of these parts only."""
        return Listing(tuple(each for each in self.pictures if each.part in parts), self.removed)

    def is_removed(self, picture: Picture) -> bool:
        """Return whether the picture, or its repository, is to be seen no more."""
        return picture.sha256 in self.removed or picture.origin.repository.lower() in self.removed


def by_origin(pictures: Collection[Picture]) -> dict[Origin, list[Picture]]:
    """Group pictures by the repository and commit that has them, sorted."""
    groups: dict[Origin, list[Picture]] = defaultdict(list)
    for picture in pictures:
        groups[picture.origin].append(picture)
    return dict(sorted(groups.items()))


def read_listing(folder: Path = SHIPPED) -> Listing:
    """Read pictures.csv, repositories.csv and removed.txt of a folder; by default, the list that ships.

    Raises ValueError, one line with the file and its line, for a value that is not what it should be, and for
    a picture that is listed twice or whose repository and commit are not in repositories.csv.
    """
    origins = _read_origins(folder / "repositories.csv")
    pictures: dict[str, Picture] = {}
    path = folder / "pictures.csv"
    for number, row in _rows(path, PICTURE_COLUMNS):
        try:
            picture = _picture(row, origins)
            _require(picture.sha256 not in pictures, f"picture {picture.sha256} is listed twice")
        except ValueError as error:
            raise refusal(path, ValueError(f"line {number}: {error}"), what="a list of pictures") from None
        pictures[picture.sha256] = picture
    return Listing(tuple(pictures.values()), _read_removed(folder / "removed.txt"))


def _read_origins(path: Path) -> dict[tuple[str, str], Origin]:
    """Return origins by repository and the first eight digits of the commit, as pictures.csv names them."""
    origins: dict[tuple[str, str], Origin] = {}
    for number, row in _rows(path, REPOSITORY_COLUMNS):
        origin = Origin(row["repository"], row["commit"])
        key = (origin.repository, origin.commit[:8])
        try:
            _require(_REPOSITORY.fullmatch(origin.repository), f"{origin.repository!r} is no owner/name")
            _require(_COMMIT.fullmatch(origin.commit), f"{origin.commit!r} is no commit of 40 digits")
            _require(key not in origins, f"{origin.repository} at {key[1]} is listed twice")
        except ValueError as error:
            raise refusal(path, ValueError(f"line {number}: {error}"), what="a list of repositories") from None
        origins[key] = origin
    return origins


def _picture(row: dict[str, str], origins: dict[tuple[str, str], Origin]) -> Picture:
    origin = origins.get((row["repository"], row["commit"]))
    if origin is None:
        raise ValueError(f"{row['repository']!r} at {row['commit']!r} is not in repositories.csv")
    _require(row["part"] in PARTS, f"unknown part {row['part']!r}; expected one of {', '.join(PARTS)}")
    _require(row["label"] in ("0", "1"), f"label {row['label']!r} is neither 0 nor 1")
    _require(_SHA256.fullmatch(row["sha256"]), f"{row['sha256']!r} is no SHA-256 of 64 digits")
    for name in ("generator", "source", "path"):
        _require(row[name], f"no {name}")
    label = Label(int(row["label"]))
    return Picture(row["part"], label, row["generator"], row["source"], origin, row["path"], row["sha256"])


def _read_removed(path: Path) -> frozenset[str]:
    removed = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.partition("#")[0].strip().lower()
        if text and not _SHA256.fullmatch(text) and not _REPOSITORY.fullmatch(text):
            error = ValueError(f"line {number}: {text!r} is neither a SHA-256 nor an owner/name")
            raise refusal(path, error, what="a removal list")
        removed.add(text)
    return frozenset(removed - {""})


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file with exactly these columns, each with the number of its line."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _require(tuple(reader.fieldnames or ()) == columns, f"the columns are not {','.join(columns)}")
            for row in reader:
                whole = None not in row and None not in row.values()
                _require(whole, f"line {reader.line_num}: not {len(columns)} values")
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise refusal(path, ValueError(str(error)), what="CSV in UTF-8") from None


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)
