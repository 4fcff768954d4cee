"""Show which benchmarks are below a data root, with their counts beside the published ones."""

from __future__ import annotations

import argparse

from commands.roots import add_manifest_columns, add_root, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser)
    add_manifest_columns(parser)


def run(args: argparse.Namespace) -> None:
    found = find(args, columns=args.columns)
    from data.benchmarks.verify import to_text, verify

    print(to_text([verify(each, read=False) for each in found]))
