"""The options that `gapl` and inference.py share: which images, how they are judged, where results go."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from gapl.names import FULL, VIEWS, VIEWS_HELP

MAX_MEGAPIXELS = 250  # more than the largest photographs of phones
TEXT, JSON, JSONL, CSV, PARQUET = "text", "json", "jsonl", "csv", "parquet"
FORMATS = (TEXT, JSON, JSONL, CSV, PARQUET)
FAIL_ON = ("fake", "unsure")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command line."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="an image, a folder of them, @FILE for the paths in the lines of a file, or - for those on stdin",
    )
    parser.add_argument(
        "--image_path", "--image-path", nargs="+", metavar="PATH", default=[], help="the same, as an option"
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="also follow links of a folder to what is outside of it"
    )
    parser.add_argument(
        "--max-megapixels",
        type=_megapixels,
        default=MAX_MEGAPIXELS,
        metavar="N",
        help="read no larger images; one takes 8 MB of memory for each, or 16 MB where it is transparent "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--operating-point", metavar="NAME", help="threshold of a calibrated detector: balanced, fpr1, fpr5"
    )
    parser.add_argument("--views", choices=VIEWS, default=FULL, help=VIEWS_HELP)
    parser.add_argument(
        "--format", choices=FORMATS, help="of the results (default: text, or that of the suffix of --out)"
    )
    parser.add_argument("--json", action="store_true", help="the same as --format jsonl: an object for each image")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write a table there; the same command continues a stopped one"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out, or what was begun of it")
    parser.add_argument(
        "--explain", action="store_true", help="also tell what each file says about its own origin, as evidence"
    )
    parser.add_argument(
        "--fail-on", choices=FAIL_ON, help="end with exit code 3 when an image is called fake, or fake or unsure"
    )


def _megapixels(text: str) -> float:
    megapixels = float(text)
    if not 0 < megapixels < math.inf:
        raise argparse.ArgumentTypeError(f"{text}; expected a number above 0")
    return megapixels


def named_paths(args: argparse.Namespace) -> list[str]:
    """Return the paths that a user named. Raises ValueError when there are none."""
    if not (paths := [*args.paths, *args.image_path]):
        raise ValueError("no image is named; give the path of an image or of a folder")
    return paths


def chosen_format(args: argparse.Namespace) -> str:
    """Return the format of the results. Raises ValueError when --out cannot have it."""
    of_suffix = args.out.suffix.removeprefix(".").lower() if args.out else TEXT
    asked = args.format or (JSONL if args.json else None)
    if args.json and asked != JSONL:
        raise ValueError(f"--json is --format jsonl, and not {asked}; leave one of them out")
    if asked and of_suffix in FORMATS and of_suffix not in (TEXT, asked):
        raise ValueError(f"--out {args.out} is no file for {asked}; name one with the suffix .{asked}")
    chosen: str = asked or of_suffix
    if args.out and chosen not in (JSON, JSONL, CSV, PARQUET):
        raise ValueError(f"--out {args.out}: a table is .jsonl, .json, .csv or .parquet; or name its --format")
    if chosen == PARQUET and not args.out:
        raise ValueError("--format parquet needs --out FILE")
    return chosen
