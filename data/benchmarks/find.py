"""Find the benchmarks in a folder, file or URL: those of the catalog, and all others that are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data.benchmarks.benchmark import Absent, Benchmark, absent
from data.benchmarks.in_folders import Groups, home_of, pair, resolve, sort_folders, sort_generic
from data.benchmarks.in_shards import by_model, find_shard_sets, open_shard_set, shards_in
from data.benchmarks.specs import BenchmarkSpec, folder_names, read_catalog
from data.folders import find_image_folders, normalise
from data.records import Manifest, Record
from data.shards.urls import as_url, name_of
from data.sources import open_index, open_source
from gapl.labels import Label

Specs = Mapping[str, BenchmarkSpec]


def find_benchmarks(
    root: str | Path, *, names: Sequence[str] | None = None, catalog: Path | None = None
) -> list[Benchmark | Absent]:
    """Find the benchmarks at or below `root`: those of the catalog, each found or Absent, then all others.

    Any other folder with class folders is a benchmark too: `root`, with those in itself and in its children,
    which are the subsets; and each child that has some further below; and `root` or a child with parquet shards
    of images in itself or in its folder `data`. A URL of shards, a shard, a plan, or a CSV or parquet manifest as
    `root` is one benchmark, a subset for each generator.

    Of several splits in a subset, or among shards by how their names begin, the test split is scored, else the
    validation split; training data only outside of the catalog and if there is nothing else. A file as `root` is
    taken whole. All images of a subset are kept. A subset without real images is scored against those of the
    subsets that hold nothing else, if there are any; a generator of shards against the real images that name it,
    where all name one, else against all.

    With `names`, of the catalog or of other folders found, only these. `catalog` is a folder of YAML files that
    describe further benchmarks. Raises ValueError for an unknown name, a missing `root`, a wrong description or a
    shard that cannot be read.
    """
    specs = read_catalog(catalog)
    if as_url(root) or Path(root).is_file():
        return _find_one(root, specs, names)
    root = Path(root)
    published, others = sort_folders(root, find_image_folders(root), specs)
    generic = sort_generic(root, others)
    shards = find_shard_sets(root, specs)
    found: list[Benchmark | Absent] = []
    for name in _choose([*generic, *shards], specs, names):
        if name in shards:
            found.append(open_shard_set(name, shards[name], specs.get(name)))
        elif name in specs:
            found.append(resolve(specs[name], published.get(name, {}), root))
        else:
            found.append(pair(name, generic[name], home_of(root, generic[name], [name])))
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


def _find_one(root: str | Path, specs: Specs, names: Sequence[str] | None) -> list[Benchmark | Absent]:
    """Open `root` as one benchmark; any other benchmark that is asked for by name is absent."""
    url = as_url(root)
    own = name_of(url) if url else Path(root).stem
    name = folder_names(specs).get(normalise(own), own) if url else own
    wanted = [name] if names is None else _choose([name], specs, names)
    return [_open_one(root, name, specs) if each == name else absent(specs[each], root) for each in wanted]


def _open_one(root: str | Path, name: str, specs: Specs) -> Benchmark | Absent:
    spec = specs.get(name)
    if url := as_url(root):
        shards = shards_in(url, spec)
        if not shards.urls:
            raise ValueError(f"{url}: no parquet shards; expected *.parquet in it or in its folder data")
        return open_shard_set(name, shards, spec)
    path = Path(root)
    if (index := open_index(path)) is not None:
        return by_model(name, index, str(path.parent))
    return pair(name, _by_generator(open_source(path)), str(path.parent))


def _by_generator(manifest: Manifest) -> Groups:
    groups: dict[str, tuple[list[Record], list[Record]]] = defaultdict(lambda: ([], []))
    for record in manifest:
        # The real images are a group of their own, so that every generator is scored against all of them.
        if record.label is Label.FAKE:
            groups[record.generator][0].append(record)
        else:
            groups[""][1].append(record)
    return dict(groups)
