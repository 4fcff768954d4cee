"""Verify a benchmark: counts beside the published ones, broken images, images that occur twice, sizes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from statistics import median
from typing import TYPE_CHECKING, Any

from data.benchmarks.benchmark import Absent, Benchmark, Subset
from data.benchmarks.specs import SubsetSpec
from data.images.degrade import CLEAN
from data.records import relative_uri
from gapl.labels import Label

if TYPE_CHECKING:
    from PIL import Image

    from data.images.variants import ImageInfo

_SHOWN = 20  # of many names, in the text
_IMAGES_PER_LIST = 32


@dataclass(frozen=True)
class ClassFacts:
    """Facts about the images of one class that can be decoded: counts of formats, sizes, bytes per pixel."""

    formats: Mapping[str, int]
    width: tuple[int, float, int]  # smallest, median, largest
    height: tuple[int, float, int]
    bytes_per_pixel: float  # median


@dataclass(frozen=True)
class SubsetCheck:
    """What was found in a subset, or that a published one is missing.

    expected_real, expected_fake  published, None where unknown
    unreadable                    (image, reason) of those that cannot be decoded
    same_name                     groups of files of one class that share a name, doubled or of several folders
    same_content                  groups of images, of whatever class, whose bytes are the same
    facts                         by class, for those that have images that can be decoded
    """

    name: str
    n_real: int
    n_fake: int
    expected_real: int | None = None
    expected_fake: int | None = None
    is_missing: bool = False
    file_list_sha256: str = ""
    unreadable: tuple[tuple[str, str], ...] = ()
    same_name: tuple[tuple[str, ...], ...] = ()
    same_content: tuple[tuple[str, ...], ...] = ()
    facts: Mapping[Label, ClassFacts] = field(default_factory=dict)

    def as_published(self) -> bool:
        """Return whether the counts are the published ones, as far as these are known."""
        return self.expected_real in (None, self.n_real) and self.expected_fake in (None, self.n_fake)


@dataclass(frozen=True)
class Verification:
    """What was found in a benchmark.

    absent          why it was not found; empty if it was
    was_read        whether its images were read, and not only listed
    source          where it can be downloaded
    n_real, n_fake  images, each once though subsets share them
    """

    name: str
    absent: str = ""
    was_read: bool = False
    root: str = ""
    source: str = ""
    n_real: int = 0
    n_fake: int = 0
    expected_real: int | None = None
    expected_fake: int | None = None
    expected_subsets: int | None = None
    file_list_sha256: str = ""
    subsets: tuple[SubsetCheck, ...] = ()

    def is_clean(self) -> bool:
        """Return whether it is as published, and no image that was read is broken or occurs twice."""
        whole = self.expected_real in (None, self.n_real) and self.expected_fake in (None, self.n_fake)
        subsets = self.expected_subsets in (None, sum(not subset.is_missing for subset in self.subsets))
        return not self.absent and whole and subsets and all(map(_is_clean, self.subsets))


def verify(found: Benchmark | Absent, *, read: bool = True, num_workers: int = 2) -> Verification:
    """List and count the images; with `read`, read each once, in `num_workers` processes (0: in this one).

    The images of a shard or file that cannot be read are unreadable. Raises ValueError when a worker process dies.
    """
    source = found.spec.source if found.spec else ""
    if isinstance(found, Absent):
        return Verification(found.name, found.reason, source=source)
    images = found.images()
    seen = _read(found, num_workers=num_workers) if read else {}
    published = {subset.name: subset for subset in (found.spec.subsets if found.spec else ())}
    subsets = [_check(subset, found, published.get(subset.name), seen) for subset in found.subsets]
    missing = [
        SubsetCheck(name, 0, 0, published[name].n_real, published[name].n_fake, is_missing=True)
        for name in found.missing_subsets
    ]
    return Verification(
        found.name,
        was_read=read,
        root=found.root,
        source=source,
        n_real=images.count(Label.REAL),
        n_fake=images.count(Label.FAKE),
        expected_real=found.spec.n_real if found.spec else None,
        expected_fake=found.spec.n_fake if found.spec else None,
        expected_subsets=found.spec.n_subsets if found.spec else None,
        file_list_sha256=found.file_list_sha256(),
        subsets=(*subsets, *missing),
    )


def to_problems(verifications: Iterable[Verification]) -> list[dict[str, str]]:
    """Return a row for every image that cannot be decoded, or that has the same bytes as one before it."""
    rows = []
    for each in verifications:
        for subset in each.subsets:
            of = {"benchmark": each.name, "subset": subset.name}
            rows += [of | {"uri": uri, "problem": reason} for uri, reason in subset.unreadable]
            rows += [
                of | {"uri": uri, "problem": f"same content as {first}"}
                for first, *others in subset.same_content
                for uri in others
            ]
    return rows


def to_text(verifications: Iterable[Verification]) -> str:
    """Return the report for a terminal: every count, the first few of many names; what is absent is last."""
    found_first = sorted(verifications, key=lambda each: bool(each.absent))
    return "\n\n".join("\n".join(_lines(each)) for each in found_first)


def _read(benchmark: Benchmark, *, num_workers: int) -> dict[str, ImageInfo]:
    """Decode every image, as scoring would. Return uri -> what is known of it."""
    from tqdm import tqdm

    from data.images.variants import VariantDataset  # torch is slow to import, and not needed to list images
    from data.loading.lists import read_lists

    records = benchmark.images().records
    lists = [records[start : start + _IMAGES_PER_LIST] for start in range(0, len(records), _IMAGES_PER_LIST)]
    dataset = VariantDataset({CLEAN: _unchanged}, ())
    seen: dict[str, ImageInfo] = {}
    with tqdm(total=len(records), desc=f"read {benchmark.name}", unit="image", dynamic_ncols=True) as bar:
        batches = read_lists(lists, dataset, num_workers=num_workers, go_on=True)
        for together, batch in zip(lists, batches, strict=True):
            seen |= {record.uri: found for record, found in zip(together, batch.images, strict=True)}
            bar.update(len(together))
    return seen


def _unchanged(image: Image.Image, *, seed: int) -> Image.Image:
    """Return the image: with a degradation it is converted as scoring does, which finds more damage."""
    return image


# ---------------------------------------------------------------------------------------------------------
# Judging


def _check(
    subset: Subset, benchmark: Benchmark, published: SubsetSpec | None, seen: Mapping[str, ImageInfo]
) -> SubsetCheck:
    records = subset.manifest.records
    read = {label: [r.uri for r in records if r.label is label and r.uri in seen] for label in Label}
    whole = {label: [uri for uri in read[label] if not seen[uri].error] for label in Label}
    broken = [uri for label in Label for uri in read[label] if seen[uri].error]

    def below(uri: str) -> str:
        return relative_uri(uri, benchmark.root or None)

    # Rows of shards have no file names.
    names = [((r.label, PurePath(r.uri).name), below(r.uri)) for r in records if r.is_file]
    contents = [(seen[uri].content_sha256, below(uri)) for label in Label for uri in whole[label]]
    return SubsetCheck(
        subset.name,
        subset.manifest.count(Label.REAL),
        subset.manifest.count(Label.FAKE),
        published.n_real if published else None,
        published.n_fake if published else None,
        file_list_sha256=subset.manifest.file_list_sha256(benchmark.root or None),
        unreadable=tuple((below(uri), seen[uri].error) for uri in broken),
        same_name=_groups(names),
        same_content=_groups(contents),
        facts={label: _class_facts([seen[uri] for uri in whole[label]]) for label in Label if whole[label]},
    )


def _groups(pairs: Iterable[tuple[Any, str]]) -> tuple[tuple[str, ...], ...]:
    """Return the values of every key that has more than one."""
    of_key: dict[Any, list[str]] = defaultdict(list)
    for key, value in pairs:
        of_key[key].append(value)
    return tuple(tuple(values) for values in of_key.values() if len(values) > 1)


def _class_facts(images: Sequence[ImageInfo]) -> ClassFacts:
    return ClassFacts(
        dict(Counter(image.format for image in images).most_common()),
        _spread([image.width for image in images]),
        _spread([image.height for image in images]),
        median(image.num_bytes / (image.width * image.height) for image in images),
    )


def _spread(values: Sequence[int]) -> tuple[int, float, int]:
    return min(values), median(values), max(values)


def _is_clean(subset: SubsetCheck) -> bool:
    return not (subset.is_missing or subset.unreadable or subset.same_content) and subset.as_published()


# ---------------------------------------------------------------------------------------------------------
# Telling


def _lines(each: Verification) -> Iterator[str]:
    if each.absent:
        yield f"{each.name}: {each.absent}"
        if each.source:
            yield f"  available from {each.source}"
        return
    yield f"{each.name} in {each.root}" if each.root else each.name
    real, fake = _beside(each.n_real, each.expected_real), _beside(each.n_fake, each.expected_fake)
    subsets = sum(not subset.is_missing for subset in each.subsets)
    yield f"  {_beside(subsets, each.expected_subsets)} subsets, {real} real and {fake} fake images"
    yield f"  file list sha256 {each.file_list_sha256}"
    for subset in each.subsets:
        yield from (f"  {line}" for line in _subset_lines(subset))
    if each.was_read:
        yield "  nothing is wrong with it" if each.is_clean() else "  it is not as it should be, see above"


def _subset_lines(subset: SubsetCheck) -> Iterator[str]:
    if subset.is_missing:
        yield f"{subset.name}: missing"
        return
    real, fake = _beside(subset.n_real, subset.expected_real), _beside(subset.n_fake, subset.expected_fake)
    yield f"{subset.name}: {real} real, {fake} fake"
    for label, facts in subset.facts.items():
        sizes = " x ".join(f"{low}-{middle:g}-{high}" for low, middle, high in (facts.width, facts.height))
        yield (
            f"  {label.word}: {_counts(facts.formats)}; {sizes} pixels (least-median-most); "
            f"{facts.bytes_per_pixel:.2f} bytes a pixel"
        )
    broken = [f"{uri}: {reason}" for uri, reason in subset.unreadable]
    yield from _listing("cannot be decoded", broken)
    yield from _listing("contents more than once", [" = ".join(_cut(group)) for group in subset.same_content])
    yield from _listing("file names more than once in a class", [", ".join(_cut(g)) for g in subset.same_name])


def _beside(count: int, expected: int | None) -> str:
    return str(count) if expected in (None, count) else f"{count} (expected {expected})"


def _counts(formats: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in formats.items())


def _cut(names: Sequence[str]) -> list[str]:
    return [*names[:_SHOWN], *([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])]


def _listing(what: str, entries: Sequence[str]) -> Iterator[str]:
    if entries:
        yield f"  {len(entries)} {what}:"
        yield from (f"    {entry}" for entry in _cut(entries))
