"""Find benchmarks whose images are rows of parquet shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.benchmarks.benchmark import Absent, Benchmark, Subset
from data.benchmarks.specs import BenchmarkSpec, folder_names
from data.folders import evaluation_splits, title
from data.records import Manifest
from data.shards.files import find_shards
from data.shards.index import ShardIndex, reading_order
from data.shards.scan import has_images, index_files
from data.words import split_of
from gapl.columns import normalise
from gapl.labels import Label


@dataclass(frozen=True)
class Shards:
    """The parquet files below a folder or URL."""

    root: str
    urls: list[str]


def find_shard_sets(root: Path, specs: Mapping[str, BenchmarkSpec]) -> dict[str, Shards]:
    """Find the shards of each benchmark: in `root`, its children, or a child's folder of the same name."""
    names = folder_names(specs)
    found: dict[str, Shards] = {}
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
            shards = shards_in(str(place), specs.get(name))
            if shards.urls and _are_images(shards.urls[0]):
                found.setdefault(name, shards)
    return found


def shards_in(root: str, spec: BenchmarkSpec | None) -> Shards:
    """Find the parquet files of a folder or URL, also in the folders that the benchmark's spec names."""
    folders = ("data", *(spec.shard_folders if spec else ()))
    return Shards(root, find_shards(root, folders=folders))


def _are_images(url: str) -> bool:
    try:
        return has_images(url)
    except ValueError:
        return True  # opening the benchmark tells the user that it cannot be read


def open_shard_set(name: str, shards: Shards, spec: BenchmarkSpec | None) -> Benchmark | Absent:
    """Make a benchmark of the shards of the split that is scored; the beginning of a name says the split."""
    split_of = {url: _split_of_file(url) for url in shards.urls}
    chosen = evaluation_splits(set(split_of.values()), train=spec is None)
    urls = [url for url in shards.urls if split_of[url] in chosen]
    if not urls:
        return Absent(name, f"not found: {shards.root} holds shards of the training split only", spec)
    return by_model(name, index_files(name, urls), shards.root, spec)


def _split_of_file(url: str) -> str | None:
    return split_of(re.split(r"[-_.]", url.rpartition("/")[2])[0])


def by_model(name: str, index: ShardIndex, root: str, spec: BenchmarkSpec | None = None) -> Benchmark:
    """Make a subset for each generator, against the real images that name it, or against all."""
    is_fake_N, model_N = index.label_N == Label.FAKE, index.models.number_N
    models = np.unique(model_N[is_fake_N])
    paired = spec.pairing == "generator" if spec else bool(np.isin(model_N[~is_fake_N], models).all())
    records = [index.record(position) for position in range(len(index))]
    subsets = []
    for model in models:
        of_model_N = model_N == model
        wanted_N = of_model_N if paired else (of_model_N & is_fake_N) | ~is_fake_N
        chosen = sorted((records[i] for i in np.flatnonzero(wanted_N)), key=reading_order)
        manifest = Manifest(index.models.names[model] or "unknown", tuple(chosen))
        subsets.append(Subset(manifest.name, manifest, reals_shared=not paired and not is_fake_N.all()))
    if not subsets:
        subsets = [Subset(name, Manifest(name, tuple(records)))]
    found = {normalise(subset.name) for subset in subsets}
    missing = tuple(
        wanted.name for wanted in (spec.subsets if spec else ()) if normalise(wanted.name) not in found
    )
    subsets.sort(key=lambda subset: subset.name)
    return Benchmark(name, tuple(subsets), missing, root, spec)
