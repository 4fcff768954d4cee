"""The options that say where benchmarks are, and what is found there."""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gapl import columns
from gapl.folders import counted

if TYPE_CHECKING:
    from data.benchmarks.benchmark import Absent, Benchmark

log = logging.getLogger(__name__)

REASONS_SHOWN = 3


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add --data-root, --benchmarks and --catalog."""
    parser.add_argument(
        "--data-root",
        default=os.environ.get("GAPL_DATA_ROOT") or None,
        help="folder or URL of benchmarks (default: the environment variable GAPL_DATA_ROOT)",
    )
    parser.add_argument("--benchmarks", help="names, separated by commas (default: all that are found)")
    parser.add_argument("--catalog", type=Path, help="folder of YAML files that describe more benchmarks")


def add_manifest_columns(parser: argparse.ArgumentParser) -> None:
    """Add --columns, of manifests."""
    columns.add_columns(parser, help="names of a manifest's columns, such as filename=picture label=kind")


def find(args: argparse.Namespace, *, columns: Mapping[str, str] | None = None) -> list[Benchmark | Absent]:
    """Return the benchmarks below the data root, or below its folder `bench` if it has one.

    args      the options of add_root
    columns   our name of a column -> its name in manifests

    The log says which files belong to none. Raises ValueError when no data root is given, it does not exist, or a
    name is unknown.
    """
    from data.benchmarks.find import find_benchmarks

    if args.data_root is None:
        raise ValueError("no benchmarks to look for: give --data-root or set GAPL_DATA_ROOT")
    root = _searched(args.data_root)
    names = args.benchmarks.split(",") if args.benchmarks else None
    left_out: Counter[str] = Counter()

    def note(_path: str, why: str) -> None:
        left_out[why] += 1

    found = find_benchmarks(root, names=names, catalog=args.catalog, columns=columns, note=note)
    if left_out:
        log.warning("%s: left out: %s", root, counted(left_out))
    return found


def find_some(args: argparse.Namespace, *, columns: Mapping[str, str] | None = None) -> list[Benchmark | Absent]:
    """Return what `find` does. Raises ValueError, with what comes nearest to a benchmark, when none is there."""
    from data.benchmarks.benchmark import Absent, absent
    from data.benchmarks.find import what_is_there

    found = find(args, columns=columns)
    if not present(found):
        root = _searched(args.data_root)
        reasons = [
            f"{each.name}: {each.reason}"
            for each in found
            if isinstance(each, Absent) and (args.benchmarks or not each.spec or each != absent(each.spec, root))
        ]
        nearest = "; ".join(reasons[:REASONS_SHOWN]) or what_is_there(root, columns=columns)
        raise ValueError(f"{args.data_root}: no benchmark found ({nearest})")
    return found


def present(found: Iterable[Benchmark | Absent]) -> list[Benchmark]:
    """Return the benchmarks that are there."""
    from data.benchmarks.benchmark import Benchmark

    return [each for each in found if isinstance(each, Benchmark)]


def _searched(data_root: str) -> Path:
    inner = Path(data_root) / "bench"
    return inner if inner.is_dir() else Path(data_root)
