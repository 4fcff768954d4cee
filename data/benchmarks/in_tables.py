"""Find benchmarks whose images a manifest lists."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from data.benchmarks.benchmark import Absent, Benchmark
from data.benchmarks.in_folders import Folders, Groups, pair
from data.folders import TABLES, evaluation_splits, title
from data.records import Manifest
from data.tables import lists_images, read_manifest, splits_in
from data.words import split_of
from gapl.labels import Label

Columns = Mapping[str, str] | None


def find_manifests(
    root: Path, folders: Folders, *, columns: Columns, shards: Collection[str], taken: Collection[str]
) -> dict[Path, Benchmark | Absent]:
    """Open the manifests in `root` and its children; of several that are named after splits, the one to score.

    A manifest in `root` is called after its file, one in a child after both, one named after a split after its
    folder. One that cannot be read is Absent. One that lists an image of a class folder describes that folder,
    and is no benchmark.

    shards   parquet files that hold images, which are no manifests
    taken    names of benchmarks
    """
    found: dict[str, tuple[Path, Benchmark | Absent]] = {}
    for folder in (root, *_children(root)):
        tables = [path for path in tables_in(folder, ".parquet") if str(path) not in shards]
        paths = [path for path in tables if lists_images(path, columns=columns)]
        chosen = evaluation_splits({split_of(path.stem) for path in paths}, train=True)
        for path in (path for path in paths if split_of(path.stem) in chosen):
            own = path.stem if folder == root else f"{folder.name}/{path.stem}"
            name = title(folder) if split_of(path.stem) else own
            if name in found or name in taken:
                name = path.relative_to(root).as_posix()
            found[name] = path, open_manifest(name, path, columns)
    labelled = {uri for folder, uris in folders.items() if folder.label is not None for uri in uris if found}
    return {path: opened for path, opened in found.values() if not _lists_some(opened, labelled)}


def _children(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _lists_some(opened: Benchmark | Absent, paths: Collection[str]) -> bool:
    if isinstance(opened, Absent):
        return False
    return any(os.path.normpath(uri) in paths or uri in paths for uri in opened.images().uris())


def tables_in(folder: Path, *more: str) -> list[Path]:
    """Return the files directly in a folder whose suffix is that of a table."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (*TABLES, *more) and not path.name.startswith(".") and path.is_file()
    )


def first_mistake(root: Path, columns: Columns) -> str:
    """Return why the first CSV file in `root` or its children is no manifest; an empty text if there is none."""
    for path in (path for folder in (root, *_children(root)) for path in tables_in(folder)):
        try:
            read_manifest(path, columns=columns)
        except ValueError as error:
            return str(error)
    return ""


def open_manifest(name: str, path: Path, columns: Columns) -> Benchmark | Absent:
    """Make a benchmark of the rows of the split that is scored; tell why where they cannot be read."""
    try:
        chosen = evaluation_splits(splits_in(path, columns=columns), train=True) - {None}
        return by_generator(
            name, read_manifest(path, split=next(iter(chosen), None), columns=columns), path.parent
        )
    except ValueError as error:
        return Absent(name, f"not read: {error}")


def by_generator(name: str, manifest: Manifest, root: Path) -> Benchmark:
    """Make a subset for each generator, against all real images."""
    groups: Groups = defaultdict(lambda: ([], []))
    for record in manifest:
        # The real images are a group of their own, so that every generator is scored against all of them.
        if record.label is Label.FAKE:
            groups[record.generator][0].append(record)
        else:
            groups[""][1].append(record)
    return pair(name, groups, str(root))
