"""Show which benchmarks are below a data root, with their counts beside the published ones."""

from __future__ import annotations

import argparse

from commands.roots import add_root, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser)


def run(args: argparse.Namespace) -> None:
    found = find(args.data_root, names=args.benchmarks, catalog=args.catalog)
    from data.benchmarks.verify import to_text, verify

    print(to_text([verify(each, read=False) for each in found]))
