"""Find benchmarks whose images are files, in the layouts that they were published in and in others."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.benchmarks.benchmark import Absent, Benchmark, Subset, absent
from data.benchmarks.specs import BenchmarkSpec, SubsetSpec, folder_names
from data.folders import ImageFolder, evaluation_splits, title
from data.records import Manifest, Record
from gapl.columns import normalise
from gapl.labels import Label

Folders = Mapping[ImageFolder, list[str]]
Groups = dict[str, tuple[list[Record], list[Record]]]  # subset -> (fakes, real images)


def sort_folders(
    root: Path, folders: Folders, specs: Mapping[str, BenchmarkSpec]
) -> tuple[dict[str, Folders], Folders]:
    """Return (folders of each published benchmark, the others), by the name of `root` or its child."""
    names = folder_names(specs)
    of_root = names.get(normalise(title(root)))
    published: dict[str, dict[ImageFolder, list[str]]] = defaultdict(dict)
    others: dict[ImageFolder, list[str]] = {}
    for folder, images in folders.items():
        name = names.get(normalise(folder.parts[0]), of_root) if folder.parts else of_root
        (published[name] if name else others)[folder] = images
    return dict(published), others


def sort_generic(root: Path, folders: Folders) -> dict[str, Groups]:
    """Return benchmark -> subset -> (fakes, real images)."""
    found: dict[str, dict[str, dict[ImageFolder, list[str]]]] = defaultdict(lambda: defaultdict(dict))
    for folder, images in folders.items():
        if folder.label is not None and images:
            parts = folder.parts or (title(root),)
            benchmark, subset = parts[:2] if len(parts) > 1 else (title(root), parts[0])
            found[benchmark][subset][folder] = images
    return {benchmark: _group(subsets, train=True) for benchmark, subsets in found.items()}


def _group(subsets: Mapping[str, Folders], *, train: bool = False) -> Groups:
    return {name: _by_label(_evaluation_split(below, train=train), name) for name, below in subsets.items()}


def home_of(root: Path, groups: Groups, names: Iterable[str]) -> str:
    """Return the folder below `root`, with one of these names, that holds all of the images; else `root`."""
    wanted = {normalise(name) for name in names}
    records = [record for fakes, reals in groups.values() for record in fakes + reals]
    ways = {Path(record.uri).parent.relative_to(root).parts for record in records}
    home = str(root)
    for names_of_level in zip(*ways, strict=False):
        child = names_of_level[0]
        if len(set(names_of_level)) > 1 or normalise(child) not in wanted:
            break
        home = os.path.join(home, child)  # noqa: PTH118 - a Path would drop the "./" that uris begin with
    return home


def pair(name: str, groups: Groups, root: str, spec: BenchmarkSpec | None = None) -> Benchmark:
    """Make a benchmark of its subsets: fakes without real images meet the real images without fakes."""
    pool = [record for fakes, reals in groups.values() if not fakes for record in reals]
    needed = any(not reals for _fakes, reals in groups.values())
    subsets = [
        _make(subset or name, fakes, reals or pool, shared=not reals)
        for subset, (fakes, reals) in sorted(groups.items())
        if fakes or not needed
    ]
    return Benchmark(name, tuple(subsets), root=root, spec=spec)


def resolve(spec: BenchmarkSpec, folders: Folders, root: Path) -> Benchmark | Absent:
    """Make a published benchmark from the folders with its name."""
    if not folders:
        return absent(spec, root)
    if not spec.subsets:
        return _resolve_unlisted(spec, folders, root)
    found = [subset for subset in (_find_subset(spec, wanted, folders) for wanted in spec.subsets) if subset]
    names = {subset.name for subset in found}
    missing = tuple(wanted.name for wanted in spec.subsets if wanted.name not in names)
    if not found:
        return Absent(spec.name, f"not found: its folder holds no fakes to score of {', '.join(missing)}", spec)
    groups: Groups = {subset.name: (list(subset.manifest), []) for subset in found}
    return Benchmark(spec.name, tuple(found), missing, home_of(root, groups, spec.names()), spec=spec)


def _resolve_unlisted(spec: BenchmarkSpec, folders: Folders, root: Path) -> Benchmark | Absent:
    """Make a subset of each generator that is found, named after the folder of its class folders."""
    subsets: dict[str, dict[ImageFolder, list[str]]] = defaultdict(dict)
    for folder, images in folders.items():
        if folder.label is not None:
            subsets[folder.parts[-1] if folder.parts else spec.name][folder] = images
    groups = {name: pair for name, pair in _group(subsets).items() if any(pair)}
    if not any(fakes for fakes, _reals in groups.values()):
        return Absent(spec.name, "not found: its folder holds no fakes to score", spec)
    return pair(spec.name, groups, home_of(root, groups, spec.names()), spec)


def _find_subset(spec: BenchmarkSpec, wanted: SubsetSpec, folders: Folders) -> Subset | None:
    whole = len(spec.subsets) == 1
    own = _evaluation_split({f: folders[f] for f in folders if whole or _named(f, (wanted.name, *wanted.aliases))})
    fakes, reals = _by_label(own, wanted.name)
    if spec.bare_fakes and not fakes and not reals:
        fakes = _records(own, Label.FAKE, wanted.name)
    if not fakes:
        return None
    if reals or not wanted.reals:
        return _make(wanted.name, fakes, reals)
    beside = {f: folders[f] for f in folders if f.label is not Label.FAKE and _named(f, wanted.reals)}
    shared = _records(_evaluation_split(beside), Label.REAL, wanted.reals[0])
    if spec.pairing == "stems":
        shared = _like_stems(shared, fakes)
    return _make(wanted.name, fakes, shared, shared=True)


def _like_stems(reals: list[Record], fakes: list[Record]) -> list[Record]:
    """Return one real image for each stem among the fakes; all of them when not one stem is the same."""
    by_stem = {Path(record.uri).stem: record for record in reversed(reals)}
    stems = {Path(record.uri).stem for record in fakes}
    return [record for stem, record in by_stem.items() if stem in stems] or reals


def _make(name: str, fakes: list[Record], reals: list[Record], *, shared: bool = False) -> Subset:
    records = sorted(fakes + reals, key=lambda record: record.uri)
    return Subset(name, Manifest(name, tuple(records)), reals_shared=shared and bool(reals))


def _evaluation_split(folders: Folders, *, train: bool = False) -> Folders:
    chosen = evaluation_splits({folder.split for folder in folders}, train=train)
    return {folder: images for folder, images in folders.items() if folder.split in chosen}


def _by_label(folders: Folders, generator: str) -> tuple[list[Record], list[Record]]:
    fakes, reals = (
        _records({f: folders[f] for f in folders if f.label is label}, label, generator)
        for label in (Label.FAKE, Label.REAL)
    )
    return fakes, reals


def _records(folders: Folders, label: Label, generator: str) -> list[Record]:
    return [Record(uri, label, generator) for images in folders.values() for uri in images]


def _named(folder: ImageFolder, names: Iterable[str]) -> bool:
    """Return whether this folder, or one that it is in, has one of the names."""
    return not {normalise(part) for part in folder.parts}.isdisjoint(map(normalise, names))
