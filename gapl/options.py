"""The options that `gapl` and inference.py share: which images, how they are judged, where results go."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from gapl.columns import add_columns
from gapl.names import AUTO, FULL, VIEWS, VIEWS_HELP

MAX_MEGAPIXELS = 250  # more than the largest photographs of phones
MAX_SECONDS = 120  # several times what the slowest format takes for as many
MOST = 1_000_000  # megapixels, and seconds
WORKERS = 2  # processes that decode many images,
MANY = 16  # which is from so many on: to start them takes longer than to decode a few
FRAMES, MOST_FRAMES = 8, 10_000  # of a video
TEXT, JSON, JSONL, CSV, PARQUET = "text", "json", "jsonl", "csv", "parquet"
FORMATS = (TEXT, JSON, JSONL, CSV, PARQUET)
FAIL_ON = ("fake", "unsure")
HARD, SYMBOLIC = "hard", "symbolic"
LINKS = (HARD, SYMBOLIC)
SHEETS_INDEX = "index.html"  # in the folder of --sheets


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command line."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="an image; a folder, zip, tar or parquet file of them; a video; a CSV list; s3:// and the like; "
        "@FILE for paths in the lines of a file; or - for those on stdin",
    )
    parser.add_argument(
        "--image_path", "--image-path", nargs="+", metavar="PATH", default=[], help="the same, as an option"
    )
    _add_inputs(parser)
    parser.add_argument(
        "--max-megapixels",
        type=_above_0,
        default=MAX_MEGAPIXELS,
        metavar="N",
        help="read no larger images; one takes 8 MB of memory for each, or 16 MB where it is transparent "
        "(default: %(default)s)",
    )
    _add_workers(parser)
    parser.add_argument(
        "--operating-point", metavar="NAME", help="threshold of a calibrated detector: balanced, fpr1, fpr5"
    )
    parser.add_argument("--views", choices=VIEWS, default=FULL, help=VIEWS_HELP)
    parser.add_argument(
        "--format", choices=FORMATS, help="of the results (default: text, or that of the suffix of --out)"
    )
    parser.add_argument("--json", action="store_true", help="the same as --format jsonl: an object for each image")
    _add_outputs(parser)
    _add_explanations(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options for what is made of the results."""
    group = parser.add_argument_group("what is made of the results")
    group.add_argument(
        "--out",
        type=_path,
        metavar="FILE",
        help="write a table there; the same command continues a stopped one, and brings a finished one up to date",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace --out, or what was begun of it, --gallery and --sheets"
    )
    group.add_argument(
        "--fail-on", choices=FAIL_ON, help="end with exit code 3 when an image is called fake, or fake or unsure"
    )
    group.add_argument(
        "--gallery",
        type=_path,
        metavar="FILE.html",
        help="write a page with thumbnails there, which a browser sorts and filters (8 MB for 1,000 images)",
    )
    group.add_argument(
        "--sort-into",
        type=_path,
        metavar="DIR",
        help="copy images into DIR/fake, DIR/real, DIR/unsure and DIR/unreadable; no file is changed or replaced",
    )
    group.add_argument("--link", choices=LINKS, help="with --sort-into: make such links instead of copies")


def _add_explanations(parser: argparse.ArgumentParser) -> None:
    """Add the options for what is said beside verdicts."""
    group = parser.add_argument_group("what is said beside verdicts")
    group.add_argument(
        "--explain",
        action="store_true",
        help="also tell what can be said beside the verdict: prototypes, family of generators, distance from "
        "training, and what the file says about its own origin",
    )
    group.add_argument(
        "--trusted",
        type=_trusted,
        metavar="FILE",
        help="with --explain: certificates in PEM; who signed a C2PA manifest is trusted if one of these vouches",
    )
    group.add_argument(
        "--sheets",
        type=_path,
        metavar="DIR",
        help="write a page for each image there that explains its verdict (25 times the work of a verdict)",
    )


def _path(text: str) -> Path:
    if not text:  # which would be the working folder
        raise argparse.ArgumentTypeError("an empty path; name a file or a folder")
    return Path(text)


def _trusted(text: str) -> Path:
    """Return the path of a file that has certificates in PEM."""
    from gapl.inputs.input import require
    from gapl.origin.trust import read_trusted

    try:
        require("c2pa-python", "c2pa", what="--trusted")
        read_trusted(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options for what images come from."""
    group = parser.add_argument_group("what images come from")
    group.add_argument(
        "--follow-links", action="store_true", help="also follow links of a folder to what is outside of it"
    )
    group.add_argument("--stdin-image", action="store_true", help="judge the image whose bytes are on stdin")
    group.add_argument(
        "--allow-urls", action="store_true", help="also fetch images from http and https URLs, of public addresses"
    )
    group.add_argument(
        "--frames",
        type=_frames,
        default=FRAMES,
        metavar="N",
        help="judge so many frames of a video, evenly spread over its time (default: %(default)s)",
    )
    add_columns(parser, help="the column of paths in a list, if it has another name: filename=THEIRS")


def _frames(text: str) -> int:
    if (frames := _whole(text, least=1)) > MOST_FRAMES:
        raise argparse.ArgumentTypeError(f"{text}; expected at most {MOST_FRAMES}")
    return frames


def _add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options for the processes that decode images."""
    group = parser.add_argument_group("many images")
    group.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help=f"processes that decode images: a file that crashes one costs a row, and no more (default: {WORKERS} "
        f"for {MANY} images or more, else 0: this process)",
    )
    group.add_argument(
        "--max-seconds",
        type=_above_0,
        default=MAX_SECONDS,
        metavar="S",
        help="that one of them may take to read and decode an image (default: %(default)s)",
    )
    group.add_argument(
        "--ray",
        type=_above_none,
        metavar="N",
        help="judge on a Ray cluster with N workers, each with a detector and --workers processes (default: 1); "
        "needs ray[data]",
    )
    group.add_argument("--ray-address", metavar="ADDRESS", help="address of the cluster; default: start one here")


def _above_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= MOST:
        raise argparse.ArgumentTypeError(f"{text}; expected a number above 0, and at most {MOST:,}")
    return number


def _workers(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}; expected a whole number, {least} or more")
    return int(text)


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
    if args.trusted and not is_explained(args):
        raise ValueError("--trusted needs --explain, or --sheets DIR")
    if args.link and not args.sort_into:
        raise ValueError("--link needs --sort-into DIR")
    if args.sheets and args.views == AUTO:
        raise ValueError("--sheets explains all views, or one; choose --views full or fast")
    chosen: str = asked or of_suffix
    if args.out and chosen not in (JSON, JSONL, CSV, PARQUET):
        raise ValueError(f"--out {args.out}: a table is .jsonl, .json, .csv or .parquet; or name its --format")
    if chosen == PARQUET and not args.out:
        raise ValueError("--format parquet needs --out FILE")
    return chosen


def trusted_certificates(args: argparse.Namespace) -> str:
    """Return the certificates in the file of --trusted, in PEM. Raises ValueError or OSError as `read_trusted`."""
    if not args.trusted:
        return ""
    from gapl.origin.trust import read_trusted

    return read_trusted(args.trusted)


def is_explained(args: argparse.Namespace) -> bool:
    """Tell whether verdicts are explained."""
    return bool(args.explain or args.sheets)


def _above_none(text: str) -> int:
    return _whole(text, least=1)


def chosen_workers(args: argparse.Namespace, num_images: int) -> int:
    """Return how many processes decode so many images."""
    if args.workers is None:
        return WORKERS if num_images >= MANY else 0
    return min(int(args.workers), num_images)
