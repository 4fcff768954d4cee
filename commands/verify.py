"""Read every image of the benchmarks: broken and doubled ones, formats and sizes."""

from __future__ import annotations

import argparse
from pathlib import Path

from commands.roots import add_root, find, require_some


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser)
    parser.add_argument("--out", type=Path, help="write all broken and doubled images to a CSV file")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode images")


def run(args: argparse.Namespace) -> None:
    found = find(args.data_root, names=args.benchmarks, catalog=args.catalog)
    require_some(found, data_root=args.data_root)
    import pandas as pd

    from data.benchmarks.verify import to_problems, to_text, verify

    verified = [verify(each, num_workers=args.num_workers) for each in found]
    print(to_text(verified))
    if args.out:
        rows = pd.DataFrame(to_problems(verified), columns=["benchmark", "subset", "uri", "problem"])
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(args.out, index=False)
        print(f"{len(rows)} problems in {args.out}")
