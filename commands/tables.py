"""Tables of scores: read as command lines name them, and shown on the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gapl import columns
from gapl.files.checksum import sha256_of
from gapl.files.refusal import check_is_file
from gapl.names import FULL

if TYPE_CHECKING:
    from evaluation.tables.scores import ScoreTable


def add_tables(parser: argparse.ArgumentParser, *, help: str = "parquet or CSV") -> None:
    """Add the positional argument `tables`."""
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help=help)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add --columns, of tables of scores."""
    columns.add_columns(parser, help="names of another tool's columns, such as score=prob label=target")


def require_tables(paths: Sequence[Path]) -> None:
    """Raise ValueError unless every path is a file. This imports nothing, so a wrong path is told at once."""
    for path in paths:
        check_is_file(path, what="a table of scores")


def read_tables(paths: Sequence[Path], *, columns: Mapping[str, str] | None = None) -> ScoreTable:
    """Read the tables and join them. Raises ValueError as `read_scores` and `join_tables` do."""
    from evaluation.tables.scores import join_tables, read_scores

    return join_tables([read_scores(path, columns=columns) for path in paths])


def name_of_file(model_path: Path, scores: ScoreTable, *, tables: Sequence[Path], views: str = "") -> str:
    """Return the name under which the tables hold the scores of this very detector file, by its sha256.

    views   "full", "fast" or "auto": how it must have looked at the images; empty: any way, full if that is there

    Raises ValueError when they hold none.
    """
    sha256 = sha256_of(model_path)
    found = {each.views: name for name, each in scores.detectors.items() if each.sha256 == sha256}
    listed = ", ".join(map(str, tables))
    if not found:
        raise ValueError(f"{model_path}: no scores of this file in {listed}")
    if views and views not in found:
        raise ValueError(f"{listed}: scores of {model_path} are of --views {', '.join(found)}; expected {views}")
    return found.get(views or FULL, next(iter(found.values())))


def show_run(folder: Path) -> None:
    """Print the tables of a complete run and write them to its folder."""
    from evaluation.scoring.folder import TABLE
    from evaluation.tables.scores import BY_WHOLE, read_scores

    path = folder / TABLE
    scores = read_scores(path)
    show_tables(scores, folder)
    thresholds = {each.threshold for each in scores.detectors.values()}
    stated = ", ".join(map(str, sorted(thresholds)))
    print(f"threshold {stated}; scores of {scores.frame['uri'].nunique()} images in {path}")
    if BY_WHOLE in scores.frame:
        by_whole = scores.frame.drop_duplicates(["uri", "model", "degradation"])[BY_WHOLE].dropna()
        print(f"{int(by_whole.sum())} of {len(by_whole)} scores are by the whole image alone")


def show_tables(scores: ScoreTable, out: Path | None) -> None:
    """Print the figures of clean images, then the cost of each degradation if any; write both to `out`."""
    from evaluation import robustness
    from evaluation.tables.layout import to_text
    from evaluation.tables.report import make_table, write_tables

    table = make_table(scores)
    print(to_text(table))
    if out:
        write_tables(table, out)
    if scores.frame["degradation"].nunique() > 1:
        degraded = robustness.robustness_table(scores)
        print(robustness.to_text(degraded))
        if out:
            degraded.to_csv(out / "robustness.csv", index=False)
