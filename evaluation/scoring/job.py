"""Say what is to be scored: the images of some benchmarks, each once, in batches that depend on nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.benchmarks.benchmark import Benchmark
from data.images.degrade import CLEAN
from data.records import Record, relative_uri
from data.shards.index import reading_order
from evaluation.tables.scores import DetectorEntry


@dataclass(frozen=True)
class ScoredImage:
    """An image and where it counts.

    places  (benchmark, its subsets), more than one where benchmarks share a file
    name    of the file below the benchmark's root, the same on every machine
    """

    record: Record
    places: tuple[tuple[str, tuple[str, ...]], ...]
    name: str


@dataclass(frozen=True)
class Job:
    """What is to be scored.

    images      each once, see `place_images`
    models      the detectors by name
    precision   of the towers: "fp32", "bf16" or "fp16"
    details     whether the table has embeddings and attention too
    about       goes into the table's metadata as it is, beside what is known of the detectors

    Raises ValueError for a batch size below 1.
    """

    images: Sequence[ScoredImage]
    models: Mapping[str, DetectorEntry]
    degradations: Sequence[str] = (CLEAN,)
    protocol: str = "all"
    batch_size: int = 32
    precision: str = "fp32"
    details: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"a batch has at least 1 image, not {self.batch_size}")

    @property
    def num_batches(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def images_of(self, batch: int) -> range:
        """Return the positions of a batch's images."""
        return range(batch * self.batch_size, min(len(self.images), (batch + 1) * self.batch_size))


def place_images(benchmarks: Sequence[Benchmark]) -> list[ScoredImage]:
    """Return every image once, whatever subsets and benchmarks share it.

    They are sorted by benchmark, and in it as they are read fastest.
    """
    places: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    records: dict[str, tuple[Record, str]] = {}
    for benchmark in benchmarks:
        subsets: dict[str, list[str]] = {}
        for subset in benchmark.subsets:
            for record in subset.manifest:
                subsets.setdefault(record.uri, []).append(subset.name)
                records.setdefault(record.uri, (record, relative_uri(record.uri, benchmark.root)))
        for uri, names in subsets.items():
            places.setdefault(uri, []).append((benchmark.name, tuple(names)))
    images = [ScoredImage(record, tuple(places[uri]), name) for uri, (record, name) in records.items()]
    return sorted(images, key=lambda image: (image.places[0][0], *reading_order(image.record)))
