"""Trains one stage of GAPL.

    python train.py --stage 1 --preset small --backbone clip-vit-b16-int8 --data-root DIR --out runs/stage1
    python prototype/dream_prototype.py --stage1 runs/stage1/detector.safetensors --data-root DIR \\
        --out runs/prototypes.safetensors
    python train.py --stage 2 --preset small --init runs/stage1/detector.safetensors \\
        --prototypes runs/prototypes.safetensors --data-root DIR --out runs/stage2

Stage 1 fits a projection and a classifier on a frozen CLIP tower. Stage 2 adds LoRA and the attention over
prototypes. The folder of the run then holds config.json, metrics.jsonl and detector.safetensors.

Shape suffixes: B batch, C channels, H, W pixels, D tower width, N images.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cli
from data import demo
from data.augment import train_view
from data.loaders import Batch, batches_per_epoch, epoch_order, ordered_batches, train_batches
from data.records import Manifest, require_both_classes
from data.transforms import draw_seed, eval_view
from evaluation.metrics import compute_metrics, metrics_of
from evaluation.predict import predict
from models import backbone
from models.adapt import add_lora, cast_frozen_linears, count_parameters
from models.checkpoint import (
    FORMS,
    Checkpoint,
    load_checkpoint,
    package_versions,
    read_checkpoint,
    save_checkpoint,
)
from models.config import IMAGENET_MEAN, IMAGENET_STD, DetectorConfig, LoraSpec, PixelSpec
from models.detector import PrototypeDetector, TowerHead, build_detector
from models.hub import find_model
from models.official import PROTOTYPES
from prototype.bank import PrototypeBank
from prototype_dataset import add_data_arguments, describe, open_data
from training.features import compute_features, feature_batches
from training.loop import DTYPES, Fitted, autocast, fit, resolve_precision
from training.recipe import PRESET_NAMES, Recipe, make_recipe
from training.runs import DETECTOR, Run

log = logging.getLogger(__name__)


def main() -> None:
    args = parse_arguments()
    if args.reuse and (args.out / DETECTOR).exists():
        return print(f"{args.out / DETECTOR} is there: reused")
    recipe = make_recipe(args.preset, stage=args.stage, overrides=recipe_overrides(args))
    device = cli.pick_device(args.device)
    manifest = open_data(args.data, args.data_root, stage=args.stage, mix=args.mix, seed=recipe.seed)
    require_both_classes(manifest)
    training, validation = manifest.split(recipe.val_fraction, seed=recipe.seed)
    print(f"stage {args.stage}, preset {args.preset}: " + ", ".join(f"{k} {v}" for k, v in asdict(recipe).items()))
    print(f"training on {describe(training)}; validation on {len(validation)} images")
    if args.dry_run:
        return print_parameters(dry_detector(args, recipe))

    if recipe.precision == "fp16" and device == "cpu" and args.precision is None:
        log.warning("the preset's fp16 needs a GPU; on this CPU: --precision auto")
        recipe = replace(recipe, precision="auto")
    recipe = replace(recipe, precision=resolve_precision(recipe.precision, device=device))
    torch.manual_seed(recipe.seed)
    start = start_stage1(args, recipe) if args.stage == 1 else start_stage2(args, recipe)
    print_parameters(start.detector)
    run = Run(args.out, overwrite=args.overwrite)
    data = {
        "name": manifest.name,
        "paths": [str(path) for path in args.data or ()],
        "root": args.data_root and str(args.data_root),
        "mix": args.mix,
        "images": len(training),
        "file_list_sha256": training.file_list_sha256(),
    }
    start.notice = demo.notice_of(manifest)
    start.provenance |= {"preset": args.preset, "recipe": asdict(recipe), "data": data}
    run.write_config(
        start.provenance
        | {"detector": start.config.to_json(), "device": device, "versions": package_versions()}
        | {"arguments": {name: str(value) for name, value in vars(args).items() if value is not None}}
    )

    train_stage = fit_features if args.stage == 1 and recipe.feature_views else fit_images
    frozen = frozen_tensors(start.detector)
    fitted = train_stage(start.detector.to(device), start.config.pixel, training, validation, recipe, run, device)

    start.detector.cpu()
    start.detector.load_state_dict(start.detector.state_dict() | frozen, assign=True)
    start.provenance |= asdict(fitted)
    save_checkpoint(run.detector, replace(start, form=args.form))
    size_mb = run.detector.stat().st_size / 1e6
    print(f"saved {run.detector} ({args.form}, {size_mb:.1f} MB; epoch {fitted.epoch}, {fitted.num_steps} steps)")


# ---------------------------------------------------------------------------------------------------------
# Arguments and data


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    parser.add_argument("--preset", default="paper", help=f"{', '.join(PRESET_NAMES)} (default: paper)")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/stage1 or runs/stage2)")
    add_data_arguments(parser)
    parser.add_argument(
        "--backbone", help=f"{backbone.HELP}; stage 2 has that of stage 1, where the authors' stage1.pt has none"
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
    if args.stage == 1 and (args.init or args.prototypes):
        raise ValueError("--init and --prototypes are for stage 2")
    if args.stage == 2 and not args.dry_run and not args.init:
        raise ValueError("--stage 2 needs --init (stage 1's detector.safetensors) and --prototypes (a bank)")
    return args


def recipe_overrides(args: argparse.Namespace) -> dict[str, Any]:
    given = {item.name: getattr(args, item.name) for item in fields(Recipe)}
    return {name: value for name, value in given.items() if value is not None}


# ---------------------------------------------------------------------------------------------------------
# The detector that training starts from


def start_stage1(args: argparse.Namespace, recipe: Recipe) -> Checkpoint:
    source = backbone.load_backbone(args.backbone or backbone.DEFAULT)
    pixel = source.pixel
    if recipe.normalisation == "imagenet":
        pixel = replace(pixel, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    config = DetectorConfig(1, source.name, source.tower.spec, pixel)
    print_of_tower = backbone.fingerprint(source.tower.state_dict())
    return Checkpoint(build_detector(config, source.tower), config, print_of_tower)


def start_stage2(args: argparse.Namespace, recipe: Recipe) -> Checkpoint:
    """From stage 1's projection and a bank; or from a stage-2 detector, which training goes on with."""
    first = load_checkpoint(
        find_model(args.init), merge=False, backbone=args.backbone, allow_tiny=True, allow_projection=True
    )
    inside = first.form in ("full", "merged", "official")
    if args.backbone and (inside or (first.form == "adapter" and args.backbone != first.config.backbone)):
        raise ValueError(f"--backbone {args.backbone}: {args.init} has {first.config.backbone or 'its own tower'}")
    if args.form == "adapter" and (first.form == "merged" or not first.config.backbone):
        whose = "merged tower" if first.form == "merged" else "tower without a name"
        raise ValueError(
            f"--init {args.init}: a {whose} is no backbone that an adapter could name; pass --form full"
        )
    if inside and args.form == "adapter":
        log.warning("to be used, the adapter will need %s; --form full needs nothing else", first.config.backbone)
    if (recipe.normalisation == "imagenet") != (first.config.pixel.mean == IMAGENET_MEAN):
        raise ValueError(
            f"--normalisation {recipe.normalisation}: stage 1 in {args.init} was trained with another; "
            "both stages and the prototypes need the same"
        )
    return continue_stage2(args, recipe, first) if first.config.stage == 2 else begin_stage2(args, recipe, first)


def begin_stage2(args: argparse.Namespace, recipe: Recipe, first: Checkpoint) -> Checkpoint:
    if args.prototypes is None:
        raise ValueError(
            f"--init {args.init} is stage 1's: --prototypes (a bank of dream_prototype.py) is needed too"
        )
    bank = load_bank(args, first)
    lora = LoraSpec(recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout)
    config = replace(first.config, stage=2, num_prototypes=len(bank.vectors_PE), lora=lora)
    detector = build_detector(config, first.detector.tower)
    detector.project.load_state_dict(first.detector.project.state_dict())
    detector.load_state_dict(detector.state_dict() | {PROTOTYPES: bank.vectors_PE})
    provenance = {"prototypes": bank.facts()}
    return Checkpoint(detector, config, first.backbone_fingerprint, provenance=provenance)


def continue_stage2(args: argparse.Namespace, recipe: Recipe, first: Checkpoint) -> Checkpoint:
    """All weights are kept, and the LoRA that they have; --prototypes replaces the bank."""
    config, detector, print_of_tower = first.config, first.detector, first.backbone_fingerprint
    if config.lora is None:  # merged, and so no longer the tower of that name
        print_of_tower = backbone.fingerprint(detector.tower.state_dict())
        config = replace(config, lora=LoraSpec(recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout))
        assert config.lora
        add_lora(detector.tower, config.lora)
    elif different := [name for name in ("rank", "alpha", "dropout") if changes(args, config.lora, name)]:
        raise ValueError(
            f"--lora-{different[0]} {getattr(args, f'lora_{different[0]}')}: {args.init} has LoRA of rank "
            f"{config.lora.rank}, alpha {config.lora.alpha} and dropout {config.lora.dropout}, and it is kept"
        )
    provenance = {"init": args.init, "prototypes": first.provenance.get("prototypes", {})}
    if args.prototypes:
        bank = load_bank(args, first)
        assert isinstance(detector, PrototypeDetector)
        detector.prototypes_PE = bank.vectors_PE.clone()
        provenance["prototypes"] = bank.facts()
        config = replace(config, num_prototypes=len(bank.vectors_PE))
    return Checkpoint(detector, config, print_of_tower, first.threshold, first.notice, provenance)


def changes(args: argparse.Namespace, lora: LoraSpec, name: str) -> bool:
    """Whether the user, and not the preset, asks for another value than the file's LoRA has."""
    given = getattr(args, f"lora_{name}")
    return given is not None and given != getattr(lora, name)


def load_bank(args: argparse.Namespace, first: Checkpoint) -> PrototypeBank:
    bank = PrototypeBank.load(args.prototypes)
    embed_dim = bank.vectors_PE.shape[1]
    if embed_dim != first.config.embed_dim:
        raise ValueError(
            f"--prototypes {args.prototypes}: vectors of {embed_dim} dimensions, but the embeddings of "
            f"{args.init} have {first.config.embed_dim}"
        )
    return bank


def dry_detector(args: argparse.Namespace, recipe: Recipe) -> TowerHead:
    """The detector's modules without weights: enough to count."""
    lora = LoraSpec(recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout)
    known = read_checkpoint(find_model(args.init)).config if args.init else None
    name = args.backbone or (known.backbone if known else backbone.DEFAULT)
    spec = known.tower if known else backbone.architecture(name)
    pixel = PixelSpec(size_px=spec.image_size)
    return build_detector(DetectorConfig(args.stage, name, spec, pixel, num_prototypes=64, lora=lora))


def frozen_tensors(detector: TowerHead) -> dict[str, Tensor]:
    """What training does not change, as it is: meanwhile it may be kept in a shorter type."""
    trained = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in detector.state_dict().items() if name not in trained}


def print_parameters(detector: TowerHead) -> None:
    every, trainable = count_parameters(detector)
    print(f"{every:,} parameters, {trainable:,} trainable")


# ---------------------------------------------------------------------------------------------------------
# Fitting


def fit_images(
    detector: TowerHead,
    pixel: PixelSpec,
    training: Manifest,
    validation: Manifest,
    recipe: Recipe,
    run: Run,
    device: str,
) -> Fitted:
    """Every epoch draws new random views and takes them through the tower: the recipe as published."""
    if recipe.precision in DTYPES:
        cast_frozen_linears(detector.tower, DTYPES[recipe.precision])
    view = train_view(recipe.train_view, size_px=pixel.size_px, mean=pixel.mean, std=pixel.std)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = train_batches(
            training,
            view,
            batch_size=recipe.batch_size,
            num_workers=recipe.num_workers,
            sampling=recipe.sampling,
            seed=recipe.seed,
            epoch=epoch,
        )
        for batch in readable(loader, run):
            yield batch.pixels_BCHW, batch.labels_B

    def validate() -> dict[str, Any]:
        loader = readable(validation_batches(validation, pixel, recipe), run)
        with autocast(device, recipe.precision):
            rows = predict(detector, loader, device=device, total=len(validation), desc="validate")
        return asdict(metrics_of(rows))

    return fit(
        detector,
        forward=lambda pixels_BCHW: detector(pixels_BCHW).logit_B,
        batches=batches,
        num_batches=batches_per_epoch(len(training), recipe.batch_size),
        validate=validate if len(validation) else None,
        recipe=recipe,
        run=run,
        device=device,
    )


def fit_features(
    detector: TowerHead,
    pixel: PixelSpec,
    training: Manifest,
    validation: Manifest,
    recipe: Recipe,
    run: Run,
    device: str,
) -> Fitted:
    """Stage 1 on features: the tower is frozen, so `feature_views` random views go through it just once."""
    view = train_view(recipe.train_view, size_px=pixel.size_px, mean=pixel.mean, std=pixel.std)
    options = {"batch_size": recipe.batch_size, "num_workers": recipe.num_workers}

    def features_of(loader: Iterable[Batch], manifest: Manifest, desc: str) -> tuple[Tensor, Manifest]:
        with autocast(device, recipe.precision):
            features_ND, records = compute_features(
                detector.feature, loader, device=device, total=len(manifest), desc=desc
            )
        return features_ND, Manifest(manifest.name, tuple(records))

    views_VND = []
    for number in range(recipe.feature_views):
        loader = ordered_batches(training, view, seed=draw_seed(recipe.seed, number), **options)
        # The first pass names what cannot be read and leaves it out of the others.
        features_ND, training = features_of(readable(loader, run), training, f"features, view {number + 1}")
        views_VND.append(features_ND)
    require_both_classes(training)
    labels_N = torch.tensor([float(record.label) for record in training])

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = epoch_order(training, sampling=recipe.sampling, seed=draw_seed(recipe.seed, epoch))
        features_ND = views_VND[epoch % recipe.feature_views]
        return feature_batches(features_ND, labels_N, order, batch_size=recipe.batch_size)

    validate = None
    if len(validation):
        val_batches = readable(validation_batches(validation, pixel, recipe), run)
        val_ND, validation = features_of(val_batches, validation, "features, validation")
        val_labels_N = torch.tensor([int(record.label) for record in validation])

        def validate() -> dict[str, Any]:
            detector.eval()
            with torch.inference_mode():
                score_N = detector.head(val_ND.to(device)).logit_B.sigmoid().cpu()
            return asdict(compute_metrics(val_labels_N.numpy(), score_N.numpy(), threshold=0.5))

    return fit(
        detector,
        forward=lambda feature_BD: detector.head(feature_BD).logit_B,
        batches=batches,
        num_batches=batches_per_epoch(len(training), recipe.batch_size),
        validate=validate,
        recipe=recipe,
        run=run,
        device=device,
    )


def validation_batches(validation: Manifest, pixel: PixelSpec, recipe: Recipe) -> Iterable[Batch]:
    view = eval_view(**asdict(replace(pixel, resize_px=recipe.val_resize_px or pixel.resize_px)))
    return ordered_batches(validation, view, batch_size=recipe.batch_size, num_workers=recipe.num_workers)


def readable(batches: Iterable[Batch], run: Run) -> Iterator[Batch]:
    """The batches without those images that cannot be read, which are named in the run's unreadable.csv."""
    for batch in batches:
        for failure in batch.failures:
            if run.log_unreadable(failure.record.uri, failure.reason):
                log.warning("left out %s: %s", failure.record.uri, failure.reason)
        if batch.records:
            yield batch


if __name__ == "__main__":
    cli.run(main)
