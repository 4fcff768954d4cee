"""Trains one stage of GAPL.

    python train.py --stage 1 --preset small --backbone clip-vit-b16-int8 --data-root DIR --out runs/stage1
    python prototype/dream_prototype.py --stage1 runs/stage1/detector.safetensors --data-root DIR \\
        --out runs/prototypes.safetensors
    python train.py --stage 2 --preset small --init runs/stage1/detector.safetensors \\
        --prototypes runs/prototypes.safetensors --data-root DIR --out runs/stage2
    torchrun --nproc-per-node 8 train.py --stage 2 ...        the same on 8 processes

Stage 1 fits a projection and a classifier on a frozen CLIP tower. Stage 2 adds LoRA and the attention over
prototypes. The folder of the run then holds config.json, metrics.jsonl, curves.png and detector.safetensors.

A run that was stopped (Ctrl-C, SIGTERM, kill -9) is continued by the same command, exactly: on a CPU the result is
the same to the last bit.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import cli
from data import demo
from data.holdout import Split, split_images
from data.records import Images, require_both_classes
from data.seeds import draw_seed
from features.store import add_cache_argument
from models.precision import resolve_precision
from models.weights.backbone import fingerprint
from models.weights.checkpoint import save_checkpoint
from models.weights.names import BACKBONE_HELP, DETECTOR_NAME, FORMS
from models.weights.versions import package_versions
from prototype_dataset import STREAM_FROM_BYTES, add_data_arguments, describe, open_data, open_shards
from training.interrupt import Interrupted
from training.loop import Saving
from training.processes import TRACKERS, keep_freed_memory, start_processes
from training.recipe import PRESET_NAMES, Recipe, make_recipe
from training.runs import Run
from training.stages import Bench, fit_features, fit_images
from training.start import dry_detector, print_parameters, start_stage1, start_stage2

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

HELD_OUT_SHOWN = 20  # names; config.json has all of them


def main() -> None:
    args = parse_arguments()
    if args.reuse and (args.out / DETECTOR_NAME).exists():
        return print(f"{args.out / DETECTOR_NAME} is there: reused")
    recipe = make_recipe(args.preset, stage=args.stage, overrides=recipe_overrides(args))
    device = cli.pick_device(args.device)
    if args.dry_run:
        split = split_checked(open_images(args, recipe), args, recipe)
        print_plan(args, recipe, split)
        return print_parameters(dry_detector(args, recipe))
    if recipe.precision == "fp16" and device == "cpu" and args.precision is None:
        log.warning("the preset's fp16 needs a GPU; on this CPU: --precision auto")
        recipe = replace(recipe, precision="auto")
    recipe = replace(recipe, precision=resolve_precision(recipe.precision, device=device))
    if device == "cpu":
        keep_freed_memory()
    trackers = tuple(args.track.split(",")) if args.track else ()
    try:
        with start_processes(
            device=device, precision=recipe.precision, trackers=trackers, folder=args.out
        ) as accelerator:
            train(args, recipe, accelerator)
    except Interrupted as stop:
        if os.environ.get("RANK", "0") == "0":  # of torchrun
            print(f"stopped by {stop}; saved. The same command goes on from there", file=sys.stderr)
        sys.exit(128 + stop.signal_number)


def train(args: argparse.Namespace, recipe: Recipe, accelerator: Accelerator) -> None:
    world, is_main = accelerator.num_processes, accelerator.is_main_process
    if recipe.batch_size % (world * recipe.accumulate):
        raise ValueError(
            f"--batch-size {recipe.batch_size} cannot be shared by {world} processes in "
            f"{recipe.accumulate} pieces each; choose a multiple of {world * recipe.accumulate}"
        )
    with accelerator.main_process_first():  # which may make copies of rows of shards for all
        images = open_images(args, recipe)
        split = split_checked(images, args, recipe)
    if is_main:
        print_plan(args, recipe, split)
    torch.manual_seed(recipe.seed)
    start = start_stage1(args, recipe) if args.stage == 1 else start_stage2(args, recipe)
    if is_main:
        print_parameters(start.detector)

    data = describe_data(args, split)
    start.notice = demo.notice_of(images)
    held_out = [str(source) for source in split.held]
    start.provenance |= {"preset": args.preset, "recipe": asdict(recipe), "data": data, "held_out": held_out}
    parts = args.stream_parts or world
    settings = settings_of(args, recipe, data, fingerprint(start.detector.state_dict()), parts)
    with accelerator.main_process_first():
        run = Run(args.out, settings=settings, overwrite=args.overwrite, writes=is_main)
    if is_main:
        run.write_config(
            start.provenance
            | {"detector": start.config.to_json(), "device": str(accelerator.device), "processes": world}
            | {"versions": package_versions()}
            | {"arguments": {name: str(value) for name, value in vars(args).items() if value is not None}}
        )
    if run.state is not None and is_main:
        before = len(run.state.random)
        print(f"going on from step {run.state.position.step} of {args.out}")
        if before != world:
            log.warning("it was %d processes, and is %d: dropout goes on differently", before, world)
    if args.track:
        accelerator.init_trackers("gapl", config=dict(asdict(recipe)))
    if accelerator.process_index:
        torch.manual_seed(draw_seed(recipe.seed, accelerator.process_index))  # each has its own dropout

    bench = Bench(
        accelerator,
        run,
        start.backbone_fingerprint,
        args.feature_cache,
        parts,
        Saving(args.save_minutes, args.save_steps),
        args.profile,
    )
    if recipe.feature_views and start.config.lora:
        raise ValueError(f"--feature-views needs a frozen tower, and that of {args.init} has LoRA")
    fit_stage = fit_features if recipe.feature_views else fit_images
    fitted = fit_stage(start.detector.to(accelerator.device), start.config.pixel, split, recipe, bench)

    if is_main:
        start.detector.cpu()
        start.provenance |= asdict(fitted)
        save_checkpoint(run.detector, replace(start, form=args.form))
        run.finish()
        size = f"{run.detector.stat().st_size / 1e6:.1f} MB"
        print(f"saved {run.detector} ({args.form}, {size}; epoch {fitted.epoch}, {fitted.num_steps} steps)")
    accelerator.wait_for_everyone()


# ---------------------------------------------------------------------------------------------------------
# Images


def open_images(args: argparse.Namespace, recipe: Recipe) -> Images:
    """Shards are streamed when they are on a server, larger than STREAM_FROM_BYTES, or --stream asks for it."""
    index = None
    if args.stream != "no":
        index = open_shards(args.data, args.data_root, stage=args.stage, mix=args.mix)
    if index is not None and args.stream == "auto":
        index = index if index.image_bytes() > STREAM_FROM_BYTES or index.is_remote() else None
    if index is None and args.stream == "yes":
        raise ValueError("--stream yes: the images are not in parquet shards")
    if index is not None and recipe.feature_views:
        raise ValueError(
            "a stream of shards is read anew at every epoch: pass --feature-views 0, or --stream no to copy its "
            "images to the cache of `datasets`"
        )
    refuse_without_effect(args, recipe, streamed=index is not None)
    if index is not None:
        return index
    return open_data(args.data, args.data_root, stage=args.stage, mix=args.mix, seed=recipe.seed)


def refuse_without_effect(args: argparse.Namespace, recipe: Recipe, *, streamed: bool) -> None:
    """Raises ValueError for an option that the user gave and that this way of training would ignore."""
    where = {
        "a stream of shards": not streamed and ("balance", "stream_parts"),
        "images that are not streamed": streamed and ("sampling",),
        "--feature-views 0": recipe.feature_views and ("compile", "activation_checkpointing"),
    }
    for needed, names in where.items():
        for name in names or ():
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is only for {needed}")


def split_checked(images: Images, args: argparse.Namespace, recipe: Recipe) -> Split[Any]:
    require_both_classes(images)
    parts = split_images(
        images,
        fraction=recipe.val_fraction,
        holdout=recipe.holdout_fraction,
        names=args.holdout or (),
        max_images=recipe.max_val_images,
        seed=recipe.seed,
    )
    if recipe.select == "heldout" and not parts.held:
        raise ValueError("--select heldout needs --holdout-fraction or --holdout")
    if recipe.select == "random" and parts.held and not len(parts.random):
        raise ValueError("--select random needs --val-fraction above 0; pass --select heldout")
    return parts


def print_plan(args: argparse.Namespace, recipe: Recipe, split: Split[Any]) -> None:
    print(f"stage {args.stage}, preset {args.preset}: " + ", ".join(f"{k} {v}" for k, v in asdict(recipe).items()))
    streamed = ", streamed" if split.training.streamed else ""
    print(f"training on {describe(split.training)}{streamed}; validation on {len(split.random)} images")
    if split.held:
        names = [f"{source.name} ({source.label.word})" for source in split.held]
        more = f" and {len(names) - HELD_OUT_SHOWN} more" if len(names) > HELD_OUT_SHOWN else ""
        shown = ", ".join(names[:HELD_OUT_SHOWN])
        print(f"held out whole, {len(split.heldout)} images to validate on: {shown}{more}")


def describe_data(args: argparse.Namespace, split: Split[Any]) -> dict[str, Any]:
    return {
        "name": split.training.name,
        "paths": [str(path) for path in args.data or ()],
        "root": args.data_root and str(args.data_root),
        "mix": args.mix,
        "images": len(split.training),
        "streamed": split.training.streamed,
        "file_list_sha256": split.training.file_list_sha256(),
    }


def settings_of(
    args: argparse.Namespace, recipe: Recipe, data: dict[str, Any], start: str, parts: int
) -> dict[str, Any]:
    """What a run must have kept to be gone on with; not what changes only how fast it is.

    start   fingerprint of the detector that training starts from: tower, prototypes, what was drawn with the seed
    """
    return {
        "stage": args.stage,
        **{name: value for name, value in asdict(recipe).items() if name != "num_workers"},
        "images": data["file_list_sha256"],
        "streamed": data["streamed"],
        "stream_parts": parts if data["streamed"] else 0,
        "holdout": sorted(args.holdout or ()),
        "start": start,
    }


# ---------------------------------------------------------------------------------------------------------
# Arguments


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    parser.add_argument("--preset", default="paper", help=f"{', '.join(PRESET_NAMES)} (default: paper)")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/stage1 or runs/stage2)")
    add_data_arguments(parser)
    parser.add_argument(
        "--backbone", help=f"{BACKBONE_HELP}; stage 2 has that of stage 1, where the authors' stage1.pt has none"
    )
    parser.add_argument(
        "--init",
        help="stage 2: detector file of stage 1 or the authors' stage1.pt; or one of stage 2 or the authors' "
        "checkpoint.pt, to go on from",
    )
    parser.add_argument(
        "--prototypes", type=Path, help="stage 2: bank of dream_prototype.py, or the authors' pca_3type_num64.pt"
    )
    parser.add_argument(
        "--form", choices=FORMS, default="adapter", help="what is saved: what trained, all, or all without LoRA"
    )
    parser.add_argument("--device", choices=cli.DEVICES, default="auto")
    parser.add_argument(
        "--holdout",
        nargs="+",
        metavar="NAME",
        help="generators and photo sources to validate on; of a name that both have, real:NAME or fake:NAME",
    )
    add_stream_arguments(parser)
    add_running_arguments(parser)
    add_cache_argument(parser)
    finished = parser.add_mutually_exclusive_group()
    finished.add_argument("--overwrite", action="store_true", help="replace a finished run in --out")
    finished.add_argument("--reuse", action="store_true", help="keep a finished run in --out and train nothing")
    parser.add_argument("--dry-run", action="store_true", help="print recipe, parameter and data counts; exit")
    group = parser.add_argument_group("recipe", "any field of the preset, replaced")
    for item in fields(Recipe):
        option = "--" + item.name.replace("_", "-")
        kind = {"int": int, "float": float, "str": str}[str(item.type)]
        group.add_argument(option, type=kind, choices=item.metadata["choices"], help=item.metadata["help"])
    args = parser.parse_args()
    args.out = args.out or Path(f"runs/stage{args.stage}")
    if args.save_minutes <= 0 or args.save_steps < 0:
        raise ValueError("--save-minutes must be positive and --save-steps not negative")
    if args.stage == 1 and (args.init or args.prototypes):
        raise ValueError("--init and --prototypes are for stage 2")
    if args.stage == 2 and not args.dry_run and not args.init:
        raise ValueError("--stage 2 needs --init (stage 1's detector.safetensors) and --prototypes (a bank)")
    return args


def add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("stream of shards")
    group.add_argument(
        "--stream",
        choices=("auto", "yes", "no"),
        default="auto",
        help="read parquet shards in passing instead of copying their images (auto: from a server, or from "
        f"{STREAM_FROM_BYTES >> 30} GB)",
    )
    group.add_argument(
        "--stream-parts", type=int, metavar="N", help="of the order of images (default: the number of processes)"
    )


def add_running_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument("--save-minutes", type=float, default=5.0, help="between checkpoints (default: 5)")
    group.add_argument("--save-steps", type=int, default=0, help="instead: steps between checkpoints")
    group.add_argument("--track", metavar="NAMES", help=f"also log to {', '.join(TRACKERS)}")
    group.add_argument("--profile", action="store_true", help="print where the time of a step goes")


def recipe_overrides(args: argparse.Namespace) -> dict[str, Any]:
    given = {item.name: getattr(args, item.name) for item in fields(Recipe)}
    return {name: value for name, value in given.items() if value is not None}


if __name__ == "__main__":
    cli.run(main)
