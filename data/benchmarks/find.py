"""Find the benchmarks in a folder, file or URL: those of the catalog, and all others that are there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from data.benchmarks.benchmark import Absent, Benchmark, absent
from data.benchmarks.in_folders import Folders, home_of, pair, resolve, sort_folders, sort_generic
from data.benchmarks.in_shards import by_model, find_shard_sets, open_shard_set, shards_in
from data.benchmarks.in_tables import by_generator, find_manifests, first_mistake
from data.benchmarks.specs import BenchmarkSpec, folder_names, read_catalog
from data.folders import find_image_folders
from data.folders import what_is_there as folders_there
from data.shards.urls import name_of
from data.sources import is_manifest, open_index, open_source
from gapl.columns import normalise
from gapl.folders import join
from gapl.shards.files import as_url

OUTSIDE = "image outside of class folders"

Specs = Mapping[str, BenchmarkSpec]


def find_benchmarks(
    root: str | Path,
    *,
    names: Sequence[str] | None = None,
    catalog: Path | None = None,
    columns: Mapping[str, str] | None = None,
    note: Callable[[str, str], None] | None = None,
) -> list[Benchmark | Absent]:
    """Find the benchmarks at or below `root`: those of the catalog, each found or Absent, then all others.

    Any other folder with class folders is a benchmark too: `root`, with those in itself and in its children,
    which are the subsets; and each child that has some further below. So are, in `root` or a child, parquet
    shards of images, also in its folder `data`, and each manifest that does not describe class folders. A URL of
    shards, a shard, a plan or a manifest as `root` is one benchmark, a subset for each generator.

    Of several splits in a subset, a manifest, or the names of shards and manifests, the test split is scored, else
    the validation split; training data only outside of the catalog and if there is nothing else. A file as `root`
    is taken whole. All images of a subset are kept. A subset without real images is scored against those of the
    subsets that hold nothing else; a generator of shards against the real images that name it, or against all.

    names     of the catalog or of others that are found: only these
    catalog   folder of YAML files that describe further benchmarks
    columns   our name of a column -> its name in manifests
    note      is told of each file that belongs to no benchmark, and why; with `names`, of those below these

    Raises ValueError for an unknown name, a missing `root`, what cannot be read, and `columns` without a manifest.
    """
    specs = read_catalog(catalog)
    if as_url(root) or Path(root).is_file():
        return _find_one(root, specs, names, columns)
    no_images: dict[str, str] = {}
    folders = find_image_folders(Path(root), note=lambda path, why: no_images.update({path: str(why)}))
    found, used = _find_below(Path(root), folders, specs, names, columns)
    if note:
        others = {path: why for path, why in no_images.items() if path not in used}
        places = tuple(join(each.root, "") for each in found if isinstance(each, Benchmark))
        for path, why in sorted((others | _outside(found, folders)).items()):
            if names is None or path.startswith(places):
                note(path, why)
    return found


def _outside(found: Iterable[Benchmark | Absent], folders: Folders) -> dict[str, str]:
    """Return the images outside of class folders that belong to no benchmark."""
    present = [each for each in found if isinstance(each, Benchmark)]
    scored = {os.path.normpath(uri) for each in present for uri in each.images().uris()}
    unlabelled = [uri for folder, uris in folders.items() if folder.label is None for uri in uris]
    return {uri: OUTSIDE for uri in unlabelled if os.path.normpath(uri) not in scored}


def _find_below(
    root: Path,
    folders: Folders,
    specs: Specs,
    names: Sequence[str] | None,
    columns: Mapping[str, str] | None,
) -> tuple[list[Benchmark | Absent], set[str]]:
    """Return the benchmarks in a folder, and the paths of shards and manifests."""
    published, others = sort_folders(root, folders, specs)
    generic = sort_generic(root, others)
    shards = find_shard_sets(root, specs)
    urls = {url for each in shards.values() for url in each.urls}
    taken = {*specs, *generic, *shards}
    manifests = find_manifests(root, folders, columns=columns, shards=urls, taken=taken)
    if columns and not manifests:
        raise ValueError(first_mistake(root, columns) or f"{root}: no manifest there that --columns could be for")
    opened = {each.name: each for each in manifests.values()}
    found: list[Benchmark | Absent] = []
    for name in _choose([*generic, *shards, *opened], specs, names):
        if name in opened:
            found.append(opened[name])
        elif name in shards:
            found.append(open_shard_set(name, shards[name], specs.get(name)))
        elif name in specs:
            found.append(resolve(specs[name], published.get(name, {}), root))
        else:
            found.append(pair(name, generic[name], home_of(root, generic[name], [name])))
    return found, urls | set(map(str, manifests))


def what_is_there(root: Path, *, columns: Mapping[str, str] | None = None) -> str:
    """Say in one line what a folder without a benchmark has that comes nearest to one."""
    return first_mistake(root, columns) or folders_there(root, find_image_folders(root))


def _choose(others: Iterable[str], specs: Specs, names: Sequence[str] | None) -> list[str]:
    allowed = list(dict.fromkeys([*specs, *sorted(others)]))
    if names is None:
        return allowed
    known = {normalise(name): name for name in allowed} | folder_names(specs)
    unknown = [name for name in names if normalise(name) not in known]
    if unknown:
        raise ValueError(f"unknown benchmark {unknown[0]!r}; expected one of {', '.join(allowed)}")
    return list(dict.fromkeys(known[normalise(name)] for name in names))


def _find_one(
    root: str | Path, specs: Specs, names: Sequence[str] | None, columns: Mapping[str, str] | None
) -> list[Benchmark | Absent]:
    """Open `root` as one benchmark; any other benchmark that is asked for by name is absent."""
    url = as_url(root)
    own = name_of(url) if url else Path(root).stem
    name = folder_names(specs).get(normalise(own), own) if url else own
    wanted = [name] if names is None else _choose([name], specs, names)
    return [
        _open_one(root, name, specs.get(name), columns) if each == name else absent(specs[each], root)
        for each in wanted
    ]


def _open_one(
    root: str | Path, name: str, spec: BenchmarkSpec | None, columns: Mapping[str, str] | None
) -> Benchmark | Absent:
    if columns and not (as_url(root) is None and is_manifest(Path(root)) and open_index(root) is None):
        raise ValueError(f"{root}: --columns is for CSV and parquet manifests")
    if url := as_url(root):
        shards = shards_in(url, spec)
        if not shards.urls:
            raise ValueError(f"{url}: no parquet shards; expected *.parquet in it or in its folder data")
        return open_shard_set(name, shards, spec)
    path = Path(root)
    if (index := open_index(path)) is not None:
        return by_model(name, index, str(path.parent))
    return by_generator(name, open_source(path, columns=columns), path.parent)
