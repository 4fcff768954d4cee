"""Join the parts that `run --shard` has scored on several machines into one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from commands.tables import show_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="what `run --shard` has written")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table of scores")


def run(args: argparse.Namespace) -> None:
    for folder in args.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; expected one that benchmarks.py run has written")
    from evaluation.scoring.folder import finish

    args.out.mkdir(parents=True, exist_ok=True)
    finish(args.out, parts_of=args.folders)
    show_run(args.out)
