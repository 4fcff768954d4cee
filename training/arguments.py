"""The options of train.py. Nothing slow is imported for them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

from gapl.names import BACKBONE_HELP, FORMS
from models.device import DEVICES
from prototype_dataset import STREAM_FROM_BYTES, add_data_arguments
from training.recipe import PRESET_NAMES, Recipe

TRACKERS = ("tensorboard", "wandb")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all options of train.py."""
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    parser.add_argument("--preset", default="paper", help=f"{', '.join(PRESET_NAMES)} (default: paper)")
    add_data_arguments(parser)
    parser.add_argument(
        "--holdout",
        nargs="+",
        metavar="NAME",
        help="generators and real sources to validate on; real:NAME or fake:NAME where both have the name; @FILE: "
        "those that the training of a detector file held out",
    )
    _add_detector_arguments(parser)
    _add_stream_arguments(parser)
    _add_running_arguments(parser)
    _add_recipe_arguments(parser)


def _add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training starts from, and in which form its result is saved."""
    parser.add_argument(
        "--backbone",
        help=f"{BACKBONE_HELP}; stage 2 takes that of stage 1, and needs it for the authors' stage1.pt",
    )
    parser.add_argument(
        "--init",
        help="stage 2: detector file of stage 1, or the authors' stage1.pt; or a detector of stage 2, or the "
        "authors' checkpoint.pt, to train on",
    )
    parser.add_argument(
        "--prototypes", type=Path, help="stage 2: bank of dream_prototype.py, or the authors' pca_3type_num64.pt"
    )
    parser.add_argument(
        "--form",
        choices=FORMS,
        default="adapter",
        help="adapter: trained weights only; full: everything; merged: LoRA folded in (default: adapter)",
    )


def _add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whether and how shards are streamed."""
    group = parser.add_argument_group("stream of shards")
    group.add_argument(
        "--stream",
        choices=("auto", "yes", "no"),
        default="auto",
        help="stream parquet shards instead of copying their images (auto: from a server, or from "
        f"{STREAM_FROM_BYTES >> 30} GB)",
    )
    group.add_argument(
        "--stream-parts",
        type=int,
        metavar="N",
        help="parts of the stream, on which the order of images depends (default: the number of processes)",
    )


def _add_running_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the run goes, and what does not change its result."""
    group = parser.add_argument_group("running")
    group.add_argument("--out", type=Path, help="folder of the run (default: runs/stage1 or runs/stage2)")
    finished = group.add_mutually_exclusive_group()
    finished.add_argument("--overwrite", action="store_true", help="replace a finished run in --out")
    finished.add_argument("--reuse", action="store_true", help="keep a finished run in --out and train nothing")
    group.add_argument(
        "--dry-run", action="store_true", help="print the recipe, count parameters and images, and exit"
    )
    group.add_argument("--device", choices=DEVICES, default="auto")
    group.add_argument("--save-minutes", type=float, default=5.0, help="minutes between checkpoints (default: 5)")
    group.add_argument("--save-steps", type=int, default=0, help="steps between checkpoints, instead of minutes")
    group.add_argument(
        "--feature-cache",
        type=Path,
        help="folder of the frozen tower's cached features (default: features in GAPL_CACHE)",
    )
    group.add_argument(
        "--track",
        type=lambda names: tuple(names.split(",")),
        metavar="NAMES",
        help=f"also log to {', '.join(TRACKERS)}",
    )
    group.add_argument("--profile", action="store_true", help="print where the time of a step goes")


def _add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of the recipe."""
    group = parser.add_argument_group("recipe", "replace a field of the preset")
    types = get_type_hints(Recipe)
    for item in fields(Recipe):
        group.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=types[item.name],
            choices=item.metadata["choices"] or None,
            help=item.metadata["help"],
        )
