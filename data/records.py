"""What the project knows of an image before it is opened: a Record; and of a set of them: a Manifest."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from gapl.labels import Label, Source


class Table(Protocol):
    """Rows of a parquet table by number, such as a memory-mapped `datasets.Dataset`."""

    def __getitem__(self, row: int) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled image.

    uri        the file's path, or "<shard>#<row>" for a row of a parquet table
    label      real or fake
    generator  what made a fake; for a photograph, the source it came from
    table      the table that holds the encoded image under "image_data"; None when `uri` is a file
    row        its row in that table
    """

    uri: str
    label: Label
    generator: str
    table: Table | None = None
    row: int = 0

    @property
    def source(self) -> Source:
        """The generator of a fake or the photo source of a photograph."""
        return Source(self.label, self.generator)

    def read_bytes(self) -> bytes:
        """The encoded image. Raises OSError when the file cannot be read."""
        if self.table is None:
            return Path(self.uri).read_bytes()
        return bytes(self.table[self.row]["image_data"])


class Images(Protocol):
    """A named set of labelled images: a Manifest, or a ShardIndex of rows that are streamed from their shards."""

    @property
    def name(self) -> str: ...

    @property
    def streamed(self) -> bool:
        """Whether images are read in passing from their shards, and not one by one."""

    def __len__(self) -> int: ...

    def uris(self) -> Iterable[str]:
        """Return the uri of every image, in order."""

    def count(self, label: Label) -> int:
        """Return the number of images of a class."""

    def sources(self) -> Counter[Source]:
        """Count the images of each source."""

    def file_list_sha256(self) -> str:
        """Identify which images, in any order, with which labels."""

    def local(self) -> Manifest:
        """Return records of files or of rows that are copied to the Arrow cache, to be read in any order."""

    def partition(self, sources: Collection[Source]) -> tuple[Self, Self]:
        """Return (images of other sources, images of these sources)."""

    def split(self, fraction: float, *, max_images: int = 0, seed: int) -> tuple[Self, Self]:
        """Return (rest, part): `part` is a fraction of each class, and at most `max_images` unless that is 0."""

    def draw(self, count: int, *, seed: int) -> Self:
        """Return at most `count` of the images, in their order, chosen so that they stand for all of them."""


@dataclass(frozen=True)
class Manifest:
    """An ordered set of records with a name that reports quote."""

    name: str
    records: tuple[Record, ...]

    streamed: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def count(self, label: Label) -> int:
        return sum(record.label == label for record in self.records)

    def uris(self) -> Iterator[str]:
        """Yield the uri of every image, in order."""
        return (record.uri for record in self.records)

    def sources(self) -> Counter[Source]:
        """Count the images of each source."""
        return Counter(record.source for record in self.records)

    def local(self) -> Manifest:
        """Return this manifest: its images can be read in any order."""
        return self

    def file_list_sha256(self, root: str | Path | None = None) -> str:
        """Identifies which images, in any order, with which labels; of those below `root` by where in it they
        are, so that it does not matter where `root` is."""
        return list_sha256((relative_uri(record.uri, root), record.label) for record in self.records)

    def where(self, keep: Callable[[Record], bool]) -> Manifest:
        return Manifest(self.name, tuple(record for record in self.records if keep(record)))

    def partition(self, sources: Collection[Source]) -> tuple[Manifest, Manifest]:
        """Return (images of other sources, images of these sources)."""
        return self.where(lambda r: r.source not in sources), self.where(lambda r: r.source in sources)

    def draw(self, count: int, *, seed: int) -> Manifest:
        """Draw `count` records without replacement (all of them if there are fewer), in their original order.

        The draw depends on the set of uris and the seed, not on the order in which a file system lists them.
        """
        if count >= len(self.records):
            return self
        by_uri = sorted(range(len(self.records)), key=lambda i: self.records[i].uri)
        chosen = sorted(random.Random(seed).sample(by_uri, count))
        return Manifest(self.name, tuple(self.records[i] for i in chosen))

    def split(self, fraction: float, *, max_images: int = 0, seed: int) -> tuple[Manifest, Manifest]:
        """Return (rest, part): `part` is drawn from each class, at least one image when fraction > 0, never all.

        It is about `fraction` of the images, but not more than about `max_images` unless that is 0.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"a validation fraction is at least 0 and below 1, not {fraction}")
        if max_images:
            fraction = min(fraction, max_images / max(1, len(self)))
        taken: set[str] = set()
        for label in Label:
            of_class = self.where(lambda record, label=label: record.label == label)  # type: ignore[misc]
            if fraction and len(of_class) > 1:
                count = max(1, min(len(of_class) - 1, round(fraction * len(of_class))))
                part = of_class.draw(count, seed=seed)
                taken.update(record.uri for record in part)
        return self.where(lambda r: r.uri not in taken), self.where(lambda r: r.uri in taken)


def relative_uri(uri: str, root: str | Path | None) -> str:
    """A uri below the folder or URL `root` from there on, with slashes; another one as it is."""
    if root is None or not uri.startswith(prefix := str(root).rstrip("/" + os.sep)):
        return uri
    below = uri[len(prefix) :].replace(os.sep, "/")
    return below[1:] if below.startswith("/") else uri


def list_sha256(images: Iterable[tuple[str, Label]]) -> str:
    """The same for the same uris and labels, in whatever order."""
    lines = sorted(f"{uri}\t{int(label)}" for uri, label in images)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def require_both_classes(images: Images) -> None:
    """Raise ValueError that says which class is missing and what was found."""
    n_real, n_fake = images.count(Label.REAL), images.count(Label.FAKE)
    if not n_real or not n_fake:
        missing = "real" if not n_real else "fake"
        raise ValueError(
            f"{images.name}: no {missing} images ({n_real} real, {n_fake} fake); both classes are needed"
        )


def join(name: str, manifests: Iterable[Manifest]) -> Manifest:
    """One manifest of several; a uri that occurs twice is a user's mistake and raises ValueError."""
    records = tuple(record for manifest in manifests for record in manifest)
    twice = [uri for uri, times in Counter(record.uri for record in records).items() if times > 1]
    if twice:
        raise ValueError(f"{name}: {len(twice)} images are listed twice, the first is {twice[0]}")
    return Manifest(name, records)
