"""Write a model card for the Hugging Face hub, from tables of a detector's scores and its file."""

from __future__ import annotations

import argparse
from pathlib import Path

from commands.tables import add_tables, name_of_file, read_tables, require_tables
from gapl.files.checksum import sha256_of
from gapl.files.refusal import begins_with, check_is_file, check_replaceable
from gapl.names import AUTO, DETECTOR_FILE, FAST


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tables(parser)
    parser.add_argument("--model_path", "--model-path", type=Path, required=True, help="detector file")
    parser.add_argument("--out", type=Path, required=True, help="file to write, such as OUT/README.md")
    parser.add_argument("--licence", required=True, help="its identifier on the hub, such as mit or cc-by-nc-4.0")
    parser.add_argument("--licence-link", default="", metavar="URL")
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="data sets of the training, by their names on the hub",
    )


def run(args: argparse.Namespace) -> None:
    require_tables(args.tables)
    check_is_file(args.model_path, what=DETECTOR_FILE)
    check_replaceable(args.out, sources=(*args.tables, args.model_path), what="model card", is_one=_is_card)
    from models.weights.checkpoint import read_info
    from reporting.card import DetectorFacts, write_card

    scores = read_tables(args.tables)
    name = name_of_file(args.model_path, scores, tables=args.tables)
    info = read_info(args.model_path)
    views = scores.detectors[name].views
    if views == AUTO:
        raise ValueError(
            f"{name}: scores of --views auto rest on two calibrations; a card is of --views full or fast"
        )
    if views == FAST:
        info = info.fast()
    facts = DetectorFacts(
        name=name,
        form=info.form,
        backbone=info.config.backbone,
        views=info.config.pixel.views,
        sha256=sha256_of(args.model_path),
        provenance=info.provenance,
        calibration=info.calibration,
        notice=info.notice,
        datasets=args.datasets,
    )
    write_card(args.out, scores, model=name, facts=facts, licence=args.licence, licence_link=args.licence_link)
    print(f"model card in {args.out}")


def _is_card(path: Path) -> bool:
    if not begins_with(path, "---\n"):
        return False
    from reporting.card import INTRODUCTION

    return INTRODUCTION in path.read_text(encoding="utf-8", errors="replace")
