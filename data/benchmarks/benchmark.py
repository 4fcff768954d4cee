"""A benchmark as it was found, or Absent; and which of its images a protocol scores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from data.benchmarks.specs import BenchmarkSpec
from data.choices import PROTOCOLS
from data.records import Manifest
from data.shards.index import reading_order
from gapl.labels import Label

RELEASE_IMAGES = 1000  # of each class of a subset
RELEASE_IMAGES_OF_SMALL = 100  # of each class, when one of them has fewer than that


@dataclass(frozen=True)
class Subset:
    """The images behind one row of a report; `reals_shared` if its real images serve other subsets too."""

    name: str
    manifest: Manifest
    reals_shared: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as found on disk, and which of its published subsets were not.

    root    the folder or URL that its images are in
    spec    what was published, if it is in the catalog
    """

    name: str
    subsets: tuple[Subset, ...]
    missing_subsets: tuple[str, ...] = ()
    root: str = ""
    spec: BenchmarkSpec | None = field(default=None, compare=False)

    def images(self) -> Manifest:
        """Return every image once, though subsets share real images; rows of shards in the order of reading."""
        records = list({record.uri: record for subset in self.subsets for record in subset.manifest}.values())
        if not all(record.is_file for record in records):
            records.sort(key=reading_order)
        return Manifest(self.name, tuple(records))

    def file_list_sha256(self) -> str:
        """Identify which images, with which labels, wherever `root` is."""
        return self.images().file_list_sha256(self.root or None)


@dataclass(frozen=True)
class Absent:
    """A benchmark that was not found, and what was looked for."""

    name: str
    reason: str
    spec: BenchmarkSpec | None = field(default=None, compare=False)


def absent(spec: BenchmarkSpec, root: str | Path) -> Absent:
    """Tell that a published benchmark was not found below `root`."""
    return Absent(spec.name, f"not found: no folder {' or '.join(spec.names())} with images in {root}", spec)


def apply_protocol(benchmark: Benchmark, protocol: str, *, seed: int = 0) -> Benchmark:
    """Return the benchmark with the images that are scored.

    all      every image
    release  as the released GAPL code: 1,000 images of each class of a subset; when one of its classes has fewer
             than 1,000, 100 of each, or all if there are not as many. Drawn by `seed` from the sorted list; the
             release draws from an unsorted one, so that its images cannot be known. A class that a subset does
             not have, as in fakes only, does not count as small.

    Raises ValueError for another protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    if protocol == "all":
        return benchmark
    subsets = (replace(subset, manifest=_draw(subset.manifest, seed)) for subset in benchmark.subsets)
    return replace(benchmark, subsets=tuple(subsets))


def _draw(manifest: Manifest, seed: int) -> Manifest:
    classes = [manifest.where(lambda record, label=label: record.label == label) for label in Label]  # type: ignore[misc]
    is_small = any(0 < len(each) < RELEASE_IMAGES for each in classes)
    count = RELEASE_IMAGES_OF_SMALL if is_small else RELEASE_IMAGES
    chosen = {record.uri for each in classes for record in each.draw(count, seed=seed)}
    return manifest.where(lambda record: record.uri in chosen)
