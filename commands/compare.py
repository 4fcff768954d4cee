"""Compare two detectors on the images that both have scored."""

from __future__ import annotations

import argparse

from commands.names import tell_apart
from commands.tables import add_columns, add_tables, require_tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tables(parser)
    add_columns(parser)
    parser.add_argument("--models", nargs=2, metavar="NAME", help="the two to compare, if the tables have more")


def run(args: argparse.Namespace) -> None:
    require_tables(args.tables)
    from evaluation.compare import compare_models, to_text
    from evaluation.tables.scores import join_tables, read_scores

    names = tell_apart([path.parent / path.stem for path in args.tables])
    columns = args.columns
    tables = [
        read_scores(path, columns=columns, model=name) for path, name in zip(args.tables, names, strict=True)
    ]
    print(to_text(compare_models(join_tables(tables), models=args.models)))
