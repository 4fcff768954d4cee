"""Read every image of the benchmarks: broken and doubled ones, formats and sizes."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from commands.roots import add_manifest_columns, add_root, find_some
from gapl.files.refusal import begins_with, check_replaceable

log = logging.getLogger(__name__)

COLUMNS = ("benchmark", "subset", "uri", "problem")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser)
    add_manifest_columns(parser)
    parser.add_argument("--out", type=Path, help="write all broken and doubled images to a CSV file")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode images")


def run(args: argparse.Namespace) -> int:
    """Return 1 when images cannot be decoded, and else 0."""
    if args.out:
        check_replaceable(args.out, sources=(), what="list of problems", is_one=_is_list)
    found = find_some(args, columns=args.columns)
    import pandas as pd

    from data.benchmarks.verify import to_problems, to_text, verify

    verified = [verify(each, num_workers=args.num_workers) for each in found]
    print(to_text(verified))
    if args.out:
        rows = pd.DataFrame(to_problems(verified), columns=list(COLUMNS))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(args.out, index=False)
        print(f"{len(rows)} problems in {args.out}")
    broken = {uri for each in verified for subset in each.subsets for uri, _ in subset.unreadable}
    if broken:
        log.error("%d images cannot be decoded", len(broken))
    return 1 if broken else 0


def _is_list(path: Path) -> bool:
    return begins_with(path, ",".join(COLUMNS))
