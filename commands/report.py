"""Show tables of scores, ours or another tool's, and write them as files or as an HTML page with all figures."""

from __future__ import annotations

import argparse
from pathlib import Path

from commands.roots import add_root, find_some, present
from commands.tables import add_columns, add_tables, read_tables, require_tables, show_tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tables(parser)
    add_columns(parser)
    parser.add_argument("--out", type=Path, help="folder to write metrics.csv, .md and .tex to")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all figures, in one file")
    parser.add_argument("--no-thumbnails", action="store_true", help="list the worst mistakes by name only")
    parser.add_argument("--audit", action="store_true", help="also audit the benchmarks below --data-root")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    add_root(parser)


def run(args: argparse.Namespace) -> None:
    _refuse_without_effect(args)
    require_tables(args.tables)
    benchmarks = []
    if args.audit:
        benchmarks = present(find_some(args))
    scores = read_tables(args.tables, columns=args.columns)
    show_tables(scores, args.out)
    if args.out:
        print(f"tables in {args.out}")
    if args.html:
        from evaluation.audit.audit import audit_benchmarks
        from reporting.page import write_report

        scored = [each for each in benchmarks if each.name in set(scores.frame["benchmark"])]
        audits = audit_benchmarks(scored, scores=scores, num_workers=args.num_workers)
        write_report(args.html, scores, audits=audits, thumbnails=not args.no_thumbnails)
        print(f"report in {args.html}")


def _refuse_without_effect(args: argparse.Namespace) -> None:
    if not args.html and (args.audit or args.no_thumbnails):
        raise ValueError("--audit and --no-thumbnails need --html FILE")
    if not args.audit and (args.benchmarks or args.catalog):
        raise ValueError("--benchmarks and --catalog need --audit; a report is of all rows of its tables")
