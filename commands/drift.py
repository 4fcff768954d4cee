"""Tell whether a stream of images has changed between two tables of one detector; list what to label first."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from commands.tables import require_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluation.drift.drift import Drift
    from evaluation.drift.label_first import Chosen

MOST_LOOKS = 1_000_000
EXIT_CHANGED = 3
JSON, PAGE, LIST = "drift.json", "drift.html", "label_first.csv"  # in the folder of --out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "table of gapl --out (parquet, csv, json, jsonl), or scores.parquet"
    parser.add_argument("before", type=Path, metavar="BEFORE", help=text)
    parser.add_argument("now", type=Path, metavar="NOW", help="the same of later images, by the same detector")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {JSON}, {PAGE} and {LIST} there")
    parser.add_argument("--overwrite", action="store_true", help="replace those files")
    parser.add_argument(
        "--alpha", type=float, default=0.01, help="chance of a false alarm (default: %(default)s), in all looks"
    )
    parser.add_argument(
        "--looks",
        type=int,
        default=1,
        metavar="N",
        help="such comparisons in all, such as 52 for a week's in a year",
    )
    parser.add_argument(
        "--label-first", type=int, default=50, metavar="N", help="list N images to label (default: %(default)s)"
    )
    parser.add_argument("--model", metavar="NAME", help="the detector, where tables of scores have several")
    parser.add_argument(
        "--cluster",
        choices=("folder", "source"),
        help="what images that belong together share: their folder, such as that of an uploader, or the source in "
        "tables of scores; each counts as one draw",
    )
    parser.add_argument(
        "--fail-on-change",
        action="store_true",
        help=f"end with exit code {EXIT_CHANGED} if the stream has changed",
    )


def run(args: argparse.Namespace) -> int:
    require_tables([args.before, args.now])
    _check(args)
    from evaluation.drift.drift import compare_streams
    from evaluation.drift.label_first import choose
    from evaluation.drift.stream import read_stream
    from evaluation.drift.words import to_text

    before, now = (read_stream(path, model=args.model, cluster=args.cluster) for path in (args.before, args.now))
    drift = compare_streams(before, now, alpha=args.alpha, looks=args.looks)
    chosen = choose(before, now, count=args.label_first)
    print(to_text(drift, chosen))
    if args.out:
        _write(args.out, drift, chosen)
    return EXIT_CHANGED if args.fail_on_change and drift.changed else 0


def _check(args: argparse.Namespace) -> None:
    """Raise ValueError, one line, for options that make no sense, and for results that would be lost."""
    if not 0 < args.alpha < 1:
        raise ValueError(f"--alpha {args.alpha:g}; expected a rate above 0 and below 1, such as 0.01")
    if not 1 <= args.looks <= MOST_LOOKS:
        raise ValueError(f"--looks {args.looks}; expected how many comparisons there will be, 1 to {MOST_LOOKS}")
    if args.label_first < 0:
        raise ValueError(f"--label-first {args.label_first}; expected a number of images, 0 or more")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; expected a folder")
    if args.out:
        for path in (args.out / name for name in (JSON, PAGE, LIST)):
            if path.resolve() in (args.before.resolve(), args.now.resolve()):
                raise ValueError(f"{path} is one of the tables that are compared; name another --out")
            if path.exists() and not args.overwrite:
                raise ValueError(f"{path} is there already; name another --out, or replace it with --overwrite")


def _write(out: Path, drift: Drift, chosen: Sequence[Chosen]) -> None:
    from evaluation.drift.label_first import write_csv
    from evaluation.drift.words import to_dict
    from gapl.files.atomic import replacing
    from reporting.drift import write_drift

    with replacing(out / JSON) as scratch:
        scratch.write_text(json.dumps(to_dict(drift, chosen), indent=1) + "\n", encoding="utf-8")
    write_csv(out / LIST, chosen)
    write_drift(out / PAGE, drift, chosen)
    print(f"{JSON}, {PAGE} and {LIST} in {out}")
