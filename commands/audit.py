"""Tell how much of the label the format, size and compression of a benchmark's files give away."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from commands.roots import add_manifest_columns, add_root, find_some, present
from commands.tables import read_tables, require_tables
from gapl.files.refusal import begins_with, check_replaceable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser)
    add_manifest_columns(parser)
    parser.add_argument(
        "--scores",
        nargs="+",
        type=Path,
        default=[],
        metavar="TABLE",
        help="also measure how much a detector's scores depend on the files",
    )
    parser.add_argument("--model", metavar="NAME", help="the detector to audit (default: the first of the tables)")
    parser.add_argument(
        "--train", nargs="+", default=[], metavar="DATA", help="training data, to look for copies of its images"
    )
    parser.add_argument("--out", type=Path, help="write the audits to a JSON file")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")


def run(args: argparse.Namespace) -> None:
    if args.model and not args.scores:
        raise ValueError("--model needs --scores")
    require_tables(args.scores)
    if args.out:
        sources = (*args.scores, *map(Path, args.train))
        check_replaceable(args.out, sources=sources, what="audit", is_one=_is_audit)
    benchmarks = present(find_some(args, columns=args.columns))
    from data.sources import open_source
    from evaluation.audit.audit import audit_benchmarks, to_text

    audits = audit_benchmarks(
        benchmarks,
        scores=read_tables(args.scores) if args.scores else None,
        model=args.model,
        train=[record for source in args.train for record in open_source(source)],
        num_workers=args.num_workers,
    )
    for each in audits.values():
        print(to_text(each))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({name: each.to_dict() for name, each in audits.items()}, indent=1)
        args.out.write_text(text, encoding="utf-8")


def _is_audit(path: Path) -> bool:
    if not begins_with(path, "{"):
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return all(isinstance(each, dict) and {"n_real", "n_fake", "traits"} <= each.keys() for each in found.values())
