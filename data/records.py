"""Images that are not opened yet: a Record of one, a Manifest of many, and what every set of them can do."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

from gapl.labels import Label, Source


class Row(Protocol):
    """An image in a row of a shard, or of a copy of it. Its text is "<path or URL of the shard>#<row>"."""

    def read_bytes(self) -> bytes:
        """Return the encoded image. Raises OSError when it cannot be read."""


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled image that is not opened yet.

    location   the path of a file, or a row of a shard
    label      real or fake
    generator  what made a fake; for a real image, where it is from
    """

    location: str | Row
    label: Label
    generator: str

    @property
    def uri(self) -> str:
        """The path of the file, or "<path or URL of the shard>#<row>"."""
        return str(self.location)

    @property
    def is_file(self) -> bool:
        """Whether the location is a file and not a row of a shard."""
        return isinstance(self.location, str)

    @property
    def source(self) -> Source:
        """The generator of a fake or the real source of any other image."""
        return Source(self.label, self.generator)

    def read_bytes(self) -> bytes:
        """Return the encoded image, wherever it is. Raises OSError when it cannot be read."""
        return Path(self.location).read_bytes() if isinstance(self.location, str) else self.location.read_bytes()


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
        """Return (rest, drawn): `drawn` is a fraction of each class, and at most `max_images` unless that is 0."""

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
        """Identify which images, in any order, with which labels.

        An image below `root` counts by where in it it is, so that the place of `root` does not matter.
        """
        return list_sha256((relative_uri(record.uri, root), record.label) for record in self.records)

    def where(self, keep: Callable[[Record], bool]) -> Manifest:
        """Return the records for which `keep` is true."""
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
        """Return (rest, drawn): `drawn` is of each class, at least one image when fraction > 0, never all.

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
                taken.update(of_class.draw(count, seed=seed).uris())
        return self.where(lambda r: r.uri not in taken), self.where(lambda r: r.uri in taken)


def relative_uri(uri: str, root: str | Path | None) -> str:
    """Return the part of a uri below the folder or URL `root`, with slashes; another uri as it is."""
    if root is None or not uri.startswith(prefix := str(root).rstrip("/" + os.sep)):
        return uri
    below = uri[len(prefix) :].replace(os.sep, "/")
    return below[1:] if below.startswith("/") else uri


def list_sha256(images: Iterable[tuple[str, Label]]) -> str:
    """Hash (uri, label) of many images; their order does not matter."""
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
    """Join manifests. Raises ValueError when a uri occurs twice."""
    records = tuple(record for manifest in manifests for record in manifest)
    twice = [uri for uri, times in Counter(record.uri for record in records).items() if times > 1]
    if twice:
        raise ValueError(f"{name}: {len(twice)} images are listed twice, the first is {twice[0]}")
    return Manifest(name, records)
