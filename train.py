"""Train one stage of GAPL.

    python train.py --stage 1 --preset small --backbone clip-vit-b16-int8 --data-root DIR --out runs/stage1
    python prototype/dream_prototype.py --stage1 runs/stage1/detector.safetensors --data-root DIR \\
        --out runs/prototypes.safetensors
    python train.py --stage 2 --preset small --init runs/stage1/detector.safetensors \\
        --prototypes runs/prototypes.safetensors --data-root DIR --out runs/stage2
    torchrun --nproc-per-node 8 train.py --stage 2 ...        the same on 8 processes

Stage 1 fits a projection and a classifier on a frozen CLIP tower. Stage 2 adds LoRA and the attention over
prototypes. The folder of the run then holds config.json, metrics.jsonl, curves.png and detector.safetensors.

A run that was stopped (Ctrl-C, SIGTERM, kill -9) continues when the same command is given again. On a CPU the
result is the same to the last bit.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.holdout import Split, split_images
from data.records import Images, require_both_classes
from data.seeds import draw_seed
from gapl import cli
from gapl.files.lock import alone_in
from gapl.files.refusal import check_is_file
from gapl.labels import Source
from gapl.names import BANK_FILE, DEFAULT, DETECTOR_FILE, DETECTOR_NAME
from models.device import pick_device
from models.precision import resolve_precision
from models.weights.hub import find_model
from prototype_dataset import check_data, describe, open_images
from training.arguments import TRACKERS, add_arguments
from training.recipe import Recipe, make_recipe

# Functions that work with torch import it themselves, so that a wrong option is refused at once.
if TYPE_CHECKING:
    from accelerate import Accelerator

    from models.detector import TowerHead
    from models.weights.checkpoint import Checkpoint
    from training.runs import Run
    from training.trainer import Fitted

log = logging.getLogger(__name__)

HELD_OUT_SHOWN = 20  # names; config.json has all of them


def main() -> None:
    args = parse_arguments()
    if args.reuse and (args.out / DETECTOR_NAME).exists():
        print(f"{args.out / DETECTOR_NAME} is there: reused")
        return
    recipe = make_recipe(args.preset, stage=args.stage, overrides=given_fields(args))
    check_files(args)
    device = pick_device(args.device)
    if args.dry_run:
        show_dry_run(args, recipe)
        return
    if recipe.precision == "fp16" and device == "cpu" and args.precision is None:
        log.warning("the preset's fp16 needs a GPU; on this CPU it is replaced by --precision auto")
        recipe = replace(recipe, precision="auto")
    recipe = replace(recipe, precision=resolve_precision(recipe.precision, device=device))

    from training.interrupt import Interrupted
    from training.processes import keep_freed_memory, start_processes

    if device == "cpu":
        keep_freed_memory()
    processes = start_processes(
        device=device, precision=recipe.precision, trackers=args.track or (), folder=args.out
    )
    try:
        with processes as accelerator:
            train(args, recipe, accelerator)
    except Interrupted as stop:
        if os.environ.get("RANK", "0") == "0":  # of torchrun
            again = "The same command without --overwrite" if args.overwrite else "The same command"
            print(f"stopped by {stop}; saved. {again} continues from there", file=sys.stderr)
        sys.exit(128 + stop.signal_number)


def train(args: argparse.Namespace, recipe: Recipe, accelerator: Accelerator) -> None:
    """Open the images, build the detector, fit it, and save it."""
    import torch

    from data import demo
    from training.runs import RunContext, Saving
    from training.stages import fit_stage

    world_size, rank = accelerator.num_processes, accelerator.process_index
    check_batch_size(recipe, world_size)
    with accelerator.main_process_first():  # it may copy rows of shards for all
        images = open_checked(args, recipe)
        split = split_for(images, args, recipe)
    if rank == 0:
        show_plan(args, recipe, split)

    torch.manual_seed(recipe.seed)
    start = start_detector(args, recipe)
    start.notice = demo.notice_of(images) or start.notice
    start.provenance |= provenance(args, recipe, split)
    if rank == 0:
        show_parameters(start.detector)
    else:
        torch.manual_seed(draw_seed(recipe.seed, rank))  # each process has its own dropout

    with alone_in(args.out) if rank == 0 else nullcontext():
        context = RunContext(
            accelerator,
            open_run(args, recipe, split, start, accelerator),
            Saving(args.save_minutes, args.save_steps),
            stream_parts=args.stream_parts or world_size,
            feature_cache=args.feature_cache,
            profile=args.profile,
        )
        if args.track:
            accelerator.init_trackers("gapl", config=recipe.of_stage(args.stage))
        fitted = fit_stage(start, split, recipe=recipe, context=context)
        if rank == 0:
            save_detector(start, context.run, fitted, form=args.form)
        accelerator.wait_for_everyone()


# ---------------------------------------------------------------------------------------------------------
# Images


def open_checked(args: argparse.Namespace, recipe: Recipe) -> Images:
    """Open the images. Raise ValueError for an option that the user gave and that would have no effect on them."""
    images = open_images(
        args.data,
        args.data_root,
        stage=args.stage,
        mix=args.mix,
        stream=args.stream,
        seed=recipe.seed,
        columns=args.columns,
    )
    ignored: dict[str, tuple[str, ...]] = {"a stream of shards": ("balance", "stream_parts")}
    if images.streamed:
        ignored = {"images that are not streamed": ("sampling",)}
    if recipe.feature_views:
        ignored["--feature-views 0"] = ("compile", "activation_checkpointing")
    for needed, names in ignored.items():
        for name in names:
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is only for {needed}")
    if images.streamed and recipe.feature_views:
        raise ValueError(
            "a stream of shards is read again in every epoch: pass --feature-views 0, or --stream no to copy its "
            "images to the cache of `datasets`"
        )
    return images


def split_for(images: Images, args: argparse.Namespace, recipe: Recipe) -> Split[Any]:
    """Split off the validation sets. Raise ValueError when the recipe selects by one that is empty."""
    require_both_classes(images)
    split = split_images(
        images,
        fraction=recipe.val_fraction,
        holdout=recipe.holdout_fraction,
        names=names_to_hold(args.holdout or (), images),
        max_images=recipe.max_val_images,
        seed=recipe.seed,
    )
    if recipe.select == "heldout" and not split.held:
        raise ValueError("--select heldout needs --holdout-fraction or --holdout")
    if recipe.select == "random" and split.held and not len(split.random):
        raise ValueError("--select random needs --val-fraction above 0; pass --select heldout")
    return split


def names_to_hold(holdout: Sequence[str], images: Images) -> list[str]:
    """Return the sources that --holdout names; "@FILE" names those that the training of a detector file held out.

    Raises ValueError when FILE is no detector file, or when none of its sources is here.
    """
    names = []
    for text in holdout:
        if not text.startswith("@"):
            names.append(text)
            continue
        from models.weights.checkpoint import read_checkpoint

        info = read_checkpoint(Path(text[1:])).info
        told = info.provenance.get("held_out") if info else None
        held = {Source.parse(str(each)) for each in told} if isinstance(told, list) else set()
        found = sorted(held.intersection(images.sources()))
        if not found:
            raise ValueError(f"--holdout {text}: of {len(held)} sources that it names none is here")
        if len(found) < len(held):
            log.warning("--holdout %s: %d of its %d sources are not here", text, len(held) - len(found), len(held))
        names += map(str, found)
    return names


def check_batch_size(recipe: Recipe, world_size: int) -> None:
    """Raise ValueError when the processes and their micro-batches do not divide a batch."""
    micro_batches = world_size * recipe.accumulate
    if recipe.batch_size % micro_batches:
        raise ValueError(
            f"--batch-size {recipe.batch_size} cannot be shared by {world_size} processes in {recipe.accumulate} "
            f"micro-batches each; choose a multiple of {micro_batches}"
        )


# ---------------------------------------------------------------------------------------------------------
# The detector and its run


def start_detector(args: argparse.Namespace, recipe: Recipe) -> Checkpoint:
    """Build the detector that training starts from."""
    from models.weights.backbone import load_backbone
    from prototype.bank import PrototypeBank
    from training.start import load_init, start_stage1, start_stage2

    if args.stage == 1:
        return start_stage1(recipe, backbone=load_backbone(args.backbone or DEFAULT))
    init = load_init(args.init, backbone=args.backbone, form=args.form, asked=given_fields(args))
    bank = PrototypeBank.load(args.prototypes) if args.prototypes else None
    start = start_stage2(recipe, init=init, bank=bank)
    if init.config.stage == 2:
        start.provenance["init"] = args.init
    return start


def provenance(args: argparse.Namespace, recipe: Recipe, split: Split[Any]) -> dict[str, Any]:
    """Return what the detector's file tells of its training."""
    data = {
        "name": split.training.name,
        "paths": [str(path) for path in args.data or ()],
        "columns": args.columns,
        "root": args.data_root and str(args.data_root),
        "mix": args.mix,
        "images": len(split.training),
        "streamed": split.training.streamed,
        "file_list_sha256": split.training.file_list_sha256(),
    }
    held_out = [str(source) for source in split.held]
    return {"preset": args.preset, "recipe": recipe.of_stage(args.stage), "data": data, "held_out": held_out}


def open_run(
    args: argparse.Namespace, recipe: Recipe, split: Split[Any], start: Checkpoint, accelerator: Accelerator
) -> Run:
    """Open the folder of the run: continue a run that was stopped, or start a new one."""
    from models.weights.backbone import fingerprint
    from models.weights.versions import package_versions
    from training.runs import Run

    world_size, is_main = accelerator.num_processes, accelerator.is_main_process
    parts = args.stream_parts or world_size
    start_fingerprint = fingerprint(start.detector.state_dict())
    settings = settings_of(args, recipe, split, start_fingerprint=start_fingerprint, stream_parts=parts)
    run = Run(args.out, settings=settings, writes=is_main)
    with accelerator.main_process_first():
        if args.overwrite:
            run.clear()
        else:
            run.resume()
    if is_main:
        run.write_config(
            start.provenance
            | {"detector": asdict(start.config), "device": str(accelerator.device), "processes": world_size}
            | {"versions": package_versions()}
            | {"arguments": {name: str(value) for name, value in vars(args).items() if value is not None}}
        )
    if is_main and run.state is not None:
        print(f"continuing from step {run.state.position.step} of {args.out}")
        if (before := len(run.state.random)) != world_size:
            log.warning("the run had %d processes and now has %d: dropout differs", before, world_size)
    return run


def settings_of(
    args: argparse.Namespace, recipe: Recipe, split: Split[Any], *, start_fingerprint: str, stream_parts: int
) -> dict[str, Any]:
    """Return what must be the same for a stopped run to continue: all but what changes only its speed.

    Fields of the recipe that the stage does not use are here too, as in the checkpoints of earlier versions.

    start_fingerprint   of the detector that training starts from: tower, prototypes, what the seed drew
    """
    images = split.training
    return {
        "stage": args.stage,
        **{name: value for name, value in asdict(recipe).items() if name != "num_workers"},
        "images": images.file_list_sha256(),
        "streamed": images.streamed,
        "stream_parts": stream_parts if images.streamed else 0,
        "holdout": sorted(args.holdout or ()),
        "start": start_fingerprint,
    }


def save_detector(start: Checkpoint, run: Run, fitted: Fitted, *, form: str) -> None:
    """Write the trained detector, which finishes the run."""
    from models.weights.checkpoint import save_checkpoint

    start.detector.cpu()
    start.provenance |= asdict(fitted)
    save_checkpoint(run.detector, replace(start, form=form))
    run.finish()
    size = f"{run.detector.stat().st_size / 1e6:.1f} MB"
    print(f"saved {run.detector} ({form}, {size}; epoch {fitted.epoch}, {fitted.num_steps} steps)")


# ---------------------------------------------------------------------------------------------------------
# What is shown


def show_dry_run(args: argparse.Namespace, recipe: Recipe) -> None:
    """Print the plan and count the parameters, without weights."""
    from training.start import empty_detector

    show_plan(args, recipe, split_for(open_checked(args, recipe), args, recipe))
    show_parameters(empty_detector(recipe, stage=args.stage, backbone=args.backbone, init=args.init))


def show_plan(args: argparse.Namespace, recipe: Recipe, split: Split[Any]) -> None:
    """Print the recipe and count the images."""
    fields_shown = ", ".join(f"{name} {value}" for name, value in recipe.of_stage(args.stage).items())
    print(f"stage {args.stage}, preset {args.preset}: {fields_shown}")
    streamed = ", streamed" if split.training.streamed else ""
    print(f"training on {describe(split.training)}{streamed}; validation on {len(split.random)} images")
    if split.held:
        names = [f"{source.name} ({source.label.word})" for source in split.held]
        more = f" and {len(names) - HELD_OUT_SHOWN} more" if len(names) > HELD_OUT_SHOWN else ""
        shown = ", ".join(names[:HELD_OUT_SHOWN])
        print(f"held out whole, {len(split.heldout)} images to validate on: {shown}{more}")


def show_parameters(detector: TowerHead) -> None:
    """Print the number of parameters."""
    from models.detector import count_parameters

    every, trainable = count_parameters(detector)
    print(f"{every:,} parameters, {trainable:,} trainable")


# ---------------------------------------------------------------------------------------------------------
# Arguments


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    add_arguments(parser)
    args = parser.parse_args()
    args.out = args.out or Path(f"runs/stage{args.stage}")
    check_arguments(args)
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for options that do not fit together."""
    if args.save_minutes <= 0 or args.save_steps < 0:
        raise ValueError("--save-minutes must be positive and --save-steps not negative")
    if args.stage == 1 and (args.init or args.prototypes):
        raise ValueError("--init and --prototypes are for stage 2")
    if args.stage == 2 and not args.dry_run and not args.init:
        raise ValueError("--stage 2 needs --init (stage 1's detector.safetensors) and --prototypes (a bank)")
    if args.holdout and args.holdout_fraction:
        raise ValueError("--holdout-fraction has no effect with --holdout; give one of them")
    for name in args.track or ():
        if name not in TRACKERS:
            raise ValueError(f"--track {name}: choose from {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--track {name} needs the package {name}: pip install {name}")


def check_files(args: argparse.Namespace) -> None:
    """Raise ValueError for a path that does not exist, before anything slow is imported."""
    check_data(args.data, args.data_root, stage=args.stage, mix=args.mix)
    if args.init:
        find_model(args.init)
    if args.prototypes:
        check_is_file(args.prototypes, what=BANK_FILE)
    for text in args.holdout or ():
        if text.startswith("@"):
            check_is_file(Path(text[1:]), what=DETECTOR_FILE)
    if not args.overwrite:
        check_out(args.out)


def check_out(out: Path) -> None:
    """Raise ValueError when a run would replace files in `out` that are of no run."""
    try:
        told = json.loads((out / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = None
    if (isinstance(told, dict) and "recipe" in told) or any((out / "checkpoints").glob("step_*.safetensors")):
        return  # the settings are in the checkpoints, too
    names = ("config.json", "metrics.jsonl", "validation.csv", "curves.png", "unreadable.csv", "checkpoints")
    found = [path for name in (*names, "scores_*.csv") for path in out.glob(name)]
    if found:
        raise ValueError(
            f"{found[0]} is of no run of train.py; name another --out, or pass --overwrite to replace it"
        )


def given_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the recipe that the user gave."""
    given = {item.name: getattr(args, item.name) for item in fields(Recipe)}
    return {name: value for name, value in given.items() if value is not None}


if __name__ == "__main__":
    cli.run(main)
