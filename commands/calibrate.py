"""Give a detector file thresholds and probabilities, fitted to its scores of held-out images."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from commands.tables import add_tables, name_of_file, read_tables, require_tables
from gapl.calibration import METHODS, Calibration
from gapl.files.refusal import check_is_file, check_replaceable
from gapl.files.tensorfile import format_of
from gapl.info import FORMAT
from gapl.names import DETECTOR_FILE, FAST, FULL
from gapl.verdict import decision_rule

if TYPE_CHECKING:
    from evaluation.tables.scores import ScoreTable

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tables(parser, help="scores of images that neither training nor a benchmark has used")
    parser.add_argument("--model_path", "--model-path", type=Path, required=True, help="detector file")
    parser.add_argument("--out", type=Path, required=True, help="the new detector file, with its calibration")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    parser.add_argument(
        "--fast", action="store_true", help="the scores are of the view whole alone (--views fast)"
    )
    parser.add_argument("--method", choices=METHODS, default="platt")
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        help="error rate outside of the unsure band, in each class (default: 0.05)",
    )
    parser.add_argument(
        "--per-source",
        type=int,
        default=0,
        help="use at most so many images of each source, so that no large one decides (default: 0, all)",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        type=Path,
        default=[],
        help="tables of benchmarks: refuse an image that is in one of them",
    )


def run(args: argparse.Namespace) -> None:
    if args.per_source < 0:
        raise ValueError(f"--per-source must be 0 or more, not {args.per_source}")
    require_tables([*args.tables, *args.against])
    check_is_file(args.model_path, what=DETECTOR_FILE)
    _check_out(args)
    from evaluation.calibrate import calibrate, check_no_overlap, few_of_each_source
    from evaluation.tables.scores import CLEAN, read_scores
    from models.weights.checkpoint import store_calibration

    scores = read_tables(args.tables)
    name = _name_of(args.model_path, scores, tables=args.tables, views=FAST if args.fast else FULL)
    frame = scores.frame
    held_out = frame[(frame["model"] == name) & (frame["degradation"] == CLEAN)]
    for path in args.against:
        check_no_overlap(held_out, read_scores(path).frame)
    if args.per_source:
        held_out = few_of_each_source(held_out, args.per_source)
    calibration = calibrate(held_out, method=args.method, alpha=args.alpha)
    store_calibration(args.model_path, calibration, out=args.out, fast=args.fast)
    _show(calibration)
    print(f"saved {args.out}")


def _check_out(args: argparse.Namespace) -> None:
    """Raise ValueError for an --out that is read, is no detector file, or is there without --overwrite."""
    sources = (*args.tables, *args.against, args.model_path)
    check_replaceable(args.out, sources=sources, what="detector file", is_one=_is_detector)
    if args.out.exists() and not args.overwrite:
        raise ValueError(f"{args.out} exists; name another --out, or pass --overwrite to replace it")


def _is_detector(path: Path) -> bool:
    return format_of(path) == FORMAT


def _name_of(model_path: Path, scores: ScoreTable, *, tables: Sequence[Path], views: str) -> str:
    if scores.detectors:
        return name_of_file(model_path, scores, tables=tables, views=views)
    # Such as the scores_heldout.csv of a run: it is of one detector, but cannot say of which.
    listed = ", ".join(map(str, tables))
    if len(scores.models) != 1:
        raise ValueError(f"{listed}: scores of {len(scores.models)} detectors; expected one")
    log.warning("that %s are scores of %s is taken on trust", listed, model_path)
    return scores.models[0]


def _show(calibration: Calibration) -> None:
    print(f"{calibration.method}: score = sigmoid({calibration.a:.4g} * logit {calibration.b:+.4g})")
    print(f"from {calibration.n_real} real images and {calibration.n_fake} fakes")
    print(f"calibration error on them {calibration.ece_before:.3f} before, {calibration.ece_after:.3f} after")
    for point, threshold in calibration.operating_points.items():
        print(f"operating point {point}: fake from {threshold:.4f} on")
    if (rule := decision_rule(calibration)).has_band:
        band = f"between {rule.real_below:.4f} and {rule.threshold:.4f}"
        print(f"unsure {band}: at most {calibration.alpha:.0%} of each class are called the other")
