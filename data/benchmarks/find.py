"""A folder, file or URL -> the benchmarks in it, those of the catalog and all others that are there."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.benchmarks.benchmark import Absent, Benchmark, Subset, apply_protocol
from data.benchmarks.specs import BenchmarkSpec, SubsetSpec, folder_names, read_catalog
from data.folders import SPLITS, ImageFolder, find_image_folders, normalise, title
from data.records import Manifest, Record
from data.shards.files import find_shards
from data.shards.index import ShardIndex
from data.shards.rows import reading_order
from data.shards.scan import has_images, index_files
from data.shards.urls import as_url, name_of
from data.sources import open_index, open_source
from gapl.labels import Label

__all__ = ["Absent", "Benchmark", "Subset", "apply_protocol", "find_benchmarks", "read_catalog"]

Folders = Mapping[ImageFolder, list[str]]
Groups = dict[str, tuple[list[Record], list[Record]]]  # subset -> (fakes, photographs)
Specs = Mapping[str, BenchmarkSpec]


@dataclass(frozen=True)
class _Shards:
    """The parquet files below a folder or URL."""

    root: str
    urls: list[str]


def find_benchmarks(
    root: str | Path, *, names: Sequence[str] | None = None, catalog: Path | None = None
) -> list[Benchmark | Absent]:
    """The benchmarks at or below `root`: those of the catalog, each found or Absent, then all others.

    Any other folder with class folders is a benchmark too: `root`, with those in itself and in its children,
    which are the subsets; and each child that has some further below; and `root` or a child with parquet shards
    of images in itself or in its folder `data`. A URL of shards, a shard, a plan, or a CSV or parquet manifest as
    `root` is one benchmark, a subset for each generator.

    Of several splits in a subset, or among shards by how their names begin, the test split is scored, else the
    validation split; training data only outside of the catalog and if there is nothing else. A file as `root` is
    taken whole. All images of a subset are kept. A subset without photographs is scored against those of the
    subsets that hold nothing else, if there are any; a generator of shards against the photographs that name it,
    where all name one, else against all.

    With `names`, of the catalog or of other folders found, only these. `catalog` is a folder of YAML files that
    describe further benchmarks. Raises ValueError for an unknown name, a missing `root`, a wrong description or a
    shard that cannot be read.
    """
    specs = read_catalog(catalog)
    if as_url(root) or Path(root).is_file():
        return _find_one(root, specs, names)
    root = Path(root)
    published, others = _sort_folders(root, find_image_folders(root), specs)
    generic = _sort_generic(root, others)
    shards = _find_shards(root, specs)
    found: list[Benchmark | Absent] = []
    for name in _choose([*generic, *shards], specs, names):
        if name in shards:
            found.append(_read_shards(name, shards[name], specs.get(name)))
        elif name in specs:
            found.append(_resolve(specs[name], published.get(name, {}), root))
        else:
            found.append(_pair(name, generic[name], _home(root, generic[name], [name])))
    return found


def _choose(others: Iterable[str], specs: Specs, names: Sequence[str] | None) -> list[str]:
    allowed = list(dict.fromkeys([*specs, *sorted(others)]))
    if names is None:
        return allowed
    known = {normalise(name): name for name in allowed} | folder_names(specs)
    unknown = [name for name in names if normalise(name) not in known]
    if unknown:
        raise ValueError(f"unknown benchmark {unknown[0]!r}; expected one of {', '.join(allowed)}")
    return list(dict.fromkeys(known[normalise(name)] for name in names))


def _absent(spec: BenchmarkSpec, root: str | Path) -> Absent:
    return Absent(spec.name, f"not found: no folder {' or '.join(spec.names())} with images in {root}", spec)


# ---------------------------------------------------------------------------------------------------------
# A file or a URL


def _find_one(root: str | Path, specs: Specs, names: Sequence[str] | None) -> list[Benchmark | Absent]:
    """What it is, and of others that are asked for by name that they are absent."""
    url = as_url(root)
    own = name_of(url) if url else Path(root).stem
    name = folder_names(specs).get(normalise(own), own) if url else own
    wanted = [name] if names is None else _choose([name], specs, names)
    return [_open_one(root, name, specs) if each == name else _absent(specs[each], root) for each in wanted]


def _open_one(root: str | Path, name: str, specs: Specs) -> Benchmark | Absent:
    spec = specs.get(name)
    if url := as_url(root):
        shards = _shards_in(url, spec)
        if not shards.urls:
            raise ValueError(f"{url}: no parquet shards; expected *.parquet in it or in its folder data")
        return _read_shards(name, shards, spec)
    path = Path(root)
    if (index := open_index(path)) is not None:
        return _by_model(name, index, str(path.parent))
    return _pair(name, _by_generator(open_source(path)), str(path.parent))


def _by_generator(manifest: Manifest) -> Groups:
    groups: dict[str, tuple[list[Record], list[Record]]] = defaultdict(lambda: ([], []))
    for record in manifest:
        # The photographs are a group of their own, so that every generator is scored against all of them.
        if record.label is Label.FAKE:
            groups[record.generator][0].append(record)
        else:
            groups[""][1].append(record)
    return dict(groups)


# ---------------------------------------------------------------------------------------------------------
# Parquet shards


def _find_shards(root: Path, specs: Specs) -> dict[str, _Shards]:
    """Benchmarks whose images are in shards: `root`, its children, or what repeats a child's name inside it."""
    names = folder_names(specs)
    found: dict[str, _Shards] = {}
    of_root = specs.get(names.get(normalise(title(root)), ""))
    inside = ("data", *(of_root.shard_folders if of_root else ()))  # where the shards of `root` itself are
    children = sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in inside
    )
    for folder in (root, *children):
        name = names.get(normalise(title(folder)), title(folder))
        for place in (folder, folder / folder.name):
            shards = _shards_in(str(place), specs.get(name))
            if shards.urls and _are_images(shards.urls[0]):
                found.setdefault(name, shards)
    return found


def _shards_in(root: str, spec: BenchmarkSpec | None) -> _Shards:
    folders = ("data", *(spec.shard_folders if spec else ()))
    return _Shards(root, find_shards(root, folders=folders))


def _are_images(url: str) -> bool:
    try:
        return has_images(url)
    except ValueError:
        return True  # that it cannot be read is told to who asks for this benchmark


def _read_shards(name: str, shards: _Shards, spec: BenchmarkSpec | None) -> Benchmark | Absent:
    split_of = {url: _split_of_file(url) for url in shards.urls}
    chosen = _evaluation_splits(set(split_of.values()), train=spec is None)
    urls = [url for url in shards.urls if split_of[url] in chosen]
    if not urls:
        return Absent(name, f"not found: {shards.root} holds shards of the training split only", spec)
    return _by_model(name, index_files(name, urls), shards.root, spec)


def _split_of_file(url: str) -> str | None:
    return SPLITS.get(re.split(r"[-_.]", url.rpartition("/")[2].lower())[0])


def _by_model(name: str, index: ShardIndex, root: str, spec: BenchmarkSpec | None = None) -> Benchmark:
    """A subset for each generator, against the photographs that name it, or against all."""
    is_fake_N = index.label_N == Label.FAKE
    models = np.unique(index.model_N[is_fake_N])
    paired = spec.pairing == "generator" if spec else bool(np.isin(index.model_N[~is_fake_N], models).all())
    records = [index.record(position) for position in range(len(index))]
    subsets = []
    for model in models:
        of_model_N = index.model_N == model
        wanted_N = of_model_N if paired else (of_model_N & is_fake_N) | ~is_fake_N
        chosen = sorted((records[i] for i in np.flatnonzero(wanted_N)), key=reading_order)
        manifest = Manifest(index.models[model] or "unknown", tuple(chosen))
        subsets.append(Subset(manifest.name, manifest, reals_shared=not paired and not is_fake_N.all()))
    if not subsets:
        subsets = [Subset(name, Manifest(name, tuple(records)))]
    found = {normalise(subset.name) for subset in subsets}
    missing = tuple(
        wanted.name for wanted in (spec.subsets if spec else ()) if normalise(wanted.name) not in found
    )
    subsets.sort(key=lambda subset: subset.name)
    return Benchmark(name, tuple(subsets), missing, root, spec)


# ---------------------------------------------------------------------------------------------------------
# Folders of images


def _sort_folders(root: Path, folders: Folders, specs: Specs) -> tuple[dict[str, Folders], Folders]:
    """(folders of each published benchmark, the others): told by the child of `root`, else by `root`."""
    names = folder_names(specs)
    of_root = names.get(normalise(title(root)))
    published: dict[str, dict[ImageFolder, list[str]]] = defaultdict(dict)
    others: dict[ImageFolder, list[str]] = {}
    for folder, images in folders.items():
        name = names.get(normalise(folder.parts[0]), of_root) if folder.parts else of_root
        (published[name] if name else others)[folder] = images
    return dict(published), others


def _sort_generic(root: Path, folders: Folders) -> dict[str, Groups]:
    """benchmark -> subset -> (fakes, photographs)."""
    found: dict[str, dict[str, dict[ImageFolder, list[str]]]] = defaultdict(lambda: defaultdict(dict))
    for folder, images in folders.items():
        if folder.label is not None and images:
            parts = folder.parts or (title(root),)
            benchmark, subset = parts[:2] if len(parts) > 1 else (title(root), parts[0])
            found[benchmark][subset][folder] = images
    return {benchmark: _group(subsets, train=True) for benchmark, subsets in found.items()}


def _group(subsets: Mapping[str, Folders], *, train: bool = False) -> Groups:
    return {name: _by_label(_evaluation_split(below, train=train), name) for name, below in subsets.items()}


def _home(root: Path, groups: Groups, names: Iterable[str]) -> str:
    """The folder of one of these names that all of the images are in, at or below `root`; else `root`."""
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


def _pair(name: str, groups: Groups, root: str, spec: BenchmarkSpec | None = None) -> Benchmark:
    """Subsets as they were found: fakes without photographs meet the photographs without fakes."""
    pool = [record for fakes, reals in groups.values() if not fakes for record in reals]
    needed = any(not reals for _fakes, reals in groups.values())
    subsets = [
        _make(subset or name, fakes, reals or pool, shared=not reals)
        for subset, (fakes, reals) in sorted(groups.items())
        if fakes or not needed
    ]
    return Benchmark(name, tuple(subsets), root=root, spec=spec)


def _resolve(spec: BenchmarkSpec, folders: Folders, root: Path) -> Benchmark | Absent:
    """A published benchmark from the folders that bear its name."""
    if not folders:
        return _absent(spec, root)
    if not spec.subsets:
        return _resolve_unlisted(spec, folders, root)
    found = [subset for subset in (_find_subset(spec, wanted, folders) for wanted in spec.subsets) if subset]
    names = {subset.name for subset in found}
    missing = tuple(wanted.name for wanted in spec.subsets if wanted.name not in names)
    if not found:
        return Absent(spec.name, f"not found: its folder holds no fakes to score of {', '.join(missing)}", spec)
    groups: Groups = {subset.name: (list(subset.manifest), []) for subset in found}
    return Benchmark(spec.name, tuple(found), missing, _home(root, groups, spec.names()), spec=spec)


def _resolve_unlisted(spec: BenchmarkSpec, folders: Folders, root: Path) -> Benchmark | Absent:
    """Each generator that is found is a subset, named after the folder of its class folders."""
    subsets: dict[str, dict[ImageFolder, list[str]]] = defaultdict(dict)
    for folder, images in folders.items():
        if folder.label is not None:
            subsets[folder.parts[-1] if folder.parts else spec.name][folder] = images
    groups = {name: pair for name, pair in _group(subsets).items() if any(pair)}
    if not any(fakes for fakes, _reals in groups.values()):
        return Absent(spec.name, "not found: its folder holds no fakes to score", spec)
    return _pair(spec.name, groups, _home(root, groups, spec.names()), spec)


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
    """Of the photographs, one for each stem among the fakes; all of them when not one stem is the same."""
    by_stem = {Path(record.uri).stem: record for record in reversed(reals)}
    stems = {Path(record.uri).stem for record in fakes}
    return [record for stem, record in by_stem.items() if stem in stems] or reals


def _make(name: str, fakes: list[Record], reals: list[Record], *, shared: bool = False) -> Subset:
    records = sorted(fakes + reals, key=lambda record: record.uri)
    return Subset(name, Manifest(name, tuple(records)), reals_shared=shared and bool(reals))


def _evaluation_split(folders: Folders, *, train: bool = False) -> Folders:
    chosen = _evaluation_splits({folder.split for folder in folders}, train=train)
    return {folder: images for folder, images in folders.items() if folder.split in chosen}


def _evaluation_splits(present: set[str | None], *, train: bool) -> set[str | None]:
    """The test split, else the validation split, and what is in no split; training data only if asked for."""
    order = ("test", "val", "train") if train else ("test", "val")
    return {None, *[split for split in order if split in present][:1]}


def _by_label(folders: Folders, generator: str) -> tuple[list[Record], list[Record]]:
    fakes, reals = (
        _records({f: folders[f] for f in folders if f.label is label}, label, generator)
        for label in (Label.FAKE, Label.REAL)
    )
    return fakes, reals


def _records(folders: Folders, label: Label, generator: str) -> list[Record]:
    return [Record(uri, label, generator) for images in folders.values() for uri in images]


def _named(folder: ImageFolder, names: Iterable[str]) -> bool:
    """Whether a folder on the way to this one has one of the names."""
    return not {normalise(part) for part in folder.parts}.isdisjoint(map(normalise, names))
