"""The options that say where benchmarks are, and what is found there."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.benchmarks.benchmark import Absent, Benchmark


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add --data-root, --benchmarks and --catalog."""
    parser.add_argument(
        "--data-root",
        default=os.environ.get("GAPL_DATA_ROOT") or None,
        help="folder or URL of benchmarks (default: the environment variable GAPL_DATA_ROOT)",
    )
    parser.add_argument("--benchmarks", help="names, separated by commas (default: all that are found)")
    parser.add_argument("--catalog", type=Path, help="folder of YAML files that describe more benchmarks")


def find(data_root: str | None, *, names: str | None, catalog: Path | None) -> list[Benchmark | Absent]:
    """Return the benchmarks below the data root, or below its folder `bench` if it has one.

    names    separated by commas; None means all
    catalog  folder of YAML files that describe further benchmarks

    Raises ValueError when no data root is given, it does not exist, or a name is unknown.
    """
    from data.benchmarks.find import find_benchmarks

    if data_root is None:
        raise ValueError("no benchmarks to look for: give --data-root or set GAPL_DATA_ROOT")
    inner = Path(data_root) / "bench"
    root = inner if inner.is_dir() else Path(data_root)
    return find_benchmarks(root, names=names.split(",") if names else None, catalog=catalog)


def require_some(found: Sequence[Benchmark | Absent], *, data_root: str) -> list[Benchmark]:
    """Return the benchmarks that are there. Raises ValueError with the reasons when there is none."""
    from data.benchmarks.benchmark import Absent, Benchmark

    benchmarks = [each for each in found if isinstance(each, Benchmark)]
    if not benchmarks:
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in found if isinstance(each, Absent))
        raise ValueError(f"{data_root}: no benchmark found ({reasons})")
    return benchmarks
